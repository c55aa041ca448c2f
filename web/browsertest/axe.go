package browsertest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// axeVersion is the release of axe-core that judges pages.
const axeVersion = "4.14.1"

var axe struct {
	once   sync.Once
	script string
	err    error
}

// axeScript returns axe-core, which comes from the npm registry once a run.
func axeScript(t testing.TB) string {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		skip(t, "npm is not installed (Debian package npm): axe-core comes by it")
	}
	axe.once.Do(func() {
		var dir string
		if dir, axe.err = os.MkdirTemp("", "fleetca-axe-"); axe.err != nil {
			return
		}
		defer os.RemoveAll(dir)
		if axe.err = exec.Command(npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", dir, "axe-core@"+axeVersion).Run(); axe.err != nil {
			return
		}
		var text []byte
		text, axe.err = os.ReadFile(filepath.Join(dir, "node_modules", "axe-core", "axe.min.js"))
		axe.script = string(text)
	})
	if axe.err != nil {
		skip(t, "axe-core cannot be had: "+axe.err.Error())
	}
	return axe.script
}

// A violation is one of axe-core's findings.
type violation struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML, FailureSummary string }
}

// Axe fails the test for each serious or critical finding of axe-core on the
// page as it is shown.
func (b *Browser) Axe() {
	b.Helper()
	script := axeScript(b)
	Eval[bool](b, script+";true")
	text := Eval[string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations))`)
	var found []violation
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		b.Fatal(err)
	}
	for _, v := range found {
		if v.Impact != "serious" && v.Impact != "critical" {
			continue
		}
		for _, n := range v.Nodes {
			b.Errorf("%s: %s (%s): %s\n%s\n%s", b.Path(), v.ID, v.Impact, v.Help, n.HTML, n.FailureSummary)
		}
	}
}
