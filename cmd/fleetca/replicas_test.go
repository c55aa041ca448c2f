package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/store/storetest"
)

// newReplicas starts servers on one PostgreSQL, each with a copy of the same
// folder, on the same ports of addresses of their own, and under one public
// name: as behind a load balancer.
func newReplicas(t *testing.T, n int) []*testServer {
	t.Helper()
	return newReplicasOn(t, n, storetest.StartPostgres(t).NewDatabase(t))
}

func newReplicasOn(t *testing.T, n int, database string) []*testServer {
	t.Helper()
	origin := filepath.Join(t.TempDir(), "data")
	mustRun(t, "init", "--data", origin, "--database", database)
	return startReplicas(t, n, database, origin, "")
}

// startReplicas starts servers with a copy each of a folder that init made.
func startReplicas(t *testing.T, n int, database, origin, earlier string) []*testServer {
	t.Helper()
	var ports [3]string
	for i := range ports {
		_, ports[i], _ = net.SplitHostPort(freePort(t))
	}
	all := make([]*testServer, n)
	for i := range all {
		host := fmt.Sprintf("127.0.0.%d", i+1)
		all[i] = &testServer{
			dir: filepath.Join(t.TempDir(), "data"), database: database, earlier: earlier, args: []string{"--public-host", "localhost"},
			people: host + ":" + ports[0], machines: host + ":" + ports[1], status: host + ":" + ports[2],
		}
		if err := os.CopyFS(all[i].dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(all[i].dir, "passphrase"), 0o600); err != nil {
			t.Fatal(err)
		}
		all[i].start(t)
		t.Cleanup(func() { all[i].stop(t) })
	}
	return all
}

// at returns the same client for another server.
func (c *restClient) at(s *testServer) *restClient {
	return &restClient{base: "https://" + s.people + "/api/v1", token: c.token, http: c.http}
}

// everywhere calls f at once, n times for each server, and returns what it gave.
func everywhere[T any](servers []*testServer, n int, f func(s *testServer, i int) T) []T {
	all := make([]T, n*len(servers))
	var calls sync.WaitGroup
	for i := range all {
		calls.Go(func() { all[i] = f(servers[i%len(servers)], i) })
	}
	calls.Wait()
	return all
}

// count returns how many answers have a status.
func count(answers []answer, status int) int {
	n := 0
	for _, a := range answers {
		if a.status == status {
			n++
		}
	}
	return n
}

