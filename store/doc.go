// Package store keeps the inventory, the ledger and the audit trail in one SQL
// database. It implements enroll.Store, and with it ca.Recorder and
// ca.CRLStore; package store/storetest is the contract that it passes.
//
// Engines. SQLite is the default and needs nothing else: one file in WAL mode
// with synchronous=FULL, one connection that writes and a pool that reads.
// PostgreSQL is reached through pgx. One SQL text serves both: $1 for
// parameters, RETURNING, ON CONFLICT, row values for keyset paging. What the
// engines do differently stands behind the type engine.
//
// Writing. Every change goes the same way:
//
//  1. A method makes a function that does the change on a transaction: guarded
//     updates first (UPDATE ... WHERE state = ...), and only when the row count
//     is zero a look at why.
//  2. The function is queued. A committer takes whatever waits, runs it all in
//     one transaction, and commits: one write to stable storage for many changes
//     (group commit). Where one is refused it fails alone: each is run again, on
//     SQLite under a savepoint, on PostgreSQL in a transaction of its own.
//  3. Only then does the method return. When COMMIT itself fails nobody knows
//     whether it took effect, and the error says so.
//
// A caller's context drops a change that still waits. One that was taken is
// waited for, on PostgreSQL for writeBound at most: then the transaction is
// given up, and the error says that nothing was changed, or that this is unknown.
//
// The audit event and the jobs of a change are part of its function, so they
// commit with it or not at all.
//
// Background work runs on River in the same database: see Jobs.
//
// Backup writes all of it, of either engine, in one form that Restore brings
// into either; the form is described in backup.go.
//
// Errors. What a caller did wrong is a *ca.Error of the kind that the contract
// names. What the database did wrong is one too, mostly of
// enroll.KindUnavailable; its text is ours, and the driver's stays in Err.
package store
