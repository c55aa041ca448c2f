package brokers_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

func reloads(*brokers.Pair) error { return nil }

// onDisk reads what a broker would read, by the paths that it is configured with.
func onDisk(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "broker", brokers.CertificateFile), filepath.Join(dir, "broker", brokers.KeyFile))
	if err != nil {
		t.Fatalf("the broker has no matching pair: %v", err)
	}
	return must(x509.ParseCertificate(pair.Certificate[0]))(t)
}

// A fault at any step of a request, an install or a rollback, whether the disk
// fails once or the machine dies: the broker has a complete, matching pair, a
// failed call leaves the previous one, and the call can be made again.
func TestGenerationsInterrupted(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	for _, dies := range []bool{false, true} {
		for _, operation := range []string{"request", "install", "rollback", "share"} {
			t.Run(fmt.Sprintf("%s dies=%v", operation, dies), func(t *testing.T) {
				at := 1
				for interrupt(t, issuer, operation, at, dies) >= at {
					at++
				}
				if at <= 4 {
					t.Errorf("only %d steps were interrupted", at-1)
				}
			})
		}
	}
}

// interrupt brings two generations about, has the operation fail at a step, and
// returns the number of steps that it got to: fewer than that once there is no
// such step.
func interrupt(t *testing.T, issuer *brokertest.CA, operation string, at int, dies bool) int {
	t.Helper()
	dir := t.TempDir()
	healthy := must(brokers.OpenGenerations(dir, nil))(t)
	var chains [][][]byte
	for range 2 {
		chain := issuer.Server(must(healthy.Request(brokertest.Loopback))(t))
		if err := healthy.Install(chain, reloads); err != nil {
			t.Fatal(err)
		}
		chains = append(chains, chain)
	}
	csr := must(healthy.Request(brokertest.Loopback))(t)
	next := issuer.Server(csr)
	before := onDisk(t, dir)

	disk := new(brokers.FaultDisk)
	faulty := must(brokers.OpenGenerationsOn(dir, nil, disk))(t)
	disk.Steps, disk.At, disk.Dies = nil, at, dies
	run := func(g *brokers.Generations) error {
		switch operation {
		case "share": // the install for a broker of another user
			g.ShareKeys(anyGroup())
			return g.Install(next, reloads)
		case "install":
			return g.Install(next, reloads)
		case "rollback":
			return g.Rollback(reloads)
		}
		_, err := g.Request(brokertest.Loopback)
		return err
	}
	err := run(faulty)
	now := onDisk(t, dir)
	if err != nil && !errors.Is(err, brokers.ErrFault) {
		t.Fatalf("step %d (%s): %v", at, disk.Steps[len(disk.Steps)-1], err)
	}
	if err != nil && !dies && !now.Equal(before) {
		t.Fatalf("step %d (%s): failed, but the previous pair is not active", at, disk.Steps[at-1])
	}
	// After a restart the same call ends as if nothing had happened.
	restarted := must(brokers.OpenGenerations(dir, nil))(t)
	if err := run(restarted); err != nil {
		t.Fatalf("step %d: again: %v", at, err)
	}
	want := map[string][]byte{"request": chains[1][0], "install": next[0], "share": next[0], "rollback": chains[0][0]}[operation]
	if now := onDisk(t, dir); string(now.Raw) != string(want) {
		t.Fatalf("step %d: again: %x is active", at, now.SerialNumber)
	}
	if operation == "share" {
		info := must(os.Stat(filepath.Join(dir, "broker", brokers.KeyFile)))(t)
		if stat, ok := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || !ok || int(stat.Gid) != anyGroup() {
			t.Fatalf("step %d: the key is %v", at, info.Mode())
		}
	}
	if operation == "request" { // the staged key of before is still there
		if err := restarted.Install(next, reloads); err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
	}
	return len(disk.Steps)
}

// anyGroup is a group that this user may give a file to.
func anyGroup() int { return max(os.Getgid(), 1) }