// Three servers on one database hold together what one holds alone: one-time
// tokens (I6), quotas, idempotency (I5), the limits of failures (I28), CRL
// numbers (I11), and what a revocation sets going is done by one of them (I13).
func TestReplicas(t *testing.T) {
	t.Parallel()
	servers := newReplicas(t, 3)
	admin := servers[0].rest(t, "admin")
	send := func(s *testServer, method, path string, body any, header ...string) answer {
		a, err := admin.at(s).try(method, path, body, header...)
		if err != nil {
			t.Errorf("%s %s: %v", method, path, err)
		}
		return a
	}
	order := func(id string, quantity int) {
		admin.send(t, "POST", "/work-orders", map[string]any{"id": id, "product": "p", "quantity": quantity}).into(t, 201, new(any))
	}
	t.Run("token", func(t *testing.T) {
		order("WO-token", 10)
		var token struct{ Token string }
		admin.send(t, "POST", "/work-orders/WO-token/tokens", map[string]any{}).into(t, 201, &token)
		answers := everywhere(servers, 4, func(s *testServer, i int) answer {
			id := fmt.Sprint("token-", i)
			_, csr := newCSR(t, id)
			nobody := &restClient{base: admin.at(s).base, http: admin.http}
			a, err := nobody.try("POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr, "token": token.Token})
			if err != nil {
				t.Error(err)
			}
			return a
		})
		if n := count(answers, 201); n != 1 || count(answers, 422) != len(answers)-1 {
			t.Errorf("a one-time token made %d certificates: %v", n, statuses(answers))
		}
	})
	t.Run("quota", func(t *testing.T) {
		order("WO-quota", 20)
		answers := everywhere(servers, 20, func(s *testServer, i int) answer {
			id := fmt.Sprint("quota-", i)
			_, csr := newCSR(t, id)
			return send(s, "POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr, "workOrder": "WO-quota"}, "Idempotency-Key", id)
		})
		if n := count(answers, 201); n != 20 || count(answers, 422) != 40 {
			t.Errorf("a quota of 20 made %d certificates: %v", n, statuses(answers))
		}
	})
	t.Run("idempotency", func(t *testing.T) {
		_, csr := newCSR(t, "same")
		answers := everywhere(servers, 8, func(s *testServer, _ int) answer {
			return send(s, "POST", "/enrollments", map[string]any{"deviceId": "same", "csr": csr}, "Idempotency-Key", "same")
		})
		if count(answers, 201) != 1 || count(answers, 200) != len(answers)-1 {
			t.Errorf("one request, repeated at once: %v", statuses(answers))
		}
		for _, a := range answers[1:] {
			if !slices.Equal(certificateIn(t, a), certificateIn(t, answers[0])) {
				t.Error("one request got two certificates")
			}
		}
		_, other := newCSR(t, "same")
		for _, s := range servers {
			if a := send(s, "POST", "/enrollments", map[string]any{"deviceId": "same", "csr": other}, "Idempotency-Key", "same"); a.status != 409 {
				t.Errorf("another request under the key: %d %s", a.status, a.body)
			}
		}
	})
	t.Run("logins", func(t *testing.T) {
		admin.send(t, "POST", "/users", map[string]any{"name": "eve", "role": "operator", "password": "correct horse battery"}).into(t, 201, new(any))
		guess := func(s *testServer, password string) answer {
			return send(s, "POST", "/login", map[string]any{"name": "eve", "password": password})
		}
		answers := everywhere(servers, 6, func(s *testServer, i int) answer { return guess(s, fmt.Sprint("wrong horse battery ", i)) })
		if n := count(answers, 401); n > 5 || n == 0 || count(answers, 429) != len(answers)-n {
			t.Errorf("%d guesses were looked at: %v", n, statuses(answers))
		}
		for i, more := 0, 0; more < 3; i++ { // the next has to wait 4 s then
			if guess(servers[i%len(servers)], fmt.Sprint("wrong horse battery ", i)).status == 401 {
				more++
				continue
			}
			time.Sleep(100 * time.Millisecond)
		}
		for _, s := range servers {
			if a := guess(s, "correct horse battery"); a.status != 429 || a.header.Get("Retry-After") == "" {
				t.Errorf("after the guesses: %d %v", a.status, a.header)
			}
		}
	})
	t.Run("bearer", func(t *testing.T) { bearerGuesses(t, servers) })
	t.Run("revocations", func(t *testing.T) { revokeEverywhere(t, servers, send) })
}

func statuses(answers []answer) (all []int) {
	for _, a := range answers {
		all = append(all, a.status)
	}
	slices.Sort(all)
	return all
}

// certificateIn returns the certificate of an enrollment's answer.
func certificateIn(t *testing.T, a answer) []byte {
	t.Helper()
	var e struct{ Certificate struct{ PEM string } }
	if err := json.Unmarshal(a.body, &e); err != nil || e.Certificate.PEM == "" {
		t.Errorf("no certificate: %d %s", a.status, a.body)
	}
	return []byte(e.Certificate.PEM)
}

// bearerGuesses guesses API tokens in turn at every server, from an address of
// its own: together they look at no more than one alone.
func bearerGuesses(t *testing.T, servers []*testServer) {
	base := servers[0].httpClient(t, nil)
	transport := base.Transport.(*http.Transport)
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 77)}}).DialContext
	begun := time.Now()
	looked := 0
	limited := map[*testServer]bool{}
	for i := 0; len(limited) < len(servers); i++ {
		s := servers[i%len(servers)]
		guesser := &restClient{base: "https://" + s.people + "/api/v1", token: fmt.Sprint("fca_guess", i), http: base}
		switch a := guesser.send(t, "GET", "/devices", nil); a.status {
		case http.StatusUnauthorized:
			looked++
		case http.StatusTooManyRequests:
			limited[s] = true
		default:
			t.Fatalf("a guess: %d %s", a.status, a.body)
		}
		if i > 1000 {
			t.Fatalf("%d guesses are looked at", looked)
		}
	}
	// A bucket of 60, one more a second, and one for each server to learn that
	// it is empty.
	if most := 60 + int(time.Since(begun).Seconds()) + 1 + len(servers)*int(1+time.Since(begun).Seconds()); looked > most || looked < 60 {
		t.Errorf("%d guesses were looked at, at most %d should be", looked, most)
	}
}

