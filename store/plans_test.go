package store

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// small are the tables that stay small, what a statement counts out for itself, the indexes of what is few or ought to
// be, and what a LIMIT has found: a scan of them is no fault.
var small = regexp.MustCompile(`SCAN (issuers|i|trust_bundles|cross_certificates|scopes|m|schema_migrations|sqlite_master|authority|brokers|broker_drivers|b|profiles|each|found|revocations USING INDEX revocations_open)\b`)

// exemptions are the lists that read more rows than they show, in the order of
// an index, and why they may.
var exemptions = []struct {
	list *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`FROM certificates WHERE status = 'good' AND not_after >= \$1( AND|$| ORDER)`),
		"most certificates are good and not expired: in the order of time nearly every row that is read is shown"},
	{regexp.MustCompile(`^SELECT (d\.id|count\(\*\)) FROM devices d WHERE d\.status IN`),
		"a person asks whether a root can be dropped, rarely: every device is looked at, once to count and at worst once to name some"},
	{regexp.MustCompile(`^SELECT count\(\*\) FROM devices WHERE status = \$1`),
		"a person asks for a share of the whole fleet, rarely, and it is counted along an index"},
	{regexp.MustCompile(`FROM sessions .* WHERE s\.expires_at > `),
		"sessions that ended are deleted: nearly every row that is read is shown"},
}

// exempt reports whether a statement is one of exemptions.
func exempt(text string) bool {
	for _, e := range exemptions {
		if e.list.MatchString(text) {
			return true
		}
	}
	return false
}

// manyRows fills the tables that grow with 100,000 rows each, on PostgreSQL;
// manyRowsOnSQLite is the same there.
const manyRows = `
	INSERT INTO issuers (id, ordinal, purpose, state, der, parent, key_uri, status_urls) VALUES ('device', 0, 'device', 'active', '\x', 'device', '', '[]') ON CONFLICT DO NOTHING;
	INSERT INTO crls (issuer_id, number, this_update, next_update, entries, scheduled, der, shard) SELECT 'device', n, n, n, 0, n % 2, '\x00', n % 500 FROM generate_series(1, 100000) AS n;
	INSERT INTO certificates (serial, recorded_at, sha256, subject, names, issuer_id, profile, holder_kind, holder_id, status, reason, revoked_at, not_before, not_after, key_sha256, cdp, der)
		SELECT md5(n::text), n, md5(n::text), 'CN=d' || n, '[]', 'device', 'device', 'device', 'd' || n,
			CASE WHEN n % 50 = 0 THEN 'revoked' ELSE 'good' END, CASE WHEN n % 50 = 0 THEN 'superseded' ELSE '' END, CASE WHEN n % 50 = 0 THEN n ELSE 0 END, 0, n, md5(n::text), '', '\x00'
		FROM generate_series(1, 100000) AS n;
	INSERT INTO keys (sha256, holder_kind, holder_id) SELECT md5(n::text), 'device', 'd' || n FROM generate_series(1, 100000) AS n;
	INSERT INTO devices (id, status, group_name, attributes, work_order, trust_generation, created_at, last_seen_at, enrolled_at, not_after)
		SELECT 'd' || n, CASE WHEN n % 50 = 0 THEN 'revoked' ELSE 'active' END, 'g' || n % 500, '{}', 'w' || n % 500, 1, n, n, n, CASE WHEN n % 50 = 0 THEN 0 ELSE n END FROM generate_series(1, 100000) AS n;
	INSERT INTO events (id, at, actor, action, subject, canonical, leaf_hash)
		SELECT md5(n::text), n, 'actor' || n % 500, 'action' || n % 500, 'device:d' || n, '\x00', decode(repeat('00', 32), 'hex') FROM generate_series(1, 100000) AS n;
	INSERT INTO idempotency (scope, key_sha256, request_hash, serial, answer, created_at)
		SELECT 'scope' || n % 10, decode(md5(n::text), 'hex'), '\x00', md5(n::text), NULL, n FROM generate_series(1, 100000) AS n;
	INSERT INTO revocations (id, device, reason, comment, state, serials, steps, evidence, at, attempts, version)
		SELECT md5(n::text), 'd' || n, 'superseded', '', 'proven', '[]', '[]', '', n, 1, 1 FROM generate_series(1, 100000) AS n;
	INSERT INTO work_orders (id, product, quantity, issued, profile, state, created_at)
		SELECT 'w' || n, 'p', 10, 1, 'device', 'open', n FROM generate_series(1, 100000) AS n;
	INSERT INTO enrollment_tokens (id, hash, work_order, device_id, uses, used, expires_at, created_at)
		SELECT md5(n::text), decode(md5(n::text), 'hex'), 'w' || n % 500, '', 2, 1, n, n FROM generate_series(1, 100000) AS n;
	INSERT INTO token_uses (token_id, request_hash, serial) SELECT md5(n::text), '\x00', md5(n::text) FROM generate_series(1, 100000) AS n;
	INSERT INTO api_tokens (id, name, role, hash, created_at, expires_at, disabled)
		SELECT md5(n::text), '', 'factory', decode(md5(n::text), 'hex'), n, n, 0 FROM generate_series(1, 100000) AS n;
	INSERT INTO users (name, role, password_hash, disabled, created_at, changed_at, last_login_at) SELECT 'u' || n, 'operator', '', 0, n, n, 0 FROM generate_series(1, 100000) AS n;
	INSERT INTO sessions (id, hash, user_name, address, agent, second_factor, created_at, seen_at, expires_at)
		SELECT md5(n::text), decode(md5(n::text), 'hex'), 'u' || n, '', '', 0, n, n, n FROM generate_series(1, 100000) AS n;
	INSERT INTO login_failures (subject, failures, until, forget_at) SELECT 'user:u' || n, 1, 0, n FROM generate_series(1, 100000) AS n;
	INSERT INTO manufacturers (id, sha256, der, state, reenroll, devices, enrolled, created_at) SELECT 'm' || n, md5(n::text), '\x00', 'active', 0, 0, 0, n FROM generate_series(1, 100000) AS n;
	INSERT INTO idevids (device_id, manufacturer, subject_serial, certificate_serial, sha256, work_order, added_at, serial, request_hash, enrolled_at)
		SELECT 'd' || n, 'm1', 's' || n, md5(n::text), md5(n::text), 'w1', n, '', '\x00', 0 FROM generate_series(1, 100000) AS n;
	INSERT INTO brokers (id, url, names, kind, status, created_at) VALUES ('broker', 'mqtts://b', '[]', 'x', 'verified', 0);
	INSERT INTO verifications (id, broker, at, report) SELECT md5(n::text), 'broker', n, '{}' FROM generate_series(1, 100000) AS n;
	INSERT INTO rotations (id, broker, state, steps, sessions_before, sessions_after, sessions_dropped, old_serial, new_serial, at, csr, session_ids, version)
		SELECT md5(n::text), 'broker', 'done', '[]', 0, 0, 0, '', '', n, NULL, '[]', 1 FROM generate_series(1, 100000) AS n;
	ANALYZE`