// What the link is swapped to is on stable storage before the swap, and the
// swap before anything is removed that could be gone back to.
func TestGenerationsOrder(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	disk := new(brokers.FaultDisk)
	g := must(brokers.OpenGenerationsOn(t.TempDir(), nil, disk))(t)
	chain := issuer.Server(must(g.Request(brokertest.Loopback))(t))
	disk.Steps = nil
	if err := g.Install(chain, reloads); err != nil {
		t.Fatal(err)
	}
	var operations []string
	for _, step := range disk.Steps {
		operation, name, _ := strings.Cut(step, " ")
		switch {
		case strings.HasPrefix(name, "new-"):
			name = "new"
		case strings.HasPrefix(name, "staged-"):
			name = "staged"
		case strings.HasPrefix(name, "2-"):
			name = "generation"
		case operation == "sync" && name != ".broker":
			name = "dir"
		}
		operations = append(operations, operation+" "+name)
	}
	want := []string{
		"remove new", "mkdir new", "create key.pem", "create certificate.pem", "sync new",
		"rename generation", "sync .broker",
		"remove .broker.new", "symlink .broker.new", "rename broker", "sync dir",
		"remove staged",
	}
	if !slices.Equal(operations, want) {
		t.Errorf("got  %q\nwant %q", operations, want)
	}
}