// revokeEverywhere revokes devices at every server at once. Every server soon
// serves a CRL with all of them, and no two CRLs have the same number.
func revokeEverywhere(t *testing.T, servers []*testServer, send func(*testServer, string, string, any, ...string) answer) {
	serials := everywhere(servers, 4, func(s *testServer, i int) string {
		id := fmt.Sprint("revoked-", i)
		_, csr := newCSR(t, id)
		var e struct{ Certificate struct{ SerialNumber string } }
		if a := send(s, "POST", "/enrollments", map[string]any{"deviceId": id, "csr": csr}); json.Unmarshal(a.body, &e) != nil || a.status != 201 {
			t.Errorf("enroll: %d %s", a.status, a.body)
		}
		return e.Certificate.SerialNumber
	})
	var seen sync.Map // DER by number, of every CRL that any server served meanwhile
	watched, stop := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	for _, s := range servers {
		watchers.Go(func() {
			for watched.Err() == nil {
				crl := s.crlOf(t, "device")
				if other, twice := seen.LoadOrStore(crl.Number.String(), crl.Raw); twice && !slices.Equal(other.([]byte), crl.Raw) {
					t.Errorf("two CRLs have the number %v", crl.Number)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	answers := everywhere(servers, 4, func(s *testServer, i int) answer {
		return send(s, "POST", fmt.Sprintf("/devices/revoked-%d/revocation", i), map[string]any{"reason": "superseded"})
	})
	if count(answers, 202) != len(answers) {
		t.Errorf("revoke: %v", statuses(answers))
	}
	decided := time.Now()
	for _, s := range servers {
		for _, serial := range serials {
			s.crlWith(t, serial)
		}
	}
	t.Logf("on every CRL after %v", time.Since(decided).Round(time.Millisecond))
	stop()
	watchers.Wait()
}

// A balancer sends requests to the servers in turn, and to the next one where
// a server cannot be reached or says 503: each on a connection of its own. A
// request that a server had in full and did not answer is lost (I28).
type balancer struct {
	*restClient
	servers []*testServer
	next    atomic.Int64
	lost    atomic.Int64
	refused atomic.Int64 // and sent elsewhere
	other   sync.Map     // what should not be, by device
}

// enroll enrolls a device, trying for a while.
func (b *balancer) enroll(j *enrollmentJob) error {
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		sent := false
		c := b.at(b.servers[int(b.next.Add(1))%len(b.servers)])
		c.http = &http.Client{Transport: traced{b.http.Transport, &sent}}
		status, err := j.enroll(c)
		switch {
		case err == nil && (status == http.StatusCreated || status == http.StatusOK):
			return nil
		case err == nil && status != http.StatusServiceUnavailable:
			return fmt.Errorf("status %d", status)
		case err != nil && sent:
			b.lost.Add(1)
			b.other.Store(j.id, err.Error())
			last = err
		case err != nil && !unreached(err):
			return err
		}
		b.refused.Add(1)
	}
	return fmt.Errorf("it takes too long: %w", last)
}

// unreached reports whether a request never reached a server.
func unreached(err error) bool {
	text := err.Error()
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || strings.Contains(text, "EOF")
}

// traced notes whether the request was sent in full.
type traced struct {
	http.RoundTripper
	sent *bool
}

// RoundTrip implements http.RoundTripper.
func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.RoundTripper.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		WroteRequest: func(i httptrace.WroteRequestInfo) { *t.sent = i.Err == nil },
	})))
}

// newBalancer returns a balancer as an admin.
func newBalancer(t *testing.T, servers []*testServer) *balancer {
	t.Helper()
	b := &balancer{restClient: servers[0].rest(t, "admin"), servers: servers}
	b.http.Transport.(*http.Transport).DisableKeepAlives = true
	return b
}

