package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A columnKind is the type of a column, as far as both engines share it.
type columnKind string

const (
	kindInteger columnKind = "integer"
	kindText    columnKind = "text"
	kindBytes   columnKind = "bytes"
)

// columnKinds maps the types of both engines.
var columnKinds = map[string]columnKind{
	"INTEGER": kindInteger, "bigint": kindInteger,
	"TEXT": kindText, "text": kindText,
	"BLOB": kindBytes, "bytea": kindBytes,
}

// A catalogColumn is a column as the engine's catalog has it.
type catalogColumn struct{ table, name, kind string }

// A reference is a foreign key from one table to another.
type reference struct{ child, parent string }

// outsideBackup reports whether a table is none of ours, or stands for
// something that a backup has in another form.
func outsideBackup(table string) bool {
	return table == "schema_migrations" || strings.HasPrefix(table, "river_") || strings.HasPrefix(table, "sqlite_")
}

// backupTables returns the tables that a backup holds, those that are referred
// to first, each with its columns. They come from the catalog, so that a table
// of a later migration is in it without a word here.
func backupTables(ctx context.Context, e engine, q querier) ([]BackupTable, error) {
	columns, err := e.columns(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read the catalog of columns: %w", err)
	}
	refs, err := e.references(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read the catalog of references: %w", err)
	}
	var tables []BackupTable
	for _, c := range columns { // by table, in the order they were made in
		if outsideBackup(c.table) {
			continue
		}
		kind, known := columnKinds[c.kind]
		if !known {
			return nil, fmt.Errorf("column %s.%s has the type %s, which backups do not carry", c.table, c.name, c.kind)
		}
		if n := len(tables); n == 0 || tables[n-1].Name != c.table {
			tables = append(tables, BackupTable{Name: c.table})
		}
		t := &tables[len(tables)-1]
		t.Columns = append(t.Columns, BackupColumn{c.name, kind})
	}
	return parentsFirst(tables, refs)
}

// parentsFirst sorts tables so that rows can be inserted in their order, and
// by name where references leave a choice.
func parentsFirst(tables []BackupTable, refs []reference) ([]BackupTable, error) {
	var sorted []BackupTable
	for len(tables) > 0 {
		i := slices.IndexFunc(tables, func(t BackupTable) bool {
			return !slices.ContainsFunc(refs, func(r reference) bool {
				return r.child == t.Name && r.parent != t.Name &&
					slices.ContainsFunc(tables, func(other BackupTable) bool { return other.Name == r.parent })
			})
		})
		if i < 0 {
			return nil, fmt.Errorf("table %s and others refer to each other in a circle", tables[0].Name)
		}
		sorted = append(sorted, tables[i])
		tables = slices.Delete(tables, i, i+1)
	}
	return sorted, nil
}

// sameTables says how the tables of a backup differ from those of a database,
// whatever their order; "" when they do not.
func sameTables(backup, database []BackupTable) string {
	for _, t := range database {
		if !slices.ContainsFunc(backup, func(b BackupTable) bool { return b.Name == t.Name }) {
			return fmt.Sprintf("table %s is missing", t.Name)
		}
	}
	for n, b := range backup {
		i := slices.IndexFunc(database, func(t BackupTable) bool { return t.Name == b.Name })
		if i < 0 || slices.ContainsFunc(backup[:n], func(other BackupTable) bool { return other.Name == b.Name }) {
			return fmt.Sprintf("table %.80q does not belong there", b.Name)
		}
		if !slices.Equal(b.Columns, database[i].Columns) {
			return fmt.Sprintf("table %s has other columns", b.Name)
		}
	}
	return ""
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (t BackupTable) columnList() string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = quoted(c.Name)
	}
	return strings.Join(names, ", ")
}

func (t BackupTable) selectAll() string {
	return "SELECT " + t.columnList() + " FROM " + quoted(t.Name)
}

// insertText returns the statement that inserts n rows.
func (t BackupTable) insertText(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", quoted(t.Name), t.columnList())
	for i := range n * len(t.Columns) {
		switch {
		case i == 0:
			b.WriteByte('(')
		case i%len(t.Columns) == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	b.WriteByte(')')
	return b.String()
}

// scanRow reads a row whose values are what the columns say: int64, string,
// []byte, or nil.
func (t BackupTable) scanRow(row scanner) ([]any, error) {
	values := make([]any, len(t.Columns))
	targets := make([]any, len(t.Columns))
	for i := range values {
		targets[i] = &values[i]
	}
	if err := row.Scan(targets...); err != nil {
		return nil, err
	}
	for i, c := range t.Columns {
		v, err := c.checked(values[i])
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		values[i] = v
	}
	return values, nil
}

// checked returns a value of the database as its kind.
func (c BackupColumn) checked(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		if c.Kind == kindInteger {
			return v, nil
		}
	case string:
		if c.Kind == kindText && !utf8.ValidString(v) {
			return nil, fmt.Errorf("%.80q is not UTF-8", v)
		}
		if c.Kind == kindText {
			return v, nil
		}
	case []byte:
		if c.Kind == kindBytes {
			return append([]byte{}, v...), nil // never nil, which would be NULL
		}
	}
	return nil, fmt.Errorf("a value is %T, not %s", v, c.Kind)
}

func scanColumn(row scanner) (c catalogColumn, err error) {
	err = row.Scan(&c.table, &c.name, &c.kind)
	return c, err
}

func scanReference(row scanner) (r reference, err error) {
	err = row.Scan(&r.child, &r.parent)
	return r, err
}

func (e *sqliteEngine) columns(ctx context.Context, q querier) ([]catalogColumn, error) {
	return collect(ctx, q, scanColumn, `SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c
		WHERE m.type = 'table' ORDER BY m.name, c.cid`)
}

func (e *sqliteEngine) references(ctx context.Context, q querier) ([]reference, error) {
	return collect(ctx, q, scanReference, `SELECT m.name, f."table" FROM sqlite_master m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table'`)
}

func (e *postgresEngine) columns(ctx context.Context, q querier) ([]catalogColumn, error) {
	return collect(ctx, q, scanColumn, `SELECT CAST(c.relname AS TEXT), CAST(a.attname AS TEXT), format_type(a.atttypid, a.atttypmod)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = to_regnamespace(CAST(current_schema() AS TEXT)) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY c.relname, a.attnum`)
}

func (e *postgresEngine) references(ctx context.Context, q querier) ([]reference, error) {
	return collect(ctx, q, scanReference, `SELECT CAST(c.relname AS TEXT), CAST(p.relname AS TEXT)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
		WHERE k.contype = 'f' AND k.connamespace = to_regnamespace(CAST(current_schema() AS TEXT))`)
}
