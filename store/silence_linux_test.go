package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// A quietProxy stands before a PostgreSQL server. Connections can fall silent:
// they stay open, and what is sent on them is taken and goes nowhere.
type quietProxy struct {
	url string

	mu    sync.Mutex
	links []*link
}

// A link is one connection. Each channel is closed when its direction is silent.
type link struct{ toServer, toClient chan struct{} }

// newQuietProxy starts a proxy before the server of a URL that storetest made.
func newQuietProxy(t *testing.T, server string) *quietProxy {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &quietProxy{url: "postgres://postgres@" + l.Addr().String() + u.Path + "?sslmode=disable"}
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended); l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"))
			if err != nil {
				client.Close()
				continue
			}
			k := &link{make(chan struct{}), make(chan struct{})}
			p.mu.Lock()
			p.links = append(p.links, k)
			p.mu.Unlock()
			go carry(server, client, k.toServer, ended)
			go carry(client, server, k.toClient, ended)
		}
	}()
	return p
}

// carry copies until an end is closed. Once silent it takes bytes and drops
// them, and the other end hears nothing more.
func carry(to, from net.Conn, silent, ended chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-silent:
			_, _ = io.Copy(io.Discard, from) // until it is closed
			from.Close()
			<-ended
			to.Close()
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	from.Close()
	to.Close()
}

// silence makes the connections that there are fall silent, in both directions
// or to the client alone.
func (p *quietProxy) silence(both bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.links {
		close(k.toClient)
		if both {
			close(k.toServer)
		}
	}
	p.links = nil
}

// openQuick opens a store that gives up after a short time.
func openQuick(t *testing.T, url string) *Store {
	t.Helper()
	s := openAt(t, url)
	s.writes.bound, s.serials.bound, s.firsts.bound = quick, quick, quick
	return s
}

const quick = time.Second

// wantUnavailable fails unless an error says that the database is to blame, in
// these words.
func wantUnavailable(t *testing.T, s *Store, err error, words string) {
	t.Helper()
	err = s.explain("test", err)
	if own, ok := errors.AsType[*ca.Error](err); !ok || own.Kind != enroll.KindUnavailable || own.Hint == "" || !strings.Contains(own.Message, words) {
		t.Errorf("error is %v, want one that says %q", err, words)
	}
}

func TestPostgresSilence(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	for name, test := range map[string]func(*testing.T, *quietProxy, string){
		"all connections": testSilentConnections, "within a transaction": testSilentTransaction, "at its end": testSilentCommit,
		"one that is stopped": testStoppedBackend, "locked": testLocked,
		"without a deadline": testUnboundedStatement,
		"panics":             func(t *testing.T, _ *quietProxy, url string) { testCommitterPanic(t, openQuick(t, url)) },
	} {
		url := server.NewDatabase(t)
		t.Run(name, func(t *testing.T) { test(t, newQuietProxy(t, url), url) })
	}
}

// I21, I22: when the connections that there are fall silent under load, changes
// and shared reads go on within the bound, on others; what was confirmed is there.
func testSilentConnections(t *testing.T, p *quietProxy, _ string) {
	s := openQuick(t, p.url)
	ctx, cancel := context.WithCancel(t.Context())
	var confirmed sync.Map
	var clients sync.WaitGroup
	for n := range 24 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				is := newIssuance(fmt.Sprintf("d%d-%d", n, i))
				is.Claim.(*enroll.Claim).Order = ""
				err := s.Commit(context.Background(), []ca.Issuance{is})[0]
				if err == nil {
					confirmed.Store(is.Certificate.SerialNumber, time.Now())
					_, err = s.Certificate(context.Background(), is.Certificate.SerialNumber)
				}
				if err != nil && !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error is %v", err)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	for range 2 {
		openAll(t, s)
		p.silence(true)
		time.Sleep(3 * quick)
	}
	end := time.Now()
	cancel()
	clients.Wait()
	times := []time.Time{end}
	confirmed.Range(func(serial, at any) bool {
		times = append(times, at.(time.Time))
		if _, err := s.Certificate(t.Context(), serial.(ca.SerialNumber)); err != nil {
			t.Errorf("confirmed certificate %s: %v", serial, err)
		}
		return true
	})
	slices.SortFunc(times, time.Time.Compare)
	longest := time.Duration(0)
	for i := range times[1:] {
		longest = max(longest, times[i+1].Sub(times[i]))
	}
	t.Logf("%d confirmed, none for %v at most", len(times)-1, longest)
	if longest > 2*quick {
		t.Errorf("nothing was confirmed for %v", longest)
	}
}

// openAll makes the pool open most of the connections that it may.
func openAll(t *testing.T, s *Store) {
	t.Helper()
	pool := s.db.(*postgresEngine).pool
	for range pool.Config().MaxConns - 4 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
}

