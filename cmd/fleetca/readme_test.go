package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func readReadme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The README's walks, as a person would paste them: every command, and what
// must be seen, in this order. The two commands above them are TestDemo, and
// this.
func TestReadme(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"curl", "openssl", "awk", "od"} {
		tool(t, name, name)
	}
	walk(t, "## By hand", `"id":"WO-1"`, "dev-1.pem: OK", "PASS", `"verdict":"pass"`, "PASS; checks: 5 refused", "20 02 00 00",
		`"state":"proven"`, "alert", "refused", "client_certificate_revoked", "refused, exit code 1")
}

func TestReadmeMosquitto(t *testing.T) {
	t.Parallel()
	if _, err := findMosquitto(); err != nil {
		tool(t, "mosquitto", "mosquitto")
	}
	tool(t, "mosquitto_pub", "mosquitto-clients")
	walk(t, "## With Mosquitto", "An authority was made", "Broker mosq is configured", "0 of 2", "PASS", "published",
		"done", "0 dropped", "proven", "refusal_seen", "refused")
}

func TestReadmeManufacturer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"curl", "openssl", "awk"} {
		tool(t, name, name)
	}
	walk(t, "## With a manufacturer", "0 of 2", "once", "added", "1", "pump-1.pem: OK", "CN = pump-1", "manufacturer-certificate-used", "acme", "disabled",
		"unknown-manufacturer", "manufacturer acme is disabled")
}

// The README's profile is one, and outlives its shelf.
func TestReadmeProfile(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(readReadme(t), "\n## Profiles")
	_, text, found := strings.Cut(text, "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	path := filepath.Join(t.TempDir(), "pump.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil || !found {
		t.Fatal(err)
	}
	form, err := readProfile(newRootCommand(), path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := form.Profile()
	if err != nil || !p.Templated() || p.MaxActive != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	if warning := p.ShelfWarning(time.Now(), time.Now().Add(p.Validity-p.Backdate-p.Jitter)); warning != "" {
		t.Error(warning)
	}
}

// walk runs the commands of a section on free ports.
func walk(t *testing.T, section string, want ...string) {
	t.Helper()
	bash := tool(t, "bash", "bash")
	_, readme, found := strings.Cut(readReadme(t), "\n"+section)
	if !found {
		t.Fatalf("README has no section %q", section)
	}
	readme, _, _ = strings.Cut(readme, "\n## ")
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		script.WriteString(block[1])
	}
	text := script.String()
	env := os.Environ()
	for _, d := range demoFlags { // the same defaults as serve's
		addr := freePort(t)
		text = strings.ReplaceAll(text, d.value, addr)
		_, before, _ := strings.Cut(d.value, ":")
		_, after, _ := strings.Cut(addr, ":")
		text = strings.ReplaceAll(text, "-p "+before+" ", "-p "+after+" ")
		if d.name != "mqtts-addr" {
			env = append(env, "FLEETCA_"+strings.ToUpper(strings.ReplaceAll(d.name, "-", "_"))+"="+addr)
		}
	}
	// Built already: the test binary is the program.
	text = strings.TrimPrefix(text, "go build -o fleetca ./cmd/fleetca\n")
	if os.Geteuid() == 0 {
		env = append(env, "FLEETCA_USER=root") // Mosquitto's: the folder is the test's alone
	}

	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wrapper := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asProgram, exe)
	if err := os.WriteFile(filepath.Join(dir, "fleetca"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bash, "-eu", "-c", text)
	cmd.Dir, cmd.Env = dir, env
	// The walk starts a server: all of it ends with the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "serve.log"))
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	rest := string(out)
	for _, want := range want {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing, or out of order, in\n%s", want, out)
		}
		rest = after
	}
}

// TestReadmeKeys holds the table of keys against the flags of serve.
func TestReadmeKeys(t *testing.T) {
	t.Parallel()
	_, section, _ := strings.Cut(readReadme(t), "The keys of `fleetca serve`")
	section, _, _ = strings.Cut(section, "Client commands")
	var documented, flags []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, row[1])
	}
	newServeCommand().Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	slices.Sort(documented)
	if !slices.Equal(documented, flags) {
		t.Errorf("README has %v, serve has %v", documented, flags)
	}
}
