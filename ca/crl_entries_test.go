package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// TestCRLsAreEncodedAsCryptoX509Does: but for the signature, octet by octet.
func TestCRLsAreEncodedAsCryptoX509Does(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("device", true)
	for n, reason := range ca.Reasons() {
		serial := f.issue(f.order("device")).SerialNumber
		f.ledger.setStatus(serial, reason, f.clock.now().AddDate(n*5, 0, 0)) // beyond 2049, too
		crl := f.publish("device", n%2 == 0)
		list := f.read(crl)
		key, _ := kept.Load(made().issuers[1].KeyURI)
		template := &x509.RevocationList{
			Number: list.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate, RevokedCertificateEntries: list.RevokedCertificateEntries,
		}
		for i := range template.RevokedCertificateEntries {
			template.RevokedCertificateEntries[i].Extensions = nil
		}
		for _, ext := range list.Extensions {
			if ext.Id.String() == "2.5.29.28" {
				template.ExtraExtensions = []pkix.Extension{ext}
			}
		}
		der, err := x509.CreateRevocationList(rand.Reader, template, f.issuer("device"), key.(crypto.Signer))
		f.must(err)
		reference, err := x509.ParseRevocationList(der)
		f.must(err)
		if !bytes.Equal(reference.RawTBSRevocationList, list.RawTBSRevocationList) {
			t.Fatalf("%d entries: ours\n%x\ncrypto/x509's\n%x", crl.Entries, list.RawTBSRevocationList, reference.RawTBSRevocationList)
		}
	}
	if crl := f.publish("device", false); crl.Entries != len(ca.Reasons()) {
		t.Errorf("%d entries", crl.Entries)
	}
}

// TestCRLsFollowEveryChange: a random walk of revocations, holds, releases and
// expiry, published by two processes, always gives what reading all gives.
func TestCRLsFollowEveryChange(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, err := ca.Open(f.ctx, ca.Config{Issuers: made().issuers, Ledger: f.ledger, Now: f.clock.now})
	f.must(err)
	scope := ca.CRLScope{IssuerID: "device"}
	var serials []ca.SerialNumber
	for n := range 200 {
		profile := "device"
		if n%3 == 0 {
			profile = "canary" // expires within the walk
		}
		serial := f.issue(f.order(profile)).SerialNumber
		serials = append(serials, serial)
		reason := ca.ReasonCertificateHold
		if n%4 == 0 {
			reason = ca.ReasonSuperseded
		}
		f.ledger.setStatus(serial, reason, f.clock.now())
		if n%5 == 4 {
			released := serials[n-1]
			if cert, err := f.ledger.Certificate(f.ctx, released); err == nil && cert.Status == ca.StatusHeld {
				f.ledger.setStatus(released, "", f.clock.now())
			}
		}
		f.clock.advance(time.Minute)
		authority := []*ca.Authority{f.ca, other}[n/7%2]
		crl, err := authority.PublishCRL(f.ctx, scope, n%11 == 0)
		f.must(err)
		var want, got []string
		draft, err := f.ledger.ReserveCRL(f.ctx, scope, ca.CRLKnown{})
		f.must(err)
		for _, e := range draft.Entries {
			want = append(want, string(e.SerialNumber)+" "+string(e.Reason))
		}
		for _, e := range f.read(crl).RevokedCertificateEntries {
			reason := ca.ReasonCertificateHold
			if e.ReasonCode != 6 {
				reason = ca.ReasonSuperseded
			}
			got = append(got, string(ca.SerialNumberOf(e.SerialNumber))+" "+string(reason))
		}
		// What the CRL just published lets go is on it for the last time.
		got = slices.DeleteFunc(got, func(e string) bool { return crl.Scheduled && !slices.Contains(want, e) })
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: the CRL lists\n%v\nand the ledger\n%v", n, got, want)
		}
		listed, err := crl.Listed(serials...)
		f.must(err)
		if len(listed) < len(want) {
			t.Fatalf("step %d: Listed finds %d of %d", n, len(listed), len(want))
		}
	}
}

// TestI11ThreeProcessesPublishAThousandTimes races for numbers.
func TestI11ThreeProcessesPublishAThousandTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	authorities := []*ca.Authority{f.ca}
	for range 2 {
		a, err := ca.Open(f.ctx, ca.Config{Issuers: made().issuers, Ledger: f.ledger, Now: f.clock.now})
		f.must(err)
		authorities = append(authorities, a)
	}
	numbers := make(chan int64, 1000)
	done := make(chan error, len(authorities))
	for n, a := range authorities {
		go func() {
			var last int64
			for i := n; i < 1000; i += len(authorities) {
				crl, err := a.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, i%50 == 0)
				if err != nil {
					done <- err
					return
				}
				if crl.Number <= last {
					t.Errorf("number %d after %d", crl.Number, last)
				}
				last = crl.Number
				numbers <- crl.Number
			}
			done <- nil
		}()
	}
	for range authorities {
		f.must(<-done)
	}
	close(numbers)
	seen := map[int64]bool{}
	for n := range numbers {
		seen[n] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d numbers for 1000 CRLs", len(seen))
	}
}

