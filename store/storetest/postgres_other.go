//go:build !linux

package storetest

import "testing"

// A PostgresServer is a server of one test.
type PostgresServer struct{}

// StartPostgres skips the test: servers are started on Linux alone.
func StartPostgres(t testing.TB) *PostgresServer {
	t.Skip("PostgreSQL is started for tests on Linux alone")
	return nil
}

// The methods below are never reached.

func (*PostgresServer) Start(testing.TB)                        {}
func (*PostgresServer) Stop()                                   {}
func (*PostgresServer) Kill()                                   {}
func (*PostgresServer) NewDatabase(testing.TB) string           { return "" }
func (*PostgresServer) Copy(testing.TB, string) string          { return "" }
func (*PostgresServer) KillWithin(string, string, func()) error { return nil }
func (*PostgresServer) StartStandby(testing.TB) *PostgresServer { return nil }
func (*PostgresServer) Promote(testing.TB)                      {}
func (*PostgresServer) Either(string, *PostgresServer) string   { return "" }
