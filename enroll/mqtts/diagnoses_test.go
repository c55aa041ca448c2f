package mqtts

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests compare with")

var (
	placeholder = regexp.MustCompile(`\{([a-z]+)\}`)
	// addition is what is said only where there is more to say.
	addition = regexp.MustCompile(`\{(takes|asked|unlisted|why|given|saw)\}`)
	// hole is what is left where a text cannot do without an addition.
	hole = regexp.MustCompile(`^ | $|  | [.,;:)]|\( |\(\)`)
)

// TestDiagnoses compares DIAGNOSES.md with the table of the rules, in the order
// of the constants. -update writes it.
func TestDiagnoses(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# What the verifier says

Every code that ` + "`fleetca verify`" + ` may diagnose: how severe it is, what it says, and what mends it. Words in capitals stand
for what was seen. Codes are stable. An error makes the verdict ` + "`fail`" + `; a warning marks its step; what must be refused and is
not is an error of its check. Written from the source: ` + "`go test ./enroll/mqtts -run TestDiagnoses -update`" + `.
`)
	listed := 0
	for _, g := range codeGroups(t) {
		fmt.Fprintf(&b, "\n## %s\n\n| code | severity | says | fix |\n|---|---|---|---|\n", g.title)
		for _, code := range g.codes {
			r, ok := rules[code]
			if !ok {
				t.Errorf("%s has no rule", code)
			}
			listed++
			for _, text := range []string{cell(r.message), cell(r.fix)} {
				if hole.MatchString(text) {
					t.Errorf("%s says %q: what it needs is an addition", code, text)
				}
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", code, r.severity, cell(r.message), cell(r.fix))
		}
	}
	if listed != len(rules) {
		t.Errorf("%d codes for %d rules", listed, len(rules))
	}
	if *update {
		if err := os.WriteFile("DIAGNOSES.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile("DIAGNOSES.md"); err != nil || string(have) != b.String() {
		t.Errorf("DIAGNOSES.md is not what the rules say (%v): go test ./enroll/mqtts -run TestDiagnoses -update", err)
	}
}

// cell makes the text of a rule fit into a table.
func cell(s string) string {
	s = addition.ReplaceAllString(s, "")
	s = placeholder.ReplaceAllStringFunc(s, func(p string) string { return strings.ToUpper(strings.Trim(p, "{}")) })
	return strings.ReplaceAll(s, "|", `\|`)
}

// A codeGroup is one block of constants.
type codeGroup struct {
	title string
	codes []Code
}

// codeGroups reads the constants of type Code from the source.
func codeGroups(t *testing.T) (groups []codeGroup) {
	file, err := parser.ParseFile(token.NewFileSet(), "diagnosis.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST || !strings.HasPrefix(decl.Doc.Text(), "Codes of ") {
			continue
		}
		title := strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(decl.Doc.Text(), "Codes of ")), ".")
		g := codeGroup{title: strings.ToUpper(title[:1]) + title[1:]}
		for _, spec := range decl.Specs {
			value, err := strconv.Unquote(spec.(*ast.ValueSpec).Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			g.codes = append(g.codes, Code(value))
		}
		groups = append(groups, g)
	}
	return groups
}
