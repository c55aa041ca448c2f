package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fleetca/fleetca/"

// mayImport is the design's list: which packages of ours a package may import.
var mayImport = map[string][]string{
	"ca":                        {},
	"migrations":                {},
	"enroll/mqtts":              {},
	"enroll/mqtts/brokerkit":    {}, // a test kit
	"enroll/brokers":            {"enroll/mqtts"},
	"enroll/brokers/mosquitto":  {"enroll/mqtts", "enroll/brokers"},
	"enroll/brokers/brokertest": {"enroll/brokers"}, // a test kit
	"enroll/brokers/embedded":   {"enroll/mqtts", "enroll/brokers"},
	"enroll/leaktest":           {}, // a test kit
	"enroll":                    {"ca", "enroll/mqtts", "enroll/brokers"},
	"api":                       {"ca", "enroll", "enroll/mqtts"},
	"api/client":                {"ca", "enroll", "enroll/mqtts"},
	"web":                       {"ca", "enroll", "enroll/mqtts"},
	"web/browsertest":           {}, // a test kit
	"store":                     {"ca", "enroll", "migrations"},
	"store/storetest":           {"ca", "enroll", "enroll/mqtts"},
	"cmd/fleetca":               {"ca", "enroll", "enroll/mqtts", "enroll/brokers", "enroll/brokers/embedded", "enroll/brokers/mosquitto", "api", "api/client", "store", "migrations", "web"},
}

// fences says which packages alone may import a third party.
var fences = map[string][]string{
	"github.com/smallstep/":               {"ca"},
	"go.step.sm/":                         {"ca"},
	"github.com/jackc/pgx":                {"store"},
	"modernc.org/sqlite":                  {"store"},
	"github.com/riverqueue/":              {"store"},
	"github.com/spf13/":                   {"cmd/fleetca"},
	"github.com/go-chi/":                  {"api", "web"},
	"github.com/go-json-experiment/":      {"api", "ca"},
	"github.com/mochi-mqtt/":              {"enroll/brokers/embedded", "enroll/mqtts/brokerkit"},
	"github.com/nats-io/":                 {"enroll/mqtts/brokerkit"},
	"github.com/eclipse/paho":             {"cmd/fleetca"},
	"github.com/chromedp/":                {"web/browsertest"},
	"github.com/prometheus/client_golang": {"api", "cmd/fleetca"},
}

// TestImports holds every import of the tree against the design's list.
func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != "." && d.Name() != "..") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil // tests may import test kits
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		checkImports(t, path.Dir(filepath.ToSlash(rel)), file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImports(t *testing.T, pkg, file string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	allowed, known := mayImport[pkg]
	if !known {
		t.Errorf("%s: package %s is not in the design's list", file, pkg)
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if ours, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(allowed, ours) {
			t.Errorf("%s: %s may not import %s", file, pkg, ours)
		}
		for prefix, inside := range fences {
			if strings.HasPrefix(imported, prefix) && !slices.Contains(inside, pkg) && pkg != "store/storetest" {
				t.Errorf("%s: %s is for %v alone", file, imported, inside)
			}
		}
	}
}

// TestLayout holds the top level against what is agreed.
func TestLayout(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	agreed := []string{"cmd", "ca", "enroll", "api", "store", "migrations", "web", "go.mod", "go.sum", "README.md", "LICENSE"}
	for _, e := range entries {
		if !slices.Contains(agreed, e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}
