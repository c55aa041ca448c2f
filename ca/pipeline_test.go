package ca_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// TestI10OthersAgreeOnTheCRLPipeline walks a certificate from its revocation
// past its end, on a full CRL, on a shard's, and after the status URL moved, and
// asks OpenSSL and GnuTLS at every step. Both read the CRL itself; OpenSSL, told
// to leave time out of account, judges the certificate by it.
func TestI10OthersAgreeOnTheCRLPipeline(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	for name, prepare := range map[string]func(f *fixture, o *ca.Order){
		"full": func(*fixture, *ca.Order) {},
		"partitioned": func(f *fixture, o *ca.Order) {
			f.ca.SetCRLShards("device", 3, 3)
			o.Shard = new(2)
		},
		"moved": func(f *fixture, _ *ca.Order) {
			f.ca.SetStatusURLs("device", []string{"http://old.test", "http://status.test"})
		},
		"partitioned, then moved": func(f *fixture, o *ca.Order) {
			f.ca.SetCRLShards("device", 3, 3)
			o.Shard = new(1)
			f.ca.SetStatusURLs("device", []string{"http://status.test", "http://moved.test:8080"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			o := f.order("canary")
			o.IssuerID = "device"
			before := f.issue(o) // names the URL of before, and the shard of before
			prepare(f, &o)
			cert := f.issue(o)
			j := &judges{fixture: f, t: t, dir: t.TempDir()}
			j.write(map[string]*ca.Certificate{"cert": cert, "before": before})
			j.step("good", cert.CRLScope(), cert, true, false)
			f.ledger.setStatus(cert.SerialNumber, ca.ReasonKeyCompromise, f.clock.now())
			for _, step := range []struct {
				name      string
				at        time.Duration // thisUpdate, after notAfter
				scheduled bool
				listed    bool
			}{
				{"revoked", -10 * time.Minute, false, true},
				{"just expired", time.Second, false, true},
				{"the scheduled one after its end", 2 * time.Second, true, true},
				{"one later", 3 * time.Second, false, false},
				{"the next scheduled", time.Hour, true, false},
			} {
				f.clock.set(cert.NotAfter.Add(step.at + 5*time.Minute))
				j.step(step.name, cert.CRLScope(), cert, step.scheduled, step.listed)
			}
			j.agree("one of before", "before", false) // whose URL is another: the CRLs of its scope speak for it all along
		})
	}
}

// judges are other programs, and the files that they read.
type judges struct {
	*fixture
	t   *testing.T
	dir string
}

func (j *judges) path(name string) string { return filepath.Join(j.dir, name) }

func (j *judges) write(certs map[string]*ca.Certificate) {
	j.t.Helper()
	for name, cert := range certs {
		writeFile(j.t, j.path(name+".pem"), cert.PEM())
	}
	writeFile(j.t, j.path("root.pem"), ca.EncodeChain(j.root))
	writeFile(j.t, j.path("issuer.pem"), ca.EncodeChain(j.issuer("device")))
}

// step publishes every CRL of the issuer, and asks who lists the certificate.
func (j *judges) step(name string, scope ca.CRLScope, cert *ca.Certificate, scheduled, listed bool) {
	j.t.Helper()
	issuer, err := j.ca.Issuer("device")
	j.must(err)
	var bundle strings.Builder
	for _, s := range issuer.CRLScopes() {
		crl, err := j.ca.PublishCRL(j.ctx, s, scheduled)
		j.must(err)
		bundle.Write(crl.PEM())
		if s == scope {
			writeFile(j.t, j.path("crl.pem"), string(crl.PEM()))
			if has := j.entry(crl, cert.SerialNumber) != nil; has != listed {
				j.t.Errorf("%s: on the CRL %v, want %v", name, has, listed)
			}
		}
	}
	writeFile(j.t, j.path("bundle.pem"), bundle.String())
	j.agree(name, "cert", listed)
	serial := string(cert.SerialNumber)
	out, err := openssl(j.t, "crl", "-in", j.path("crl.pem"), "-noout", "-text", "-CAfile", j.path("issuer.pem"))
	if err != nil || !strings.Contains(out, "verify OK") || strings.Contains(out, "Serial Number: "+strings.ToUpper(serial)) != listed {
		j.t.Errorf("%s: openssl crl: %v, want %s listed: %v\n%s", name, err, serial, listed, out)
	}
	need(j.t, "certtool", "gnutls-bin")
	text, err := exec.CommandContext(j.t.Context(), "certtool", "--crl-info", "--infile", j.path("crl.pem")).CombinedOutput()
	if has := regexp.MustCompile(`Serial Number \(hex\): ` + serial).Match(text); err != nil || has != listed {
		j.t.Errorf("%s: certtool --crl-info: %v, want %s listed: %v\n%s", name, err, serial, listed, text)
	}
	text, _ = exec.CommandContext(j.t.Context(), "certtool", "--verify-crl", "--load-ca-certificate", j.path("issuer.pem"), "--infile", j.path("crl.pem")).CombinedOutput()
	if !verifiedOrLater.Match(text) {
		j.t.Errorf("%s: certtool --verify-crl:\n%s", name, text)
	}
}

// verifiedOrLater is what certtool says of a CRL that is right. It knows no time
// but now, and most CRLs here are of later: that is all that it may object to.
var verifiedOrLater = regexp.MustCompile(`Verification output: (Verified\.|Not verified\. +The certificate is NOT trusted\. The revocation or OCSP data are issued with a future date\. *\n)`)

// agree asks OpenSSL of a certificate by every CRL there is, at the clock's time
// where it is valid then.
func (j *judges) agree(name, cert string, revoked bool) {
	j.t.Helper()
	args := []string{"verify", "-x509_strict", "-purpose", "sslclient", "-crl_check", "-CAfile", j.path("root.pem"), "-untrusted", j.path("issuer.pem"), "-CRLfile", j.path("bundle.pem")}
	for _, at := range [][]string{{"-no_check_time"}, {"-attime", strconv.FormatInt(j.clock.now().Unix(), 10)}} {
		out, err := openssl(j.t, append(append(append([]string{}, args...), at...), j.path(cert+".pem"))...)
		if strings.Contains(out, "certificate has expired") && at[0] == "-attime" {
			if !revoked && strings.Contains(out, "revoked") {
				j.t.Errorf("%s: %s", name, out)
			}
			continue
		}
		if strings.Contains(out, "certificate revoked") != revoked || (err != nil) != revoked {
			j.t.Errorf("%s, %v: revoked %v wanted: %v\n%s", name, at, revoked, err, out)
		}
	}
}
