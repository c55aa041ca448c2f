package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll/leaktest"
	"github.com/fleetca/fleetca/store/storetest"
)

// A vault knows secrets, and all that was written while they were about.
type vault struct {
	*testing.T
	dir     string
	secrets map[string]string // by what they are
	seen    bytes.Buffer
}

func newVault(t *testing.T) *vault {
	return &vault{T: t, dir: t.TempDir(), secrets: map[string]string{}}
}

// canary makes a secret up.
func (v *vault) canary(what string) string {
	v.secrets[what] = leaktest.Canary(what)
	return v.secrets[what]
}

// file writes a secret into a file.
func (v *vault) file(name, secret string) string {
	v.Helper()
	path := filepath.Join(v.dir, name)
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		v.Fatal(err)
	}
	return path
}

// run runs a command line, whatever comes of it, and keeps what it writes.
func (v *vault) run(args ...string) string {
	v.Helper()
	stdout, stderr, code := fleetca(v.T, args...)
	fmt.Fprintf(&v.seen, "$ fleetca %s: exit %d\n%s%s\n", strings.Join(args, " "), code, stdout, stderr)
	return stdout
}

// shows runs a command line whose output is a secret, which is kept as one.
func (v *vault) shows(what string, args ...string) string {
	v.Helper()
	stdout, stderr, code := fleetca(v.T, args...)
	if code != 0 {
		v.Fatalf("%s: exit %d\n%s", what, code, stderr)
	}
	v.seen.WriteString(stderr)
	v.secrets[what] = strings.TrimSpace(stdout)
	return v.secrets[what]
}

// call makes a call, and keeps its answer, headers and all.
func (v *vault) call(c *restClient, method, path string, body any, header ...string) answer {
	v.Helper()
	a := c.send(v.T, method, path, body, header...)
	fmt.Fprintf(&v.seen, "%d %v\n%s\n", a.status, a.header, a.body)
	return a
}

// verdict fails for every secret that was seen.
func (v *vault) verdict() {
	v.Helper()
	text := v.seen.String()
	for what, secret := range v.secrets {
		bare := strings.TrimPrefix(strings.TrimPrefix(secret, "fca_"), "fce_")
		if len(bare) < 16 {
			v.Errorf("%s is %q: too short to be looked for", what, secret)
		}
		if i := strings.Index(text, bare); i >= 0 {
			v.Errorf("the %s shows: ...%s...", what, text[max(0, i-200):min(len(text), i+100)])
		}
	}
}

// I23: over the whole command line and a server that logs all it can, no
// secret is in a log, an answer, the audit trail, a metric or an error.
func TestNoSecretShows_I23(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) { testNoSecretShows(newVault(t), "") })
	t.Run("PostgreSQL", func(t *testing.T) {
		v := newVault(t)
		testNoSecretShows(v, storetest.StartPostgres(t).NewDatabase(t)+"&password="+v.canary("password of the database"))
	})
}

func testNoSecretShows(v *vault, database string) {
	passphrase := v.file("passphrase", v.canary("passphrase"))
	s := &testServer{dir: filepath.Join(v.dir, "data"), database: database, args: []string{"--log-level", "debug", "--passphrase-file", passphrase}}
	// The database's URL is an argument here, and so in the text of the run: it
	// comes by the environment elsewhere.
	quiet := func(args ...string) {
		v.Helper()
		stdout, stderr, code := fleetca(v.T, append(args, "--data", s.dir, "--database", database)...)
		fmt.Fprintf(&v.seen, "$ %s: exit %d\n%s%s\n", args[0], code, stdout, stderr)
	}
	quiet("init", "--passphrase-file", passphrase)
	s.people, s.machines, s.status, s.mqtts = freePort(v.T), freePort(v.T), freePort(v.T), freePort(v.T)
	s.start(v.T)
	v.Cleanup(func() { s.stop(v.T) })

	password := v.file("password", v.canary("password"))
	wrong := v.file("wrong", v.canary("wrong password"))
	quiet("user", "add", "eve", "--role", "admin", "--password-file", password)
	quiet("user", "add", "eve", "--role", "admin", "--password-file", wrong)
	quiet("user", "list")
	quiet("doctor", "--passphrase-file", wrong)
	quiet("migrate")

	at := []string{"--server", "https://" + s.people, "--ca", s.bundle()}
	client := func(args ...string) []string { return append(args, at...) }
	token := filepath.Join(v.dir, "eve.token")
	v.run(client("login", "--user", "eve", "--password-file", wrong, "--token-out", token)...)
	v.run(client("login", "--user", "eve", "--password-file", password, "--token-out", token)...)
	text, err := os.ReadFile(token)
	if err != nil {
		v.Fatal(err)
	}
	v.secrets["token of a login"] = strings.TrimSpace(string(text))
	at = append(at, "--token-file", token)
	v.run(client("order", "create", "--id", "wo", "--product", "p", "--quantity", "3")...)
	program := v.shows("API token", client("token", "create", "--role", "factory", "--name", "line", "--work-order", "wo")...)
	enrollment := v.shows("enrollment token", client("token", "create", "--work-order", "wo")...)
	v.run(client("token", "list", "--json")...)
	v.run(client("device", "enroll", "d1", "--enrollment-token-file", v.file("enrollment", enrollment), "--out", filepath.Join(v.dir, "d1"))...)
	v.run(client("device", "enroll", "d2", "--enrollment-token-file", v.file("enrollment", enrollment), "--out", filepath.Join(v.dir, "d2"))...)
	v.run(append(client("device", "list"), "--token-file", v.file("guess", "fca_"+v.canary("guessed token")))...)
	v.callAll(s, program, enrollment)

	s.stop(v.T)
	v.seen.WriteString(s.log.String())
	v.verdict()
}