// TestShards: a certificate names its shard's CRL, which alone lists it, also
// after there are more or fewer of them.
func TestShards(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old := f.issue(f.order("device"))
	f.ca.SetCRLShards("device", 4, 4)
	byShard := map[int]*ca.Certificate{}
	for n := 0; len(byShard) < 4; n++ {
		cert := f.issue(f.order("device"))
		byShard[cert.CRLShard] = cert
		if n > 1000 {
			t.Fatal("certificates are not spread over the shards")
		}
	}
	f.ca.SetCRLShards("device", 2, 4)
	for range 50 {
		if cert := f.issue(f.order("device")); cert.CRLShard > 1 {
			t.Fatalf("shard %d of 2", cert.CRLShard)
		}
	}
	three, far := 3, 9
	o := f.order("canary")
	o.IssuerID, o.Shard = "device", &three
	if canary := f.issue(o); canary.CRLShard != 3 || canary.CDP != "http://status.test/crl/device/3.crl" {
		t.Errorf("a canary on shard 3 is on %d, %s", canary.CRLShard, canary.CDP)
	}
	o = f.order("canary")
	o.IssuerID, o.Shard = "device", &far
	if canary := f.issue(o); canary.CRLShard != 3 {
		t.Errorf("a shard that there never was: %d", canary.CRLShard)
	}
	if old.CRLShard != 0 || old.CDP != "http://status.test/crl/device.crl" {
		t.Errorf("one of before is on shard %d, %s", old.CRLShard, old.CDP)
	}
	for shard, cert := range byShard {
		f.ledger.setStatus(cert.SerialNumber, ca.ReasonSuperseded, f.clock.now())
		for n := range 4 {
			crl, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device", Shard: n}, false)
			f.must(err)
			if listed := f.entry(crl, cert.SerialNumber) != nil; listed != (n == shard) || crl.Shard != n {
				t.Errorf("a certificate of shard %d on the CRL of %d: %t", shard, n, listed)
			}
			points, err := crl.DistributionPoints()
			f.must(err)
			if points[cert.CDP] != (n == shard) || len(points) != 1 {
				t.Errorf("the CRL of shard %d lists %v", n, points)
			}
		}
	}
	_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device", Shard: 4}, true)
	wantKind(t, err, ca.KindIssuerInactive, "issuer")
	for name, ok := range map[string]bool{"device": true, "device/1": true, "device/0": false, "device/01": false, "device/x": false, "device/-1": false, "device/1024": false} {
		scope, err := ca.ParseCRLScope(name)
		if (err == nil) != ok || ok && scope.String() != name {
			t.Errorf("%s: %v %v", name, scope, err)
		}
	}
}

// TestOthersAgreeOnShardsAndMovedURLs: OpenSSL with every shard of every issuer
// in one file, GnuTLS and NSS with the CRL that is the certificate's.
func TestOthersAgreeOnShardsAndMovedURLs(t *testing.T) {
	t.Parallel()
	needOpenSSL(t)
	f := newFixture(t, func(cfg *ca.Config) { cfg.Now = time.Now }) // certtool and NSS know no other time
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	f.ca.SetCRLShards("device", 3, 3)
	certs := map[string]*ca.Certificate{}
	for shard := range 3 {
		for _, name := range []string{"good", "revoked"} {
			o := f.order("device")
			o.Shard = &shard
			certs[name+string(rune('0'+shard))] = f.issue(o)
		}
	}
	f.ca.SetStatusURLs("device", []string{"http://status.test", "http://moved.test:8080"})
	for shard := range 3 {
		o := f.order("device")
		o.Shard = &shard
		certs["moved"+string(rune('0'+shard))] = f.issue(o)
	}
	bundle := string(made().CRLs[0].PEM())
	for name, cert := range certs {
		writeFile(t, path(name+".pem"), cert.PEM())
		if strings.HasPrefix(name, "revoked") {
			f.ledger.setStatus(cert.SerialNumber, ca.ReasonKeyCompromise, time.Now())
		}
	}
	for _, issuer := range []string{"device", "broker"} {
		i, err := f.ca.Issuer(issuer)
		f.must(err)
		for _, scope := range i.CRLScopes() {
			crl, err := f.ca.PublishCRL(f.ctx, scope, true)
			f.must(err)
			bundle += string(crl.PEM())
			if issuer == "device" {
				writeFile(t, path("shard"+string(rune('0'+scope.Shard))+".pem"), string(crl.PEM()))
				writeFile(t, path("shard"+string(rune('0'+scope.Shard))+".der"), string(crl.DER))
			}
		}
	}
	writeFile(t, path("root.pem"), ca.EncodeChain(f.root))
	writeFile(t, path("issuer.pem"), ca.EncodeChain(f.issuer("device")))
	writeFile(t, path("bundle.pem"), bundle)
	for name := range certs {
		out, err := openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check_all", "-CAfile", path("root.pem"), "-untrusted", path("issuer.pem"), "-CRLfile", path("bundle.pem"), path(name+".pem"))
		want := "OK"
		if strings.HasPrefix(name, "revoked") {
			want = "certificate revoked"
		}
		if !strings.Contains(out, want) || (err == nil) != (want == "OK") {
			t.Errorf("openssl, %s: want %q: %s", name, want, out)
		}
	}
	t.Run("gnutls", func(t *testing.T) {
		need(t, "certtool", "gnutls-bin")
		for shard := range 3 {
			n := string(rune('0' + shard))
			out, err := exec.CommandContext(t.Context(), "certtool", "--crl-info", "--infile", path("shard"+n+".pem")).CombinedOutput()
			if revoked := string(certs["revoked"+n].SerialNumber); err != nil || !strings.Contains(string(out), revoked) || !strings.Contains(string(out), "Revoked certificates (1)") {
				t.Errorf("certtool, shard %d: %v %s", shard, err, out)
			}
			out, err = exec.CommandContext(t.Context(), "certtool", "--verify-crl", "--load-ca-certificate", path("issuer.pem"), "--infile", path("shard"+n+".pem")).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Verified") {
				t.Errorf("certtool --verify-crl, shard %d: %v %s", shard, err, out)
			}
		}
	})
}

