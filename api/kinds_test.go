package api

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/ca"
)

// declaredKinds returns the constants of type Kind that a folder's source
// declares, by name.
func declaredKinds(t *testing.T, dir string) map[string]ca.Kind {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]ca.Kind{}
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !isKindType(spec.Type) || len(spec.Values) != 1 {
				return true
			}
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
				text, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				found[spec.Names[0].Name] = ca.Kind(text)
			}
			return true
		})
	}
	return found
}

func isKindType(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "Kind"
	case *ast.SelectorExpr:
		return e.Sel.Name == "Kind"
	}
	return false
}

func TestEveryKindHasARow(t *testing.T) {
	all := map[ca.Kind]bool{}
	for dir, least := range map[string]int{"../ca": 10, "../enroll": 10, ".": 3} {
		declared := declaredKinds(t, dir)
		if len(declared) < least {
			t.Errorf("%s: only %d kinds found; does this test still read the source right?", dir, len(declared))
		}
		for name, kind := range declared {
			all[kind] = true
			if _, ok := kinds[kind]; !ok {
				t.Errorf("%s: %s (%q) has no row in kinds", dir, name, kind)
			}
		}
	}
	for kind, row := range kinds {
		if !all[kind] {
			t.Errorf("kinds has a row for %q, which nothing declares", kind)
		}
		if row.status < 400 || row.status > 599 || row.title == "" || strings.HasSuffix(row.title, ".") {
			t.Errorf("%q: status %d, title %q", kind, row.status, row.title)
		}
		if row.secret != (row.detail != "") {
			t.Errorf("%q: a row has a detail when the error's own text is secret, and only then", kind)
		}
		if row.status >= 500 && !row.secret && kind != ca.KindClock && kind != KindLapsed {
			t.Errorf("%q: a server's error shows its text", kind)
		}
	}
}