func TestGenerationsFiles(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	dir := t.TempDir()
	g := must(brokers.OpenGenerations(dir, nil))(t)
	var chain [][]byte
	for range 4 {
		chain = issuer.Server(must(g.Request(brokertest.Loopback))(t))
		if err := g.Install(chain, reloads); err != nil {
			t.Fatal(err)
		}
	}
	must(g.Request(brokertest.Loopback))(t)
	for name, mode := range map[string]os.FileMode{brokers.KeyFile: 0o600, brokers.CertificateFile: 0o644} {
		if info := must(os.Stat(filepath.Join(dir, "broker", name)))(t); info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if data := must(os.ReadFile(filepath.Join(dir, "broker", brokers.CertificateFile)))(t); strings.Count(string(data), "BEGIN CERTIFICATE") != 2 {
		t.Errorf("certificate.pem lacks the chain:\n%s", data)
	}
	if target := must(os.Readlink(filepath.Join(dir, "broker")))(t); filepath.IsAbs(target) {
		t.Errorf("the link is absolute: %s", target)
	}
	var staged, complete int
	for _, file := range must(os.ReadDir(filepath.Join(dir, ".broker")))(t) {
		if strings.HasPrefix(file.Name(), "staged-") {
			staged++
		} else {
			complete++
		}
	}
	if staged != 1 || complete != 2 {
		t.Errorf("%d staged keys and %d generations are left", staged, complete)
	}
}

func TestGenerationsReloadFails(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	dir := t.TempDir()
	g := must(brokers.OpenGenerations(dir, nil))(t)
	broken := errors.New("broken")
	first := issuer.Server(must(g.Request(brokertest.Loopback))(t))
	if err := g.Install(first, func(*brokers.Pair) error { return broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if _, err := g.Active(); !errors.Is(err, brokers.ErrNoGeneration) {
		t.Fatalf("after the first install failed: %v", err)
	}
	if err := g.Install(first, reloads); err != nil {
		t.Fatal(err)
	}
	var seen []string
	second := issuer.Server(must(g.Request(brokertest.Loopback))(t))
	err := g.Install(second, func(p *brokers.Pair) error {
		seen = append(seen, string(p.Leaf.Raw))
		if string(p.Leaf.Raw) == string(second[0]) {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || !slices.Equal(seen, []string{string(second[0]), string(first[0])}) {
		t.Fatalf("%v, %d reloads", err, len(seen))
	}
	if now := onDisk(t, dir); string(now.Raw) != string(first[0]) {
		t.Errorf("%x is active", now.SerialNumber)
	}
}

func TestGenerationsDamaged(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	dir := t.TempDir()
	g := must(brokers.OpenGenerations(dir, nil))(t)
	brokertestInstall(t, g, issuer)
	if err := os.WriteFile(filepath.Join(dir, "broker", brokers.CertificateFile), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Active(); err == nil || errors.Is(err, brokers.ErrNoGeneration) {
		t.Fatalf("Active: %v", err)
	}
	brokertestInstall(t, g, issuer) // mends it
	onDisk(t, dir)

	other := t.TempDir()
	if err := os.Mkdir(filepath.Join(other, "broker"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := brokers.OpenGenerations(other, nil); err == nil {
		t.Error("a folder in the place of the link was accepted")
	}
}

// Requests and installs at the same time: every certificate that was issued in
// order can be installed, and the pair always matches.
func TestGenerationsConcurrent(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	dir := t.TempDir()
	g := must(brokers.OpenGenerations(dir, nil))(t)
	brokertestInstall(t, g, issuer)
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := g.Active(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 4 {
		writers.Go(func() {
			for range 5 {
				csr, err := g.Request(brokertest.Loopback)
				if err != nil {
					t.Error(err)
					return
				}
				_ = g.Install(issuer.Server(csr), reloads) // overtaken ones are refused
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	onDisk(t, dir)
}

func brokertestInstall(t *testing.T, g *brokers.Generations, issuer *brokertest.CA) {
	t.Helper()
	if err := g.Install(issuer.Server(must(g.Request(brokertest.Loopback))(t)), reloads); err != nil {
		t.Fatal(err)
	}
}

func TestGenerationsExpire(t *testing.T) {
	issuer := brokertest.NewCA(t, "brokers")
	now := time.Now()
	g := must(brokers.OpenGenerations(t.TempDir(), func() time.Time { return now }))(t)
	chain := issuer.Server(must(g.Request(brokertest.Loopback))(t))
	now = now.Add(25 * time.Hour)
	if err := g.Install(chain, reloads); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatal(err)
	}
	now = now.Add(-48 * time.Hour)
	if err := g.Install(chain, reloads); err == nil || !strings.Contains(err.Error(), "not valid before") {
		t.Fatal(err)
	}
	now = time.Now()
	if err := g.Install(chain, reloads); err != nil {
		t.Fatal(err)
	}
	brokertestInstall(t, g, issuer)
	now = now.Add(25 * time.Hour)
	if err := g.Rollback(reloads); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatalf("went back to an expired certificate: %v", err)
	}
}

func TestRequestNames(t *testing.T) {
	g := must(brokers.OpenGenerations(t.TempDir(), nil))(t)
	csr := must(g.Request([]string{"192.0.2.1", "broker-1.example", "2001:db8::1", "*.example"}))(t)
	request := must(x509.ParseCertificateRequest(csr))(t)
	if request.Subject.CommonName != "broker-1.example" || len(request.IPAddresses) != 2 ||
		!slices.Equal(request.DNSNames, []string{"broker-1.example", "*.example"}) {
		t.Errorf("%v %v %v", request.Subject, request.DNSNames, request.IPAddresses)
	}
	if netip.MustParseAddr(request.IPAddresses[0].String()) != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("%v", request.IPAddresses)
	}
	for _, names := range [][]string{nil, {""}, {"a..b"}, {"-a"}, {"a b"}, {"a/b"}, {"*"}, {"a.*.b"}, {"fe80::1%eth0"}, {"a\x00"}, {strings.Repeat("a", 64)}, {"é"}} {
		if _, err := g.Request(names); err == nil {
			t.Errorf("%q was accepted", names)
		}
	}
}

// Keys that wait for a certificate are bounded; the oldest go first.
func TestRequestsBounded(t *testing.T) {
	dir := t.TempDir()
	g := must(brokers.OpenGenerations(dir, nil))(t)
	issuer := brokertest.NewCA(t, "brokers")
	oldest := issuer.Server(must(g.Request(brokertest.Loopback))(t))
	var newest [][]byte
	for range 20 {
		newest = issuer.Server(must(g.Request(brokertest.Loopback))(t))
	}
	if n := len(must(os.ReadDir(filepath.Join(dir, ".broker")))(t)); n != 16 {
		t.Errorf("%d staged keys", n)
	}
	if err := g.Install(oldest, reloads); err == nil {
		t.Error("the oldest key is still there")
	}
	if err := g.Install(newest, reloads); err != nil {
		t.Error(err)
	}
}
