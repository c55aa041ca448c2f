package storetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A PostgresServer is a server of one test, reached by a socket in a temporary
// folder. It forgets what it was told when the machine dies (fsync is off),
// and nothing less.
type PostgresServer struct {
	bin, dir string
	asUser   *syscall.SysProcAttr
	stop     func(os.Signal)
	count    atomic.Int64
}

// StartPostgres starts a PostgreSQL server with the binaries of PATH or
// /usr/lib/postgresql, and stops it at the end of the test. Where there are
// none the test is skipped; with FLEETCA_TEST_ALL=1 it fails.
func StartPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	bin := postgresBinaries()
	if bin == "" {
		const missing = "no PostgreSQL binaries are found: install the package postgresql-15"
		if os.Getenv("FLEETCA_TEST_ALL") == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	p := newPostgresServer(t, bin)
	p.run(t, "initdb", "-D", filepath.Join(p.dir, "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
	p.Start(t)
	t.Cleanup(p.Stop)
	return p
}

// newPostgresServer returns a server without data, in a folder of its own.
func newPostgresServer(t testing.TB, bin string) *PostgresServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleetca-postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &PostgresServer{bin: bin, dir: dir, asUser: &syscall.SysProcAttr{}}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		uid, gid := unprivileged(t)
		p.asUser.Credential = &syscall.Credential{Uid: uid, Gid: gid}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// StartStandby starts a streaming copy of the server, which takes reads alone
// until it is promoted. From then on the server acknowledges a commit when the
// copy shows it (synchronous_commit = remote_apply).
func (p *PostgresServer) StartStandby(t testing.TB) *PostgresServer {
	t.Helper()
	standby := newPostgresServer(t, p.bin)
	p.run(t, "pg_basebackup", "-h", p.dir, "-U", "postgres", "-D", filepath.Join(standby.dir, "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	standby.Start(t)
	t.Cleanup(standby.Stop)
	for _, setting := range []string{"synchronous_standby_names = '*'", "synchronous_commit = 'remote_apply'"} {
		p.run(t, "psql", "-h", p.dir, "-U", "postgres", "-q", "-c", "ALTER SYSTEM SET "+setting)
	}
	p.run(t, "psql", "-h", p.dir, "-U", "postgres", "-q", "-c", "SELECT pg_reload_conf()")
	return standby
}

// Promote makes a standby take writes, and returns when it does.
func (p *PostgresServer) Promote(t testing.TB) {
	t.Helper()
	p.run(t, "pg_ctl", "promote", "-w", "-D", filepath.Join(p.dir, "data"))
}

// Either returns the URL of a database for a client that writes to whichever
// of the two servers takes writes.
func (p *PostgresServer) Either(url string, other *PostgresServer) string {
	return strings.Replace(url, "host="+p.dir, "host="+p.dir+","+other.dir, 1) + "&target_session_attrs=read-write"
}

// postgresBinaries returns the folder of the server's programs, or "".
func postgresBinaries() string {
	var found []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			found = append(found, filepath.Dir(path))
		}
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well-formed
	slices.SortFunc(installed, func(a, b string) int { return versionIn(b) - versionIn(a) })
	for _, dir := range append(found, installed...) {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir
		}
	}
	return ""
}

// versionIn returns the version in /usr/lib/postgresql/VERSION/bin.
func versionIn(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir))) // 0 for what is none
	return n
}

// unprivileged returns a user who owns nothing.
func unprivileged(t testing.TB) (uid, gid uint32) {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		id, err1 := strconv.ParseUint(u.Uid, 10, 32)
		group, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return uint32(id), uint32(group)
		}
	}
	t.Fatal("PostgreSQL does not run as root, and there is no user postgres or nobody")
	return 0, 0
}

// command returns one of the server's programs, to be run as its user.
func (p *PostgresServer) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, program), args...)
	attr := *p.asUser
	cmd.SysProcAttr = &attr
	cmd.Dir = p.dir
	return cmd
}

// run runs one of the server's programs to its end.
func (p *PostgresServer) run(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := p.command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// Start starts the server, again after Stop or Kill, and waits until it answers.
// What a killed one left of itself may keep it from starting for a moment.
func (p *PostgresServer) Start(t testing.TB) {
	t.Helper()
	for range 100 {
		ended := p.launch(t)
		for range 200 {
			if p.command("pg_isready", "-q", "-h", p.dir, "-U", "postgres").Run() == nil {
				return
			}
			select {
			case <-ended:
			case <-time.After(50 * time.Millisecond):
				continue
			}
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("PostgreSQL does not start")
}

// launch starts the server's process. The channel is closed when it ends.
func (p *PostgresServer) launch(t testing.TB) <-chan struct{} {
	t.Helper()
	cmd := p.command("postgres", "-D", filepath.Join(p.dir, "data"), "-k", p.dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300", "-c", "log_min_messages=fatal")
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // should the test process be killed
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the signal comes when this thread ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // it is stopped by a signal
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	p.stop = func(s os.Signal) {
		cmd.Process.Signal(s) // it may have ended already
		<-ended
	}
	return ended
}

// Stop ends the server as an administrator does in haste: connections are cut.
func (p *PostgresServer) Stop() { p.stop(syscall.SIGINT) }

// Kill ends the server with SIGKILL: it cleans nothing up, and its children
// die of its death. Start recovers from it.
func (p *PostgresServer) Kill() { p.stop(syscall.SIGKILL) }

// KillWithin makes the next transaction that writes into a table of a database
// wait at that statement, kills the server there, in the middle of the
// transaction, and calls done. It returns when the trap is set.
func (p *PostgresServer) KillWithin(url, table string, done func()) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		_, err = conn.Exec(ctx, `BEGIN; LOCK TABLE `+pgx.Identifier{table}.Sanitize()+` IN EXCLUSIVE MODE`)
	}
	if err != nil {
		cancel()
		return fmt.Errorf("lock %s: %w", table, err)
	}
	go func() {
		defer cancel()
		defer conn.Close(ctx) // its server is dead
		for waits := false; !waits && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted)`, table).Scan(&waits)
			if err != nil {
				break
			}
		}
		p.Kill()
		done()
	}()
	return nil
}

// NewDatabase creates an empty database and returns its URL.
func (p *PostgresServer) NewDatabase(t testing.TB) string { return p.copyOf(t, "template0") }

// Copy creates a copy of a database that nobody uses, and returns its URL.
func (p *PostgresServer) Copy(t testing.TB, url string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(url, "postgres:///"), "?")
	return p.copyOf(t, name)
}

func (p *PostgresServer) copyOf(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("test%d", p.count.Add(1))
	p.run(t, "createdb", "-h", p.dir, "-U", "postgres", "-T", template, name)
	return fmt.Sprintf("postgres:///%s?host=%s&user=postgres", name, p.dir)
}
