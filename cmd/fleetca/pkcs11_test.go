//go:build cgo && !nopkcs11

package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleetca/fleetca/enroll/leaktest"
)

// An hsm is a PKCS #11 token of SoftHSM2, made for one test.
type hsm struct {
	*testing.T
	uri     string // without a PIN
	pinFile string
	pin     string
	seen    strings.Builder // all that fleetca wrote
}

// newToken makes a token; fleetca finds it by the environment of the test.
func newToken(t *testing.T) *hsm {
	t.Helper()
	util := tool(t, "softhsm2-util", "softhsm2")
	modules, _ := filepath.Glob("/usr/lib*/*/softhsm/libsofthsm2.so") // the patterns are well-formed
	more, _ := filepath.Glob("/usr/lib*/softhsm/libsofthsm2.so")
	if modules = append(modules, more...); len(modules) == 0 {
		t.Fatal("softhsm2-util is there, and libsofthsm2.so is not")
	}
	dir := t.TempDir()
	tokens, config := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	k := &hsm{T: t, pinFile: filepath.Join(dir, "pin"), pin: leaktest.Canary("pin of the token")}
	k.uri = "pkcs11:module-path=" + modules[0] + ";token=fleetca"
	for _, err := range []error{
		os.Mkdir(tokens, 0o700),
		os.WriteFile(config, []byte("directories.tokendir = "+tokens+"\nlog.level = ERROR\n"), 0o600),
		os.WriteFile(k.pinFile, []byte(k.pin+"\n"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", config)
	if out, err := exec.Command(util, "--init-token", "--free", "--label", "fleetca", "--so-pin", "so-pin-1234", "--pin", k.pin).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return k
}

func (k *hsm) withPIN() string { return k.uri + "?pin-source=" + k.pinFile }

// run runs a command line that must end with a code.
func (k *hsm) run(code int, args ...string) string {
	k.Helper()
	stdout, stderr, got := fleetca(k.T, args...)
	fmt.Fprintf(&k.seen, "%s%s", stdout, stderr)
	if got != code {
		k.Fatalf("fleetca %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout + stderr
}

// says checks that a text has words.
func (k *hsm) says(text string, words ...string) {
	k.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			k.Errorf("%q is not in\n%s", word, text)
		}
	}
}

// Every key is made inside a PKCS #11 token and never leaves it: the server
// signs with it, the root's CRL is signed by it, and backup, restore, doctor and
// passphrase know of it. The PIN shows nowhere (I23).
func TestKeysInAToken(t *testing.T) {
	k := newToken(t)
	s := &testServer{dir: filepath.Join(t.TempDir(), "data"), people: freePort(t), machines: freePort(t), status: freePort(t), mqtts: freePort(t)}
	made := k.run(0, "init", "--data", s.dir, "--root-key-kms", k.withPIN(), "--issuer-keys-kms", k.withPIN())
	k.says(made, ";object=fleetca-root-", ";object=fleetca-device-", ";object=fleetca-broker-", "lock\nit away", "fleetca root crl --data")
	for _, name := range []string{"passphrase", "root/key.pem", "keys/device-issuer.pem"} {
		if _, err := os.Stat(filepath.Join(s.dir, name)); err == nil {
			t.Errorf("there is a file %s", name)
		}
	}
	s.args = []string{"--log-level", "debug"}
	s.start(t)
	_, csr := newCSR(t, "dev-1")
	if a := s.rest(t, "admin").send(t, "POST", "/enrollments", map[string]any{"deviceId": "dev-1", "csr": csr}); a.status != http.StatusCreated {
		t.Errorf("%d %s\n%s", a.status, a.body, s.log)
	}
	k.says(k.run(0, "root", "crl", "--data", s.dir), "CRL number")
	k.says(k.run(0, "doctor", "--data", s.dir), "2 keys open and sign", "in its token: pkcs11:")
	k.says(k.run(2, "passphrase", "--data", s.dir, "--new-passphrase-file", k.pinFile), "holds no key files", "hint: ", "change it with the token's own tool")
	backup := filepath.Join(t.TempDir(), "backup")
	k.says(k.run(0, "backup", "--data", s.dir, "--out", backup), "The issuers' keys open.", "the root's key (in its token)", "the key of issuer device (pkcs11:")
	s.stop(t)

	again := filepath.Join(t.TempDir(), "restored")
	k.says(k.run(0, "restore", "--from", backup, "--data", again), "The issuers' keys open.")
	k.says(k.run(0, "root", "crl", "--data", again), "CRL number")
	k.seen.WriteString(s.log.String())
	if strings.Contains(k.seen.String(), k.pin) {
		t.Error("I23: the PIN shows")
	}
}

// A PIN comes by a file or by the environment; what is wrong with it, the token
// or the key is said, and shows no PIN.
func TestTokensThatDoNot(t *testing.T) {
	k := newToken(t)
	dir := t.TempDir()
	n := 0
	initWith := func(code int, uri string, more ...string) string {
		t.Helper()
		n++
		return k.run(code, append([]string{"init", "--data", filepath.Join(dir, fmt.Sprint(n)), "--root-key-kms", uri}, more...)...)
	}
	k.says(initWith(1, k.uri+"?pin-value="+k.pin), "may not hold its PIN", "hint: give the PIN by a file")
	k.says(initWith(1, k.uri+"?pin-value="+k.pin+"%zz"), "may not hold its PIN")
	k.says(initWith(1, k.uri+"?pin%2Dvalue="+k.pin), "may not hold its PIN")
	k.says(initWith(1, k.uri+"?pin-source=pin"), "relative path")
	k.says(initWith(1, k.uri+"?pin-source="+filepath.Join(dir, "none")), "read the PIN")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.says(initWith(1, k.uri+"?pin-source="+empty), "is empty")
	k.says(initWith(1, k.uri), "hint: ") // no PIN at all
	if err := os.WriteFile(empty, []byte(k.pin+"-wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.says(initWith(1, k.uri+"?pin-source="+empty), "CKR_PIN_INCORRECT", "hint: see that the module and the token are there, and that the PIN is right")
	k.says(initWith(1, "pkcs11:module-path=/nowhere.so;token=fleetca?pin-source="+k.pinFile), "/nowhere.so", "hint: see that the module")
	k.says(initWith(1, strings.Replace(k.withPIN(), "token=fleetca", "token=other", 1)), "hint: see that the module")
	k.says(initWith(1, "softkms:path=x"), "no key can be made in")
	k.says(initWith(1, "awskms:key-id=x"), "no key can be made in")
	k.says(initWith(2, k.withPIN(), "--root-key-out", "x"), "makes no sense with")

	named := strings.Replace(k.withPIN(), "?", ";object=mine;id=0102?", 1)
	k.says(initWith(0, named), "object=mine;id=0102") // the issuers' keys are files
	k.says(initWith(1, named), "already", "hint: leave object and id out")
	t.Setenv("FLEETCA_PIN", k.pin)
	made := initWith(0, k.uri, "--issuer-keys-kms", k.uri)
	k.says(made, "root key       "+k.uri+";object=fleetca-root-")
	k.says(k.run(0, "doctor", "--data", filepath.Join(dir, fmt.Sprint(n))), "2 keys open and sign")
	t.Setenv("FLEETCA_PIN", "")
	k.says(k.run(1, "doctor", "--data", filepath.Join(dir, fmt.Sprint(n))), "issuer device: ", "fix keys: ")
	if strings.Contains(k.seen.String(), k.pin) {
		t.Error("I23: the PIN shows")
	}
}