// callAll makes calls that carry secrets where they belong, and where they do
// not, and then reads everything that the server tells.
func (v *vault) callAll(s *testServer, program, enrollment string) {
	c := s.rest(v.T, "admin")
	v.secrets["token of the admin"] = c.token
	nobody := s.rest(v.T, "")
	guess := v.secrets["guessed token"]
	v.call(nobody, http.MethodPost, "/login", map[string]string{"name": v.canary("password typed as a name"), "password": v.secrets["password"]})
	v.call(nobody, http.MethodPost, "/login", map[string]string{"name": v.canary("password of several words as a name") + " and more", "password": "x"})
	v.call(nobody, http.MethodPost, "/login", map[string]string{"name": "eve", "password": v.secrets["wrong password"], "unknown": guess})
	v.call(nobody, http.MethodPost, "/login", `{"name":"eve","password":["`+v.secrets["password"]+`"]}`)
	v.call(nobody, http.MethodPost, "/login", `{"name":"eve","password":"`+v.secrets["password"])
	for range 7 {
		v.call(nobody, http.MethodPost, "/login", map[string]string{"name": "eve", "password": v.secrets["wrong password"]})
	}
	v.call(nobody, http.MethodGet, "/devices?token="+guess, nil)
	v.call(nobody, http.MethodGet, "/devices", nil, "Authorization", "Bearer "+guess)
	v.call(nobody, http.MethodGet, "/devices", nil, "Authorization", "Basic "+guess)
	v.call(nobody, http.MethodPost, "/enrollments", map[string]string{"token": "fce_" + guess, "deviceId": "d", "csr": "x"})
	v.call(nobody, http.MethodPost, "/enrollments", map[string]string{"token": enrollment, "deviceId": "d3", "csr": "x"})
	v.call(nobody, http.MethodGet, "/whoami", nil, "Authorization", "Bearer "+program)
	v.call(c, http.MethodPost, "/users", map[string]string{"name": "bob", "role": "auditor", "password": v.canary("new password")}, "Idempotency-Key", "one")
	v.call(c, http.MethodPost, "/users", map[string]string{"name": "bob", "role": "auditor", "password": v.secrets["new password"]}, "Idempotency-Key", "one")
	v.call(c, http.MethodPost, "/users", map[string]string{"name": "bob", "role": "auditor", "password": v.secrets["password"]}, "Idempotency-Key", "one")
	v.call(c, http.MethodPost, "/users/bob/password", map[string]string{"password": v.canary("next password")})
	a := c.send(v.T, http.MethodPost, "/tokens", map[string]string{"name": "books", "role": "auditor"})
	var made struct{ Token string }
	if err := json.Unmarshal(a.body, &made); err != nil || a.status != http.StatusCreated {
		v.Fatalf("%d %s", a.status, a.body)
	}
	v.secrets["API token by REST"] = made.Token
	for _, path := range []string{"/users", "/tokens", "/events?limit=500", "/devices", "/work-orders", "/whoami", "/certificates"} {
		if a := v.call(c, http.MethodGet, path, nil); a.status != http.StatusOK {
			v.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	resp, err := http.Get("http://" + s.status + "/metrics")
	if err != nil {
		v.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := v.seen.ReadFrom(resp.Body); err != nil {
		v.Fatal(err)
	}
}

// I23: a database that cannot be used is named without its password, however
// its URL is wrong.
func TestNoDatabasePasswordShows_I23(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	dir := filepath.Join(v.dir, "data")
	v.run("init", "--data", dir)
	canary := v.canary("password of the database")
	for _, url := range []string{
		"postgres://fleetca:" + canary + "@127.0.0.1:1/fleetca",
		"postgres://fleetca:" + canary + "@127.0.0.1:port/fleetca",
		"postgres://fleetca:" + canary + "@[::1/fleetca",
		"postgres://fleetca:" + canary + "%zz@127.0.0.1:1/fleetca",
		"postgres://127.0.0.1:1/fleetca?password=" + canary + "&sslmode=wrong",
		"postgresql://fleetca:" + canary + "@127.0.0.1:1/fleetca?pool_max_conns=many",
		"mysql://fleetca:" + canary + "@127.0.0.1/fleetca",
		"postgres:fleetca:" + canary + "@127.0.0.1/fleetca",
	} {
		for _, args := range [][]string{{"serve"}, {"migrate"}, {"doctor"}, {"user", "list"}, {"backup", "--out", filepath.Join(v.dir, "b")}} {
			stdout, stderr, code := fleetca(t, append(args, "--data", dir, "--database", url)...)
			if code == 0 && args[0] != "doctor" {
				t.Errorf("%s with a wrong URL passes", args[0])
			}
			fmt.Fprintf(&v.seen, "$ %v: %d\n%s%s\n", args, code, stdout, stderr)
		}
	}
	v.verdict()
}
