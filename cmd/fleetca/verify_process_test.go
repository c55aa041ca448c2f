package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestVerifyMemory bounds what a whole process of fleetca verify takes, with
// every check and the largest CRL that is read: 80 MiB.
func TestVerifyMemory(t *testing.T) {
	b := newScriptBrokers(t)
	crl := func(entries int) []byte {
		list := &x509.RevocationList{Number: big.NewInt(2), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		serial := make([]byte, 16)
		for range entries {
			rand.Read(serial)
			serial[0] &= 0x7f
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(serial), RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, b.issuer, b.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	b.write(t, "big.pem", "X509 CRL", crl(320_000))
	if info, err := os.Stat(filepath.Join(b.dir, "big.pem")); err != nil || info.Size() < maxCRLInput*9/10 || info.Size() > maxCRLInput {
		t.Fatalf("a CRL of %d bytes tests nothing", info.Size())
	}
	for _, crl := range []string{"crl.pem", "big.pem"} {
		peak := b.peak(t, "--negative", "--revoked", "revoked.pem,revoked.key", "--resume", "--crl", crl)
		t.Logf("%s: %d KiB", crl, peak)
		if peak > 80<<10 {
			t.Errorf("%s: %d KiB", crl, peak)
		}
	}
}

// peak returns the most memory that a process of fleetca verify has had, in KiB.
// It is watching, so as to be there after its first run.
func (b *scriptBrokers) peak(t *testing.T, args ...string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{"verify", b.env["STRICT"], "--ca", "ca.pem", "--cert", "device.pem", "--key", "device.key", "--watch", "1h", "--timeout", "1m", "--step-timeout", "20s"}, args...)
	cmd := program(ctx, args...)
	cmd.Dir = b.dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "PASS") {
		t.Fatalf("%q, %v", line, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Skip("no /proc here")
	}
	cmd.Process.Signal(os.Interrupt)
	go io.Copy(io.Discard, out)
	cmd.Wait()
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no VmHWM in\n%s", status)
	}
	peak, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return peak
}

// BenchmarkVerifyProcess runs fleetca verify, openssl s_client and mosquitto_pub
// as whole processes against the same broker: TLS 1.3 with client certificates.
// s_client stops after the handshake, mosquitto_pub after PUBACK; fleetca also
// subscribes and waits for its message. The results are in enroll/mqtts/SPEED.md.
func BenchmarkVerifyProcess(b *testing.B) {
	bench := newScriptBrokers(b)
	dir := b.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	address := strings.TrimPrefix(bench.env["STRICT"], "mqtts://")
	host, port, _ := strings.Cut(address, ":")
	commands := []struct {
		name, program string
		args          []string
	}{
		{"fleetca", filepath.Join(dir, "fleetca"), []string{"verify", bench.env["STRICT"], "--ca", "ca.pem", "--cert", "device.pem", "--key", "device.key"}},
		{"fleetca, no publish", filepath.Join(dir, "fleetca"), []string{"verify", bench.env["STRICT"], "--ca", "ca.pem", "--cert", "device.pem", "--key", "device.key", "--publish=false"}},
		{"fleetca version", filepath.Join(dir, "fleetca"), []string{"version"}},
		{"openssl s_client", "openssl", []string{"s_client", "-connect", address, "-CAfile", "ca.pem", "-cert", "device.pem", "-key", "device.key", "-verify_return_error"}},
		{"mosquitto_pub", "mosquitto_pub", []string{"-h", host, "-p", port, "--cafile", "ca.pem", "--cert", "device.pem", "--key", "device.key", "-q", "1", "-t", "t", "-m", "hi"}},
	}
	for _, c := range commands {
		path, err := exec.LookPath(c.program)
		b.Run(c.name, func(b *testing.B) {
			if err != nil {
				b.Skipf("%s is not on PATH", c.program)
			}
			var cpu time.Duration
			best := time.Hour
			for b.Loop() {
				start := time.Now()
				cmd := exec.Command(path, c.args...)
				cmd.Dir = bench.dir
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				best = min(best, time.Since(start))
				cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			}
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(best.Microseconds()), "best-us")
		})
	}
}
