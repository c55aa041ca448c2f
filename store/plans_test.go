package store

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// small are the tables that stay small, the indexes of what is few or ought to
// be, and what a LIMIT has found: a scan of them is no fault.
var small = regexp.MustCompile(`SCAN (issuers|i|schema_migrations|sqlite_master|authority|brokers|b|found|revocations USING INDEX revocations_open)\b`)

// mostRows are the lists whose condition holds for most rows, or (expired) for
// those that come last: they are read in the order of time.
var mostRows = regexp.MustCompile(`FROM certificates WHERE status = 'good' AND not_after (<|>=) \$1( AND|$| ORDER)|FROM sessions .* WHERE s\.expires_at > `)

// The contract holds, and every statement that it runs finds its rows and its
// order by an index, whatever the size of the tables.
func TestSQLite(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]bool{}
	t.Run("contract", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) enroll.Store {
			s := openTemp(t)
			t.Cleanup(func() {
				e := s.db.(*sqliteEngine)
				for _, from := range []*statements{e.reads, e.writes} {
					for _, text := range from.texts() {
						mu.Lock()
						again := seen[text]
						seen[text] = true
						mu.Unlock()
						if !again {
							checkPlan(t, e, text)
						}
					}
				}
			})
			return s
		})
	})
	if len(seen) < 50 {
		t.Errorf("only %d statements were seen", len(seen))
	}
}

// texts returns every statement that was run.
func (s *statements) texts() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []string
	for text := range s.ready {
		all = append(all, text)
	}
	for text := range s.missed {
		all = append(all, text)
	}
	return all
}

// background are the counts that nobody waits for: they read indexes, all of
// them.
var background = regexp.MustCompile(`AS counted FROM`)

func checkPlan(t *testing.T, e *sqliteEngine, text string) {
	verb, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	if verb != "SELECT" && verb != "UPDATE" && verb != "DELETE" {
		return
	}
	args := make([]any, strings.Count(text, "$"))
	type node struct {
		id, parent int64
		detail     string
	}
	plan, err := collect(context.Background(), sqlQuerier{e.readers, nil, newStatements(e.readers)}, func(row scanner) (n node, err error) {
		var unused int64
		err = row.Scan(&n.id, &n.parent, &unused, &n.detail)
		return n, err
	}, "EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
	// What a page looks at row by row was found in order by an index; here it
	// may be read through, and sorted again.
	bounded := strings.Contains(text, "AS scanned")
	var inner int64 = -1
	for _, n := range plan {
		line := n.detail
		if bounded && (line == "CO-ROUTINE scanned" || line == "MATERIALIZE scanned") {
			inner = n.id
		}
		if bounded && (n.parent != inner && (line == "SCAN scanned" || line == "USE TEMP B-TREE FOR ORDER BY") ||
			n.parent == inner && !strings.Contains(line, "TEMP B-TREE")) {
			continue
		}
		scan := strings.HasPrefix(line, "SCAN") && line != "SCAN CONSTANT ROW" && !small.MatchString(line) && !mostRows.MatchString(text)
		scan = scan && !background.MatchString(text)
		scan = scan && (strings.Contains(text, "WHERE") || !strings.Contains(text, "LIMIT")) // a first page reads no more than it shows
		if scan || strings.Contains(line, "TEMP B-TREE") && !strings.Contains(text, "river_job") && !strings.Contains(text, "FROM issuers") && !background.MatchString(text) {
			t.Errorf("%s\n%s", line, text)
		}
	}
}