var manyRowsOnSQLite = strings.NewReplacer(
	`decode(md5(n::text), 'hex')`, `CAST(printf('%032x', n) AS BLOB)`,
	`decode(repeat('00', 32), 'hex')`, `zeroblob(32)`,
	`md5(n::text)`, `printf('%032x', n)`,
	`'\x00'`, `x'00'`, `'\x'`, `x''`,
	`generate_series(1, 100000) AS n`, `(WITH RECURSIVE s(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM s WHERE n < 100000) SELECT n FROM s)`,
).Replace(manyRows)

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
	// And what the planner takes when it knows that there are many rows.
	e := openFull(t).db.(*sqliteEngine)
	for text := range seen {
		checkPlan(t, e, text)
	}
}

// openFull opens a database with manyRows.
func openFull(t *testing.T) *Store {
	t.Helper()
	s := openTemp(t)
	e := s.db.(*sqliteEngine)
	_, err := e.writer.ExecContext(t.Context(), `PRAGMA synchronous = OFF; `+manyRowsOnSQLite)
	if err := errors.Join(err, s.Close()); err != nil { // connections of before do not know the statistics
		t.Fatal(err)
	}
	return openAt(t, e.path)
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

// equality finds a column that a parameter is compared with.
var equality = regexp.MustCompile(`WHERE .*[a-z_]+ = \$\d`)

// background are the counts that nobody waits for: they read indexes, all of
// them.
var background = regexp.MustCompile(`AS counted FROM`)

// lowest finds a column of which a statement says that it is above zero, as all
// rows of a partial index are.
var lowest = regexp.MustCompile(`([a-z_]+) > 0\b`)

func checkPlan(t *testing.T, e *sqliteEngine, text string) {
	verb, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	if verb != "SELECT" && verb != "WITH" && verb != "UPDATE" && verb != "DELETE" {
		return
	}
	for _, at := range lowest.FindAllStringSubmatchIndex(text, -1) {
		column := text[at[2]:at[3]]
		if regexp.MustCompile(`\b` + column + `( >|, [a-z_]+\) >)`).MatchString(text[at[1]:]) {
			t.Errorf("SQLite begins at zero, and not at the bound of %s that stands later\n%s", column, text)
		}
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
		scan := strings.HasPrefix(line, "SCAN") && line != "SCAN CONSTANT ROW" && !small.MatchString(line) && !exempt(text)
		scan = scan && !background.MatchString(text)
		scan = scan && (strings.Contains(text, "WHERE") || !strings.Contains(text, "LIMIT")) // a first page reads no more than it shows
		// A walk along an index, past the rows that an equality leaves out.
		scan = scan || strings.HasPrefix(line, "SEARCH") && !strings.Contains(line, "=?") && equality.MatchString(text) && !exempt(text)
		if scan || strings.Contains(line, "TEMP B-TREE") && !strings.Contains(text, "river_job") && !strings.Contains(text, "FROM issuers") && !background.MatchString(text) {
			t.Errorf("%s\n%s", line, text)
		}
	}
}
