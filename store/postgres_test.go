package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	template := server.NewDatabase(t)
	s, err := Open(t.Context(), Config{URL: template})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Migrate(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	database := func(t *testing.T) string { return server.Copy(t, template) }

	t.Run("all", func(t *testing.T) { // returns when its parallel tests have
		t.Run("contract", func(t *testing.T) {
			t.Parallel()
			testPostgresContract(t, database)
		})
		t.Run("clock", func(t *testing.T) {
			t.Parallel()
			url := database(t)
			if skew, err := openAt(t, url).ClockSkew(t.Context()); err != nil || skew.Abs() > time.Second {
				t.Errorf("beside the same clock: %v, %v", skew, err)
			}
			late, err := Open(t.Context(), Config{URL: url, Now: func() time.Time { return time.Now().Add(-time.Hour) }})
			if err != nil {
				t.Fatal(err)
			}
			defer late.Close()
			if skew, err := late.ClockSkew(t.Context()); err != nil || (skew-time.Hour).Abs() > time.Second {
				t.Errorf("an hour late: %v, %v", skew, err)
			}
		})
		t.Run("renewal", func(t *testing.T) {
			t.Parallel()
			testRenewalBesideRevocation(t, database(t))
		})
		t.Run("together", func(t *testing.T) {
			t.Parallel()
			testPostgresTogether(t, database(t))
		})
		t.Run("same at replicas", func(t *testing.T) {
			t.Parallel()
			testSameEnrollmentsAtReplicas(t, database(t))
		})
		t.Run("jobs", func(t *testing.T) {
			t.Parallel()
			testJobs(t, func(t *testing.T) func(t *testing.T) *Store {
				url := database(t)
				return func(t *testing.T) *Store { return openAt(t, url) }
			})
		})
		t.Run("migrate", func(t *testing.T) {
			t.Parallel()
			testPostgresMigrate(t, server.NewDatabase(t))
		})
		t.Run("upgrade", func(t *testing.T) {
			t.Parallel()
			testUpgrade(t, server.NewDatabase(t))
		})
		t.Run("replicas", func(t *testing.T) {
			t.Parallel()
			testPostgresReplicas(t, database(t))
		})
		t.Run("hierarchy", func(t *testing.T) {
			t.Parallel()
			testPostgresHierarchy(t, database(t))
		})
		t.Run("dead replica", func(t *testing.T) {
			t.Parallel()
			testPostgresDeadReplica(t, database(t))
		})
		t.Run("unwritten ends", func(t *testing.T) {
			t.Parallel()
			testPostgresUnwrittenEnds(t, database(t))
		})
		t.Run("read-only", func(t *testing.T) {
			t.Parallel()
			testPostgresReadOnly(t, database(t))
		})
	})
	testPostgresCrash(t, server, database(t))
}

// testPostgresContract runs the contract, and then looks at the plan of every
// statement that it ran.
func testPostgresContract(t *testing.T, database func(t *testing.T) string) {
	free := make(chan string, 256) // databases that were emptied: making one is slow
	var mu sync.Mutex
	statements := map[string]bool{}
	t.Run("tests", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) enroll.Store {
			var url string
			select {
			case url = <-free:
			default:
				url = database(t)
			}
			s := openAt(t, url)
			t.Cleanup(func() {
				ctx := context.Background()
				mu.Lock()
				defer mu.Unlock()
				for _, conn := range s.db.(*postgresEngine).pool.AcquireAllIdle(ctx) {
					texts, err := collect(ctx, pgxQuerier{conn}, func(row scanner) (text string, err error) {
						err = row.Scan(&text)
						return text, err
					}, `SELECT statement FROM pg_prepared_statements`)
					if err != nil {
						t.Error(err)
					}
					for _, text := range texts {
						statements[text] = true
					}
					conn.Release()
				}
				if err := s.write(ctx, empty); err != nil {
					t.Error(err)
				}
				free <- url
			})
			return s
		})
	})
	if len(statements) < 50 {
		t.Errorf("only %d statements were seen", len(statements))
	}
	conn, err := pgx.Connect(t.Context(), <-free)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// What is left of sequential scans and sorts has no index to do better.
	if _, err := conn.Exec(t.Context(), `SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET plan_cache_mode = force_generic_plan`); err != nil {
		t.Fatal(err)
	}
	for text := range statements {
		checkPostgresPlan(t, conn, text)
	}
	// And what the planner takes by itself, when there are many rows.
	if _, err := conn.Exec(t.Context(), `RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_sort; `+manyRows); err != nil {
		t.Fatal(err)
	}
	for text := range statements {
		checkPostgresPlanOfMany(t, conn, text)
	}
}