// A transaction that falls silent before COMMIT changed nothing, and leaves no
// lock for long: the server ends it too.
func testSilentTransaction(t *testing.T, p *quietProxy, _ string) {
	s := openQuick(t, p.url)
	if err := s.write(t.Context(), touch); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wantUnavailable(t, s, s.write(t.Context(), func(ctx context.Context, q tx) error {
		if err := touch(ctx, q); err != nil {
			return err
		}
		p.silence(true)
		return touch(ctx, q)
	}), "nothing was changed")
	for err := errors.New("none yet"); err != nil; {
		if err = s.write(t.Context(), touch); time.Since(began) > 5*quick {
			t.Fatalf("the row is still locked: %v", err)
		}
	}
	if at, err := value[int64](t.Context(), s.db, `SELECT created_at FROM authority`); err != nil || at != 1 {
		t.Errorf("the row says %d, %v", at, err)
	}
}

// I21: where the answer to COMMIT, or to a statement that is a transaction, does
// not come, nobody knows.
func testSilentCommit(t *testing.T, p *quietProxy, url string) {
	s := openQuick(t, p.url)
	wantUnavailable(t, s, s.write(t.Context(), func(ctx context.Context, q tx) error {
		defer p.silence(false)
		return touch(ctx, q)
	}), "unknown")
	first := func(device string) ca.Issuance {
		is := newIssuance(device)
		is.Claim.(*enroll.Claim).Order = ""
		return is
	}
	if err := s.Commit(t.Context(), []ca.Issuance{first("one")})[0]; err != nil {
		t.Fatal(err)
	}
	p.silence(false)
	second := first("two")
	wantUnavailable(t, s, s.Commit(t.Context(), []ca.Issuance{second})[0], "unknown")
	if n, err := value[int64](t.Context(), s.db, `SELECT created_at FROM authority`); err != nil || n != 0 {
		t.Errorf("the change whose end is unknown: %d, %v", n, err)
	}
	if _, err := s.Certificate(t.Context(), second.Certificate.SerialNumber); err != nil {
		t.Errorf("the certificate whose end is unknown: %v", err)
	}
}

// A statement that nobody gave a deadline ends too, wherever it runs, but for
// those that may take long.
func testUnboundedStatement(t *testing.T, p *quietProxy, _ string) {
	s := openQuick(t, p.url)
	pool := s.db.(*postgresEngine).pool
	pool.Config().ConnConfig.Tracer.(*silence).bound = quick
	sleep := fmt.Sprintf(`SELECT 1 FROM pg_sleep(%f)`, 1.5*quick.Seconds())
	read := func(ctx context.Context) func(querier) error {
		return func(q querier) error {
			_, err := value[int32](ctx, q, sleep)
			return err
		}
	}
	if err := s.db.snapshot(t.Context(), read(atLeisure(t.Context()))); err != nil {
		t.Errorf("at leisure: %v", err)
	}
	if err := read(t.Context())(s.db); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a long read: %v", err)
	}
	if err := s.db.snapshot(t.Context(), read(t.Context())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a long read in a transaction: %v", err)
	}
	openAll(t, s)
	p.silence(true)
	began := time.Now()
	if _, err := s.Issuers(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read on a silent connection: %v", err)
	}
	if _, err := s.Issuers(context.Background()); err != nil || time.Since(began) > 2*quick {
		t.Errorf("the next one: %v after %v", err, time.Since(began))
	}
}

// A server process that is stopped holds up one transaction, for no longer than
// the bound.
func testStoppedBackend(t *testing.T, _ *quietProxy, url string) {
	s := openQuick(t, url)
	began := time.Now()
	wantUnavailable(t, s, s.write(t.Context(), func(ctx context.Context, q tx) error {
		pid, err := value[int64](ctx, q, `SELECT CAST(pg_backend_pid() AS BIGINT)`)
		if err != nil {
			return err
		}
		if err := syscall.Kill(int(pid), syscall.SIGSTOP); err != nil {
			return err
		}
		t.Cleanup(func() { _ = syscall.Kill(int(pid), syscall.SIGCONT) }) // it may have ended
		return touch(ctx, q)
	}), "nothing was changed")
	if err := s.write(t.Context(), touch); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*quick {
		t.Errorf("it took %v", took)
	}
}

// I22: Ping ends with its context, and a change that waits for somebody's lock
// with the bound; neither needs a restart.
func testLocked(t *testing.T, _ *quietProxy, url string) {
	s := openQuick(t, url)
	if err := s.write(t.Context(), touch); err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), `BEGIN; LOCK TABLE authority IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), quick/2)
	defer cancel()
	began := time.Now()
	if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > quick {
		t.Errorf("Ping took %v: %v", time.Since(began), err)
	}
	wantUnavailable(t, s, s.write(t.Context(), touch), "too long")
	if _, err := other.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Ping(t.Context()), s.write(t.Context(), touch)); err != nil {
		t.Error(err)
	}
}

// TCP gives up what is not acknowledged, and asks a silent peer.
func TestPostgresDials(t *testing.T) {
	config, err := pgxpool.ParseConfig("postgres://127.0.0.1/x")
	if err != nil {
		t.Fatal(err)
	}
	watchSilence(config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := config.ConnConfig.DialFunc(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(dialed).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for option, want := range map[int]time.Duration{tcpUserTimeout: unanswered / time.Millisecond, syscall.TCP_KEEPIDLE: probeAfter / time.Second, syscall.TCP_KEEPCNT: probes} {
			if got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option); err != nil || got != int(want) {
				t.Errorf("option %d is %d, want %d, %v", option, got, want, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}
