package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// demoArgs runs the demo on free ports.
func demoArgs(dir string, more ...string) []string {
	args := []string{"demo", "--exit", "--data", dir, "--people-addr", "127.0.0.1:0", "--machine-addr", "127.0.0.1:0", "--status-addr", "127.0.0.1:0", "--mqtts-addr", "127.0.0.1:0"}
	return append(args, more...)
}

// jsonSteps parses what demo --json prints.
func jsonSteps(t *testing.T, out string) []demoStep {
	t.Helper()
	var steps []demoStep
	for line := range strings.Lines(out) {
		var st demoStep
		if err := json.Unmarshal([]byte(line), &st); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		steps = append(steps, st)
	}
	return steps
}

func readEndpoints(t *testing.T, dir string) endpoints {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "endpoints.json"))
	if err != nil {
		t.Fatal(err)
	}
	var e endpoints
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDemo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	start := time.Now()
	out, stderr, code := fleetca(t, demoArgs(dir, "--json")...)
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the demo took %v, more than 20 s", took)
	}
	steps := jsonSteps(t, out)
	if len(steps) != len(demoSteps) {
		t.Fatalf("%d steps, want %d", len(steps), len(demoSteps))
	}
	for i, st := range steps {
		if st.Step != i+1 || st.Name != demoSteps[i].name || st.Result != mqtts.ResultPass || st.Detail == "" {
			t.Errorf("step %d: %+v", i+1, st)
		}
	}
	e := readEndpoints(t, dir)
	if e.BrokerSerials.Before == e.BrokerSerials.After || len(e.Devices) != 5 || !slices.Contains(e.Devices, e.RevokedDevice) {
		t.Errorf("endpoints.json: %+v", e)
	}
	checkDemoFolder(t, dir, e)

	// Again on the same folder, on other ports: old certificates still verify.
	old := e
	if out, stderr, code := fleetca(t, demoArgs(dir)...); code != 0 {
		t.Fatalf("second start: exit %d\n%s%s", code, out, stderr)
	}
	e = readEndpoints(t, dir)
	if e.RootSHA256 != old.RootSHA256 || slices.Contains(e.Devices, old.Devices[0]) || e.Status == old.Status {
		t.Errorf("second start: %+v after %+v", e, old)
	}
	checkDemoFolder(t, dir, e)
	checkDemoFolder(t, dir, old)
}

// checkDemoFolder checks with crypto/x509 and the CRL on disk, not with our
// own code, that the folder holds what a person goes on with.
func checkDemoFolder(t *testing.T, dir string, e endpoints) {
	t.Helper()
	roots := x509.NewCertPool()
	bundle, err := os.ReadFile(filepath.Join(dir, "trust-bundle.pem"))
	if err != nil || !roots.AppendCertsFromPEM(bundle) {
		t.Fatalf("trust-bundle.pem: %v", err)
	}
	crl, err := os.ReadFile(filepath.Join(dir, "crl.pem"))
	if err != nil {
		t.Fatal(err)
	}
	revoked := map[string]bool{}
	for block, rest := pem.Decode(crl); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range list.RevokedCertificateEntries {
			revoked[entry.SerialNumber.String()] = true
		}
	}
	for _, id := range e.Devices {
		chain := parseChain(t, filepath.Join(dir, "devices", id, "chain.pem"))
		leaf := parseChain(t, filepath.Join(dir, "devices", id, "certificate.pem"))[0]
		inter := x509.NewCertPool()
		for _, c := range chain[1:] {
			inter.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil || !leaf.Equal(chain[0]) {
			t.Errorf("device %s: %v", id, err)
		}
		if got, want := revoked[leaf.SerialNumber.String()], id == e.RevokedDevice; got != want {
			t.Errorf("device %s on the CRL: %v, want %v", id, got, want)
		}
	}
	served := parseChain(t, filepath.Join(dir, "broker", "certificate.pem"))[0]
	if _, err := os.Stat(filepath.Join(dir, "broker", "key.pem")); err != nil {
		t.Error(err)
	}
	if len(served.DNSNames) == 0 {
		t.Error("the broker's certificate has no names")
	}
}

func parseChain(t *testing.T, path string) []*x509.Certificate {
	t.Helper()
	certs, err := readCertificates(path)
	if err != nil || len(certs) == 0 {
		t.Fatalf("%s: %d certificates, %v", path, len(certs), err)
	}
	return certs
}