// checkPostgresPlanOfMany refuses a sequential scan of a table that grows. A
// list that takes most rows in the order of time may read them all.
func checkPostgresPlanOfMany(t *testing.T, conn *pgx.Conn, text string) {
	if !planned.MatchString(text) || strings.Contains(text, "river_") || strings.Contains(text, "pg_") || exempt(text) || background.MatchString(text) {
		return
	}
	plan := postgresPlan(t, conn, text)
	if grows.MatchString(plan) {
		t.Errorf("at 100,000 rows: %s\n%s", text, plan)
	}
}

var grows = regexp.MustCompile(`Seq Scan on (certificates|keys|devices|events|idempotency|revocations|rotations|verifications|work_orders|enrollment_tokens|token_uses|api_tokens|users|login_failures|idevids)\b`)

// empty deletes all that a test stored. It is much faster than TRUNCATE, which
// makes new files.
func empty(ctx context.Context, q tx) error {
	tables, err := value[string](ctx, q, `SELECT string_agg('DELETE FROM ' || tablename, '; ') FROM pg_tables
		WHERE schemaname = 'public' AND tablename NOT IN ('schema_migrations', 'river_migration')`)
	if err != nil {
		return err
	}
	_, err = q.exec(ctx, `DELETE FROM token_uses; DELETE FROM crls; DELETE FROM crl_numbers; DELETE FROM cross_certificates; DELETE FROM verifications; DELETE FROM rotations; DELETE FROM sessions; DELETE FROM idevids; DELETE FROM broker_drivers; `+tables)
	return err
}

var (
	planned   = regexp.MustCompile(`(?s)^\s*(SELECT|UPDATE|DELETE|INSERT|WITH)\b.*\b(FROM|UPDATE|INTO) [a-z]`)
	parameter = regexp.MustCompile(`\$\d+`)
	given     = regexp.MustCompile(`Function Scan on c(_\d+)? |Values Scan on `)
	tolerated = regexp.MustCompile(`Scan on (issuers|trust_bundles|cross_certificates|schema_migrations|authority|brokers)\b|on profiles each\b`)
)

func checkPostgresPlan(t *testing.T, conn *pgx.Conn, text string) {
	if !planned.MatchString(text) || strings.Contains(text, "river_") || strings.Contains(text, "pg_") || background.MatchString(text) {
		return
	}
	plan := postgresPlan(t, conn, text)
	for _, node := range strings.Split(plan, "->") {
		if strings.Contains(node, "Subquery Scan on scanned") {
			continue // what a page looks at row by row; the index that leads to it is below
		}
		if strings.Contains(text, "AS scanned JOIN devices") && strings.Contains(node, " on devices ") {
			continue // of few devices, or joined to few; with many rows it is looked at again
		}
		if given.MatchString(node) || strings.Contains(node, "WorkTable Scan") {
			continue // what the statement was given, or counts out for itself
		}
		scan := strings.Contains(node, "Seq Scan") ||
			strings.Contains(node, "  Filter:") && !strings.Contains(node, "Index Cond:") && !exempt(text)
		if (scan || strings.Contains(node, "Sort  (")) && !tolerated.MatchString(plan) {
			t.Errorf("%s\n%s", text, plan)
			return
		}
	}
}

// postgresPlan returns the plan of a statement for any parameters.
func postgresPlan(t *testing.T, conn *pgx.Conn, text string) string {
	t.Helper()
	names := map[string]bool{}
	for _, p := range parameter.FindAllString(text, -1) {
		names[p] = true
	}
	explain := "EXPLAIN EXECUTE looked_at"
	if len(names) > 0 {
		explain += "(" + strings.TrimSuffix(strings.Repeat("NULL,", len(names)), ",") + ")"
	}
	ctx := t.Context()
	if _, err := conn.Exec(ctx, "PREPARE looked_at AS "+text); err != nil {
		t.Errorf("%s: %v", text, err)
		return ""
	}
	defer conn.Exec(ctx, "DEALLOCATE looked_at")
	found, err := conn.Query(ctx, explain, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Errorf("%s: %v", explain, err)
		return ""
	}
	lines, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return strings.Join(lines, "\n")
}