// TestNSSReadsCRLsWithoutIDP: those with one it does not read, whoever made
// them, because the extension is critical (RFC 5280, 5.2.5) and unknown to it.
func TestNSSReadsCRLsWithoutIDP(t *testing.T) {
	t.Parallel()
	need(t, "crlutil", "libnss3-tools")
	need(t, "certutil", "libnss3-tools")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, urls := range map[string][]string{"plain": nil, "idp": {"http://status.test"}} {
		f := newFixture(t, with("device", func(i *ca.Issuer) { i.StatusURLs = urls }), func(cfg *ca.Config) { cfg.Now = time.Now })
		serial := f.issue(f.order("device")).SerialNumber
		f.ledger.setStatus(serial, ca.ReasonKeyCompromise, time.Now())
		writeFile(t, path("crl.der"), string(f.publish("device", true).DER))
		writeFile(t, path("root.pem"), ca.EncodeChain(f.root))
		writeFile(t, path("issuer.pem"), ca.EncodeChain(f.issuer("device")))
		db := "sql:" + path(name)
		var out []byte
		var err error
		for _, args := range [][]string{
			{"mkdir", path(name)}, {"certutil", "-N", "-d", db, "--empty-password"},
			{"certutil", "-A", "-d", db, "-n", "root", "-t", "TC,C,", "-a", "-i", path("root.pem")},
			{"certutil", "-A", "-d", db, "-n", "issuer", "-t", "T,C,", "-a", "-i", path("issuer.pem")},
			{"crlutil", "-I", "-d", db, "-i", path("crl.der")}, {"crlutil", "-L", "-d", db, "-n", "issuer"},
		} {
			if out, err = exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
				break
			}
		}
		text := strings.ToLower(strings.NewReplacer(":", "", " ", "", "\n", "").Replace(string(out)))
		if urls == nil && (err != nil || !strings.Contains(text, string(serial))) {
			t.Errorf("without IDP: %v %s", err, out)
		}
		if urls != nil && (err == nil || !strings.Contains(string(out), "SEC_ERROR_CRL_UNKNOWN_CRITICAL_EXTENSION")) {
			t.Errorf("with IDP: %v %s", err, out)
		}
	}
}

// TestCRLsOfEveryKindOfKey are signed as crypto/x509 expects.
func TestCRLsOfEveryKindOfKey(t *testing.T) {
	t.Parallel()
	for name, key := range issuerKeys(t) {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Issuer"}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, SubjectKeyId: []byte{1, 2, 3},
		}
		rootKey := newKey(t)
		root := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, KeyUsage: template.KeyUsage, IsCA: true, SubjectKeyId: []byte{9}}, nil, rootKey, nil)
		issuer := sign(t, template, root, key, rootKey)
		f := newFixture(t, func(cfg *ca.Config) {
			cfg.Issuers = []ca.Issuer{
				{ID: "root", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: root, Parent: "root"},
				{ID: "device", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Certificate: issuer, Parent: "root", KeyURI: keepKey(key), StatusURLs: []string{"http://status.test"}},
			}
			cfg.Ledger.(*ledger).crls = map[string][]ca.CRL{}
		})
		cert := f.issue(f.order("device"))
		f.ledger.setStatus(cert.SerialNumber, ca.ReasonSuperseded, f.clock.now())
		crl := f.publish("device", true)
		if f.entry(crl, cert.SerialNumber) == nil {
			t.Errorf("%s: not listed", name)
		}
		if _, err := asn1.Unmarshal(crl.DER, new(asn1.RawValue)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// issuerKeys returns a key of each kind that issuers may have.
func issuerKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys["RSA"], keys["Ed25519"] = rsaKey, edKey
	return keys
}
