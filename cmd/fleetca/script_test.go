package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/store/storetest"
)

// TestScripts runs the command line as a person sees it. Scripts in
// testdata/server have a server: $SERVER, $MACHINES, $STATUS, $BROKER, its
// folder $DATA, and API tokens in $DATA/ROLE.token. So have those in
// testdata/alone, and testdata/rollover, which leave it in a state that others
// could not bear.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", "local"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"setmatch": setMatch},
	})
}

func TestServerScripts(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) { runServerScripts(t, newTestServer(t), "server") })
	t.Run("PostgreSQL", func(t *testing.T) {
		runServerScripts(t, newTestServerOn(t, storetest.StartPostgres(t).NewDatabase(t)), "server")
	})
	t.Run("rollover", func(t *testing.T) { runServerScripts(t, newTestServer(t), "rollover") })
	t.Run("alone", func(t *testing.T) { runServerScripts(t, newTestServer(t), "alone") })
}

func runServerScripts(t *testing.T, s *testServer, folder string) {
	for _, role := range []string{"admin", "factory", "auditor"} {
		if err := ca.WriteNewFile(filepath.Join(s.dir, role+".token"), []byte(s.token(t, role)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", folder),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"filemode": checkFileMode, "setmatch": setMatch},
		Setup: func(env *testscript.Env) error {
			env.Setenv("DATA", s.dir)
			env.Setenv("FLEETCA_DATABASE", s.database)
			env.Setenv("SERVER", "https://"+s.people)
			env.Setenv("MACHINES", "https://"+s.machines)
			env.Setenv("STATUS", "http://"+s.status)
			env.Setenv("BROKER", "mqtts://"+s.mqtts)
			env.Setenv("FLEETCA_SERVER", "https://"+s.people)
			env.Setenv("FLEETCA_CA", s.bundle())
			env.Setenv("ROOT_SHA256", ca.FingerprintOf(parseChain(t, s.bundle())[0]))
			env.Setenv("FLEETCA_TOKEN_FILE", filepath.Join(s.dir, "admin.token"))
			return nil
		},
	})
}

// checkFileMode is the script command filemode FILE OCTAL.
func checkFileMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// setMatch is the script command setmatch VARIABLE REGEXP: the first group of
// the match in what the last program printed.
func setMatch(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("no match of %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}
