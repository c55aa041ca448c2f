package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// load copies rows with PostgreSQL's COPY.
func (e *postgresEngine) load(ctx context.Context, q tx, table string, columns []string, rows [][]any) error {
	_, err := q.(*postgresTx).tx.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromRows(rows))
	return err
}

// load inserts by one compiled statement: compiling one for many rows costs
// more than it saves.
func (e *sqliteEngine) load(ctx context.Context, q tx, table string, columns []string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	t := BackupTable{Name: table}
	for _, c := range columns {
		t.Columns = append(t.Columns, BackupColumn{Name: c})
	}
	insert, err := q.(*sqliteTx).tx.PrepareContext(ctx, t.insertText(1))
	if err != nil {
		return err
	}
	defer insert.Close()
	for _, row := range rows {
		if _, err := insert.ExecContext(ctx, row...); err != nil {
			return err
		}
	}
	return nil
}

// indexes lists what is neither a primary key nor a constraint.
func (e *postgresEngine) indexes(ctx context.Context, q querier, tables []string) ([]indexText, error) {
	return collect(ctx, q, scanIndex, `SELECT CAST(i.relname AS TEXT), pg_get_indexdef(i.oid) FROM pg_index x
		JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
		WHERE t.relnamespace = to_regnamespace(CAST(current_schema() AS TEXT)) AND t.relname = ANY($1)
			AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.oid) ORDER BY i.relname`, tables)
}

func (e *sqliteEngine) indexes(ctx context.Context, q querier, tables []string) ([]indexText, error) {
	quotedNames := make([]string, len(tables))
	for i, t := range tables {
		quotedNames[i] = "'" + t + "'"
	}
	return collect(ctx, q, scanIndex, `SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
		AND tbl_name IN (`+strings.Join(quotedNames, ", ")+`) ORDER BY name`)
}

// analyze also marks pages as seen by all, so that counts read indexes alone.
func (e *postgresEngine) analyze(ctx context.Context) error {
	for _, t := range seedTables {
		if _, err := e.pool.Exec(ctx, "VACUUM (ANALYZE) "+quoted(t.name)); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return nil
}

// analyze does nothing: on SQLite plans are made without statistics.
func (e *sqliteEngine) analyze(context.Context) error { return nil }