func testPostgresMigrate(t *testing.T, url string) {
	var stores []*Store
	for range 3 {
		s, err := Open(t.Context(), Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		stores = append(stores, s)
	}
	var done sync.WaitGroup
	for _, s := range stores {
		done.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if err := stores[0].Ping(t.Context()); err != nil {
		t.Error(err)
	}
	err := stores[0].write(t.Context(), func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `INSERT INTO schema_migrations VALUES ((SELECT max(version) + 1 FROM schema_migrations), 'later.sql', 'x', 0)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), Config{URL: url}); err == nil {
		s.Close()
		t.Error("a database of a newer program was opened")
	} else if own, ok := errors.AsType[*ca.Error](err); !ok || own.Hint == "" {
		t.Errorf("error is %v", err)
	}
}

// I5, I6, I24: two replicas are as exact as one.
func testPostgresReplicas(t *testing.T, url string) {
	stores := []*Store{openAt(t, url), openAt(t, url)}
	if err := stores[0].CreateWorkOrder(t.Context(), enroll.WorkOrder{ID: "order", Quantity: 40, State: enroll.OrderOpen}, someChange()); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var done sync.WaitGroup
	issued := 0
	for n := range 128 { // every device twice, once a replica, with the same idempotency key
		done.Go(func() {
			err := stores[n%2].Commit(t.Context(), []ca.Issuance{newIssuance(fmt.Sprint("d", n/2))})[0]
			_, replay := errors.AsType[*enroll.Replay](err)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				issued++
			} else if !replay && !errors.Is(err, ca.IsKind(enroll.KindQuotaReached)) {
				t.Error(err)
			}
		})
	}
	done.Wait()
	order, err := stores[1].WorkOrder(t.Context(), "order")
	if err != nil {
		t.Fatal(err)
	}
	if issued != 40 || order.Issued != 40 {
		t.Errorf("%d issued, the order says %d; want 40", issued, order.Issued)
	}
}

// I16: what two replicas do to the hierarchy at once is as if one came after the
// other: an id and a place are taken once, and one root is active.
func testPostgresHierarchy(t *testing.T, url string) {
	stores := []*Store{openAt(t, url), openAt(t, url)}
	fill(t, stores[0])
	all, err := stores[0].Issuers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := func(id string) ca.Issuer {
		return ca.Issuer{ID: id, Purpose: ca.PurposeRoot, State: ca.IssuerCreated, Certificate: all[0].Certificate, Parent: id}
	}
	both := func(do func(n int, s *Store) error) (errs [2]error) {
		var done sync.WaitGroup
		for n, s := range stores {
			done.Go(func() { errs[n] = do(n, s) })
		}
		done.Wait()
		return errs
	}
	roots := []string{"root"}
	for round := range 20 {
		ids := []string{fmt.Sprint("a", round), fmt.Sprint("b", round)}
		for _, err := range both(func(n int, s *Store) error {
			return s.AddIssuers(t.Context(), []ca.Issuer{root(ids[n])}, nil, nil, someChange())
		}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		errs := both(func(_ int, s *Store) error {
			return s.AddIssuers(t.Context(), []ca.Issuer{root(fmt.Sprint("same", round))}, nil, nil, someChange())
		})
		if refused := errors.Join(errs[:]...); (errs[0] == nil) == (errs[1] == nil) || !strings.Contains(refused.Error(), "already") {
			t.Fatalf("the same id twice: %v", errs)
		}
		roots = append(roots, ids...)
		if err := stores[0].SaveTrustGeneration(t.Context(), enroll.TrustGeneration{Generation: int64(round + 2), CreatedAt: time.Now(), Roots: roots}, someChange()); err != nil {
			t.Fatal(err)
		}
		for _, err := range both(func(n int, s *Store) error {
			return s.SetIssuerState(t.Context(), ids[n], []ca.IssuerState{ca.IssuerPublished}, ca.IssuerActive, someChange())
		}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		for what, query := range map[string]string{
			"active roots":                `SELECT count(*) FROM issuers WHERE purpose = 'root' AND state = 'active'`,
			"places taken twice, and one": `SELECT 1 + count(*) - count(DISTINCT ordinal) FROM issuers`,
		} {
			if n, err := value[int64](t.Context(), stores[0].db, query); err != nil || n != 1 {
				t.Fatalf("round %d: %d %s, %v", round, n, what, err)
			}
		}
	}
}

// I2: the jobs of a replica that died run at the others, and those of one that
// lives are left to it.
func testPostgresDeadReplica(t *testing.T, url string) {
	s := openAt(t, url)
	living := make(chan string, 16)
	finish := make(chan bool)
	startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
		living <- subject
		if subject == "living" {
			<-finish
		}
		return nil
	}}})
	defer close(finish)
	kick(t, s, enroll.Job{Kind: "k", Subject: "living"})
	receive(t, living, 5*time.Second)
	kick(t, s, enroll.Job{Kind: "k", Subject: "dead", After: time.Hour})
	err := s.write(t.Context(), func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `UPDATE river_job SET state = 'running', scheduled_at = now(), attempted_by = '{somebody}', attempt = 1
			WHERE args ->> 'subject' = 'dead'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	other := openAt(t, url)
	ran := make(chan string, 16)
	startJobs(t, other, JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
		ran <- subject
		return nil
	}}})
	select {
	case subject := <-ran:
		if subject != "dead" {
			t.Errorf("%q ran a second time", subject)
		}
	case subject := <-living:
		if subject != "dead" {
			t.Errorf("%q ran a second time", subject)
		}
	case <-time.After(3 * time.Second):
		t.Error("the dead replica's job did not run")
	}
}

