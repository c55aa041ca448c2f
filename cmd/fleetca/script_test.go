package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/store/storetest"
)

// TestScripts runs the command line as a person sees it. Scripts in
// testdata/server have a server: $SERVER, $MACHINES, $STATUS, $BROKER, its
// folder $DATA, and API tokens in $DATA/ROLE.token.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: filepath.Join("testdata", "local")})
}

func TestServerScripts(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) { runServerScripts(t, newTestServer(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		runServerScripts(t, newTestServerOn(t, storetest.StartPostgres(t).NewDatabase(t)))
	})
}

func runServerScripts(t *testing.T, s *testServer) {
	for _, role := range []string{"admin", "factory", "auditor"} {
		if err := writeNew(filepath.Join(s.dir, role+".token"), []byte(s.token(t, role)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "server"),
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