// The proof must be able to fail: a broker that does not load the CRL.
func TestDemoFaultCRLReload(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	out, stderr, code := fleetca(t, demoArgs(dir, "--json", "--fault", "crl-reload")...)
	if code != exitFail {
		t.Fatalf("exit %d, want %d\n%s%s", code, exitFail, out, stderr)
	}
	steps := jsonSteps(t, out)
	last := steps[len(steps)-1]
	if last.Step != 7 || last.Result != mqtts.ResultFail || !strings.Contains(last.Detail, "has not loaded the new CRL") {
		t.Errorf("last step: %+v", last)
	}
	if !strings.Contains(stderr, "demo step 7") || !strings.Contains(stderr, "hint:") {
		t.Errorf("stderr: %s", stderr)
	}
}

// What a person does by hand in the demo's folder, with tools that know
// nothing of fleetca.
func TestDemoByHand(t *testing.T) {
	t.Parallel()
	pub, openssl := tool(t, "mosquitto_pub", "mosquitto-clients"), tool(t, "openssl", "openssl")
	dir := filepath.Join(t.TempDir(), "demo")
	args := slices.DeleteFunc(demoArgs(dir, "--json"), func(a string) bool { return a == "--exit" })
	ctx, cancel := context.WithCancel(t.Context())
	cmd := program(ctx, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); cmd.Wait() })
	dec := json.NewDecoder(stdout)
	for range demoSteps {
		var st demoStep
		if err := dec.Decode(&st); err != nil || st.Result != mqtts.ResultPass {
			t.Fatalf("%+v: %v", st, err)
		}
	}
	e := readEndpoints(t, dir)
	host, port, _ := strings.Cut(strings.TrimPrefix(e.MQTTS, "mqtts://"), ":")
	publish := func(id, chain string) (string, error) {
		out, err := exec.CommandContext(t.Context(), pub, "-h", host, "-p", port, "--cafile", filepath.Join(dir, "trust-bundle.pem"),
			"--cert", filepath.Join(dir, "devices", id, chain), "--key", filepath.Join(dir, "devices", id, "key.pem"),
			"-q", "1", "-t", "devices/"+id+"/hand", "-m", "hi").CombinedOutput()
		return string(out), err
	}
	for _, id := range e.Devices {
		for _, chain := range []string{"chain.pem", "certificate.pem"} {
			out, err := publish(id, chain)
			if revoked := id == e.RevokedDevice; (err != nil) != revoked {
				t.Errorf("mosquitto_pub as %s with %s (revoked: %v): %v %s", id, chain, revoked, err, out)
			}
		}
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-crl_check_all", "-CAfile", filepath.Join(dir, "trust-bundle.pem"),
			"-CRLfile", filepath.Join(dir, "crl.pem"), "-untrusted", filepath.Join(dir, "devices", id, "chain.pem"),
			filepath.Join(dir, "devices", id, "certificate.pem")).CombinedOutput()
		if revoked := id == e.RevokedDevice; (err != nil) != revoked || revoked && !strings.Contains(string(out), "certificate revoked") {
			t.Errorf("openssl verify %s (revoked: %v): %v %s", id, revoked, err, out)
		}
	}
}

// The demo on a real Mosquitto, twice on one folder, and with the fault.
func TestDemoMosquitto(t *testing.T) {
	t.Parallel()
	if _, err := findMosquitto(); err != nil {
		tool(t, "mosquitto", "mosquitto")
	}
	dir := filepath.Join(t.TempDir(), "demo")
	for range 2 {
		if out, stderr, code := fleetca(t, demoArgs(dir, "--broker", "mosquitto")...); code != 0 {
			t.Fatalf("exit %d\n%s%s", code, out, stderr)
		}
		checkDemoFolder(t, dir, readEndpoints(t, dir))
	}
	out, stderr, code := fleetca(t, demoArgs(dir, "--broker", "mosquitto", "--fault", "crl-reload")...)
	if code != exitFail || !strings.Contains(stderr, "demo step 7") {
		t.Errorf("with the fault: exit %d\n%s%s", code, out, stderr)
	}
	if _, stderr, code := fleetca(t, demoArgs(dir)...); code != exitFail && code != exitUsage || !strings.Contains(stderr, "another broker") {
		t.Errorf("with another broker: exit %d, %s", code, stderr)
	}
}

func TestDemoUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"demo", "--fault", "nothing"}, {"demo", "--devices", "1"}, {"demo", "--broker", "carrier-pigeon"}, {"demo", "extra"}} {
		if _, stderr, code := fleetca(t, args...); code != exitUsage || !strings.Contains(stderr, "hint:") {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
}
