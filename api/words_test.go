package api

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests compare with")

// TestWords holds words.json against the source of the types that the document
// shows. -update writes it.
func TestWords(t *testing.T) {
	c := newCatalog()
	c.describe(Routes())
	found := map[string]word{}
	for _, dir := range []string{".", "../ca", "../enroll", "../enroll/brokers", "../enroll/mqtts"} {
		readWords(t, dir, c.sources, found)
	}
	for source := range c.sources {
		if _, ok := found[source]; !ok {
			t.Errorf("%s is in the document and not in the source", source)
		}
	}
	got, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("words.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("words.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("words.json is not what the source says: go test ./api -run TestWords -update")
	}
}

// readWords reads the wanted types of a folder's source.
func readWords(t *testing.T, dir string, wanted map[string]bool, found map[string]word) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]word{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if key := file.Name.Name + "." + spec.Name.Name; wanted[key] {
						found[key] = wordOfSpec(decl, spec)
					}
				case *ast.ValueSpec:
					constant(spec, file.Name.Name, values)
				}
			}
		}
	}
	for key, v := range values {
		if w, ok := found[key]; ok {
			w.Values, w.Notes = v.Values, v.Notes
			found[key] = w
		}
	}
}

// wordOfSpec reads a type's comments: above it, and above or beside its fields.
func wordOfSpec(decl *ast.GenDecl, spec *ast.TypeSpec) word {
	w := word{Doc: oneLine(decl.Doc)}
	fields, ok := spec.Type.(*ast.StructType)
	if !ok {
		return w
	}
	w.Fields = map[string]string{}
	for _, f := range fields.Fields.List {
		doc := oneLine(f.Doc)
		if doc == "" {
			doc = oneLine(f.Comment)
		}
		if f.Tag == nil || doc == "" || strings.Contains(f.Tag.Value, `json:"-"`) {
			continue
		}
		for _, name := range f.Names {
			w.Fields[name.Name] = doc
		}
	}
	return w
}

// constant adds the text of a constant, and the comment beside it, to the word
// of its type.
func constant(spec *ast.ValueSpec, pkg string, values map[string]word) {
	name, ok := spec.Type.(*ast.Ident)
	if !ok || len(spec.Values) != 1 {
		return
	}
	lit, ok := spec.Values[0].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return
	}
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		return
	}
	w := values[pkg+"."+name.Name]
	w.Values = append(w.Values, text)
	if note := oneLine(spec.Comment); note != "" {
		if w.Notes == nil {
			w.Notes = map[string]string{}
		}
		w.Notes[text] = note
	}
	values[pkg+"."+name.Name] = w
}

func oneLine(g *ast.CommentGroup) string {
	if g == nil {
		return ""
	}
	return strings.Join(strings.Fields(g.Text()), " ")
}

// TestStepNames holds the names of steps against the source that has them.
func TestStepNames(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../enroll/steps.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var declared []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "step") && len(spec.Values) == 1 {
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
				text, _ := strconv.Unquote(lit.Value)
				declared = append(declared, text)
			}
		}
		return true
	})
	if want := append(revocationSteps[:], rotationSteps[:]...); !slices.Equal(declared, want) {
		t.Errorf("the source has the steps %q, the document %q", declared, want)
	}
}