// I2: a job whose end could not be written, because the database was away, runs
// again soon; one that goes on is left alone.
func testPostgresUnwrittenEnds(t *testing.T, url string) {
	s := openAt(t, url)
	ran := make(chan string, 16)
	finish := make(chan bool)
	startJobs(t, s, JobWorkers{Handlers: handlers{"k": func(_ context.Context, subject string) error {
		ran <- subject
		if subject == "long" {
			<-finish
		}
		return nil
	}}})
	defer close(finish)
	kick(t, s, enroll.Job{Kind: "k", Subject: "long"})
	receive(t, ran, 5*time.Second)
	kick(t, s, enroll.Job{Kind: "k", Subject: "ended", After: time.Hour})
	if err := s.write(t.Context(), func(ctx context.Context, q tx) error { // as if its end was not written
		n, err := q.exec(ctx, `UPDATE river_job SET state = 'running', scheduled_at = now(), attempt = 1,
			attempted_by = (SELECT attempted_by FROM river_job WHERE args ->> 'subject' = 'long') WHERE args ->> 'subject' = 'ended'`)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows", n)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case subject := <-ran:
		if subject != "ended" {
			t.Errorf("%q ran a second time", subject)
		}
	case <-time.After(6 * rescuePeriod):
		t.Error("the job did not run again")
	}
}

// I22
func testPostgresReadOnly(t *testing.T, url string) {
	s := openAt(t, url)
	set := func(state string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		name := conn.Config().Database
		if _, err := conn.Exec(t.Context(), `SET default_transaction_read_only = off`); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), `ALTER DATABASE `+name+` SET default_transaction_read_only = `+state); err != nil {
			t.Fatal(err)
		}
		s.db.(*postgresEngine).pool.Reset() // as after a failover
	}
	if err := s.RecordEvent(t.Context(), someChange()); err != nil {
		t.Fatal(err)
	}
	set("on")
	err := s.RecordEvent(t.Context(), someChange())
	if own, ok := errors.AsType[*ca.Error](err); !ok || own.Kind != enroll.KindUnavailable || !strings.Contains(own.Message, "read-only") {
		t.Errorf("error is %v", err)
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a read-only database is said to be writable")
	}
	if all, _, err := s.Events(t.Context(), enroll.EventFilter{}, enroll.Page{}); err != nil || len(all) != 1 {
		t.Errorf("%d events, %v", len(all), err)
	}
	set("off")
	if err := s.RecordEvent(t.Context(), someChange()); err != nil {
		t.Error(err)
	}
}

// I2, I21: a server that crashes is named, what was confirmed is there when it
// is back, and nothing here needs a restart.
func testPostgresCrash(t *testing.T, server *storetest.PostgresServer, url string) {
	s := openAt(t, url)
	var confirmed, unknown sync.Map
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	for n := range 8 {
		done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				device := fmt.Sprintf("d%d-%d", n, i)
				is := newIssuance(device)
				is.Claim.(*enroll.Claim).Order = ""
				err := s.Commit(ctx, []ca.Issuance{is})[0]
				switch {
				case err == nil:
					confirmed.Store(is.Certificate.SerialNumber, true)
				case errors.Is(err, ca.IsKind(enroll.KindUnavailable)):
					unknown.Store(is.Certificate.SerialNumber, true)
					time.Sleep(10 * time.Millisecond)
				case ctx.Err() == nil:
					t.Errorf("error is %v", err)
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	server.Kill()
	if _, err := Open(t.Context(), Config{URL: url}); !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
		t.Errorf("open without a server: %v", err)
	}
	time.Sleep(100 * time.Millisecond)
	server.Start(t)
	time.Sleep(300 * time.Millisecond)
	cancel()
	done.Wait()
	if err := s.RecordEvent(t.Context(), someChange()); err != nil {
		t.Error(err)
	}
	n := 0
	confirmed.Range(func(serial, _ any) bool {
		n++
		if _, err := s.Certificate(t.Context(), serial.(ca.SerialNumber)); err != nil {
			t.Errorf("confirmed certificate %s: %v", serial, err)
		}
		return true
	})
	if n == 0 {
		t.Error("nothing was confirmed")
	}
}
