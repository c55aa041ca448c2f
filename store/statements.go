package store

import (
	"context"
	"database/sql"
	"sync"
)

// maxStatements bounds how many statements are kept compiled.
const maxStatements = 256

// statements keeps the statements of a database/sql pool compiled: compiling
// one costs SQLite more than running it.
//
// In a transaction nothing can be compiled for the pool (its only connection
// is taken), so what was missed there is compiled before the next one.
type statements struct {
	db     *sql.DB
	mu     sync.RWMutex
	ready  map[string]*sql.Stmt
	missed map[string]bool
}

func newStatements(db *sql.DB) *statements {
	return &statements{db: db, ready: map[string]*sql.Stmt{}, missed: map[string]bool{}}
}

// get returns the compiled statement, or nil and remembers the text.
func (s *statements) get(text string) *sql.Stmt {
	s.mu.RLock()
	stmt, known := s.ready[text], s.missed[text]
	full := len(s.ready)+len(s.missed) >= maxStatements
	s.mu.RUnlock()
	if stmt == nil && !known && !full {
		s.mu.Lock()
		s.missed[text] = true
		s.mu.Unlock()
	}
	return stmt
}

// prepare compiles what was missed. A text that does not compile is left out:
// it will say why where it is run.
func (s *statements) prepare(ctx context.Context) {
	s.mu.RLock()
	n := len(s.missed)
	s.mu.RUnlock()
	if n == 0 {
		return
	}
	s.mu.Lock()
	missed := s.missed
	s.missed = map[string]bool{}
	s.mu.Unlock()
	for text := range missed { // unlocked: this waits for a connection
		stmt, err := s.db.PrepareContext(ctx, text)
		if err != nil {
			continue
		}
		s.mu.Lock()
		if old := s.ready[text]; old == nil {
			s.ready[text], stmt = stmt, nil
		}
		s.mu.Unlock()
		if stmt != nil {
			stmt.Close() // another goroutine was faster
		}
	}
}

// close releases every statement.
func (s *statements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stmt := range s.ready {
		stmt.Close() // the connections are closed next
	}
	clear(s.ready)
}

// sqlRunner is what *sql.DB and *sql.Tx share.
type sqlRunner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// sqlQuerier runs SQL on database/sql, in a transaction unless tx is nil.
type sqlQuerier struct {
	runner     sqlRunner
	tx         *sql.Tx
	statements *statements
}

// compiled returns the statement to use, or nil.
func (q sqlQuerier) compiled(ctx context.Context, text string) *sql.Stmt {
	stmt := q.statements.get(text)
	if stmt != nil && q.tx != nil {
		return q.tx.StmtContext(ctx, stmt)
	}
	return stmt
}

func (q sqlQuerier) exec(ctx context.Context, text string, args ...any) (int64, error) {
	var res sql.Result
	var err error
	if stmt := q.compiled(ctx, text); stmt != nil {
		res, err = stmt.ExecContext(ctx, args...)
	} else {
		res, err = q.runner.ExecContext(ctx, text, args...)
	}
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (q sqlQuerier) query(ctx context.Context, text string, args ...any) (rows, error) {
	var found *sql.Rows
	var err error
	if stmt := q.compiled(ctx, text); stmt != nil {
		found, err = stmt.QueryContext(ctx, args...)
	} else {
		found, err = q.runner.QueryContext(ctx, text, args...)
	}
	if err != nil {
		return nil, err
	}
	return sqlRows{found}, nil
}

// sqlRows are rows of database/sql.
type sqlRows struct{ *sql.Rows }

func (r sqlRows) close() { r.Rows.Close() } // a failed read is in Err