// journals makes devices for checkJournals, and their order.
func journals(t *testing.T, admin *restClient, n int) []*enrollmentJob {
	t.Helper()
	admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO-crash", "product": "p", "quantity": n}).into(t, 201, new(any))
	jobs := make([]*enrollmentJob, n)
	for i := range jobs {
		id := fmt.Sprintf("unit-%04d", i)
		_, csr := newCSR(t, id)
		jobs[i] = &enrollmentJob{id: id, csr: csr}
	}
	return jobs
}

// whileEnrolling runs do while clients enroll devices, and then send the last
// request of each again for as long as it takes: no request that a server had
// may be lost, some must have been sent elsewhere, and the journals must agree
// with the store (I5).
func whileEnrolling(t *testing.T, servers []*testServer, devices int, do func()) {
	t.Helper()
	const clients = 8
	b := newBalancer(t, servers)
	jobs := journals(t, b.restClient, devices)
	queue := make(chan *enrollmentJob, devices)
	var over atomic.Bool
	var workers sync.WaitGroup
	for range clients {
		workers.Go(func() {
			var last *enrollmentJob
			for j := range queue {
				if err := b.enroll(j); err != nil {
					t.Errorf("%s: %v", j.id, err)
				}
				last = j
			}
			for !over.Load() { // replays are load, too
				if err := b.enroll(last); err != nil {
					t.Errorf("%s, again: %v", last.id, err)
				}
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	do()
	over.Store(true)
	workers.Wait()
	t.Logf("%d requests were sent elsewhere, %d were lost", b.refused.Load(), b.lost.Load())
	if b.lost.Load() > 0 || b.refused.Load() == 0 {
		t.Errorf("%d requests that a server had were not answered, %d were sent elsewhere", b.lost.Load(), b.refused.Load())
		b.other.Range(func(id, why any) bool { t.Errorf("%v: %v", id, why); return true })
	}
	checkJournals(t, servers[0], b.restClient, jobs)
}

// Every server is restarted in turn, twice, while devices enroll: no request
// fails (I24, I28).
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	servers := newReplicas(t, 2)
	whileEnrolling(t, servers, 600, func() {
		for range 2 {
			for _, s := range servers {
				s.stop(t) // in order, with exit code 0
				s.start(t)
			}
		}
	})
}

// Servers of an earlier version are replaced in turn by this one, which migrates
// the database under those that still run, while devices enroll: no request
// fails (I24). The earlier version is built from this repository's history: the
// one before the last migration, or FLEETCA_TEST_EARLIER.
func TestRollingUpgrade(t *testing.T) {
	if os.Getenv("FLEETCA_TEST_SOAK") != "1" {
		t.Skip("builds an earlier version: FLEETCA_TEST_SOAK=1")
	}
	earlier := buildEarlier(t)
	database := storetest.StartPostgres(t).NewDatabase(t)
	origin := filepath.Join(t.TempDir(), "data")
	if out, err := exec.Command(earlier, "init", "--data", origin, "--database", database).CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	servers := startReplicas(t, 3, database, origin, earlier)
	whileEnrolling(t, servers, 3000, func() {
		for _, s := range servers {
			s.stop(t)
			s.earlier = ""
			s.start(t)
			time.Sleep(3 * time.Second) // versions side by side
		}
	})
}

// buildEarlier builds fleetca as it was before the newest migration was made.
func buildEarlier(t *testing.T) string {
	t.Helper()
	git := func(dir string, args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const top = "../.."
	revision := os.Getenv("FLEETCA_TEST_EARLIER")
	if revision == "" {
		all := strings.Fields(git(top, "ls-files", "migrations/postgres"))
		revision = git(top, "log", "--diff-filter=A", "--format=%H", "-1", "--", all[len(all)-1]) + "^"
	}
	tree := filepath.Join(t.TempDir(), "earlier")
	git(top, "worktree", "add", "--detach", tree, revision)
	t.Cleanup(func() { git(top, "worktree", "remove", "--force", tree) })
	built := filepath.Join(t.TempDir(), "fleetca")
	build := exec.Command("go", "build", "-o", built, "./cmd/fleetca")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Logf("the earlier version is %s", git(tree, "log", "-1", "--format=%h %s"))
	return built
}
