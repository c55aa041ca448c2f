package ca_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// Extensions of a certificate, by the names below.
var extensionNames = map[string]string{
	"2.5.29.14": "subjectKeyIdentifier", "2.5.29.15": "keyUsage", "2.5.29.17": "subjectAltName", "2.5.29.19": "basicConstraints",
	"2.5.29.31": "cRLDistributionPoints", "2.5.29.35": "authorityKeyIdentifier", "2.5.29.37": "extKeyUsage", "1.3.6.1.5.5.7.1.1": "authorityInfoAccess",
	"1.3.6.1.5.5.7.48.1.5": "ocspNoCheck",
}

func extensionsOf(c *x509.Certificate) (all, critical []string) {
	for _, ext := range c.Extensions {
		name := extensionNames[ext.Id.String()]
		if name == "" {
			name = ext.Id.String()
		}
		all = append(all, name)
		if ext.Critical {
			critical = append(critical, name)
		}
	}
	slices.Sort(all)
	slices.Sort(critical)
	return all, critical
}

func TestIssuedCertificatesFollowTheirProfile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, p := range ca.Profiles() {
		o := f.order(p.Name)
		wantExtensions := []string{"authorityInfoAccess", "authorityKeyIdentifier", "basicConstraints", "cRLDistributionPoints", "extKeyUsage", "keyUsage", "subjectKeyIdentifier"}
		if len(o.DNSNames) > 0 {
			wantExtensions = slices.Insert(wantExtensions, 6, "subjectAltName")
		}
		record := f.issue(o)
		c := f.parse(record)
		issuer, err := f.ca.Issuer(cmp.Or(string(p.Purpose), "device"))
		f.must(err)
		ocsp, chainUsages := []string{"http://status.test/ocsp"}, p.ExtKeyUsage
		if p.Name == ca.ResponderProfile {
			wantExtensions, ocsp, chainUsages = append(wantExtensions, "ocspNoCheck"), nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
			slices.Sort(wantExtensions)
		}
		now := f.clock.now()
		all, critical := extensionsOf(c)
		for what, ok := range map[string]bool{
			"the issuer is the purpose's": record.IssuerID == issuer.ID && c.CheckSignatureFrom(issuer.Certificate) == nil,
			"version 3":                   c.Version == 3,
			"subject":                     c.Subject.String() == "CN="+o.CommonName,
			"names":                       slices.Equal(c.DNSNames, o.DNSNames) && len(c.IPAddresses)+len(c.EmailAddresses)+len(c.URIs) == 0,
			"extended key usage":          slices.Equal(c.ExtKeyUsage, p.ExtKeyUsage) && len(c.UnknownExtKeyUsage) == 0,
			"key usage":                   c.KeyUsage == x509.KeyUsageDigitalSignature,
			"I9 not a CA":                 c.BasicConstraintsValid && !c.IsCA,
			"extensions":                  slices.Equal(all, wantExtensions),
			"critical extensions":         slices.Equal(critical, []string{"basicConstraints", "keyUsage"}),
			"identifiers":                 bytes.Equal(c.AuthorityKeyId, issuer.Certificate.SubjectKeyId) && bytes.Equal(c.SubjectKeyId, keyIdentifier(t, c)),
			"CDP":                         slices.Equal(c.CRLDistributionPoints, []string{"http://status.test/crl/" + issuer.ID + ".crl"}) && record.CDP == c.CRLDistributionPoints[0],
			"AIA":                         slices.Equal(c.IssuingCertificateURL, []string{"http://status.test/issuers/" + issuer.ID + ".cer"}) && slices.Equal(c.OCSPServer, ocsp),
			"I7 notBefore <= now":         !c.NotBefore.After(now) && !c.NotBefore.Before(now.Add(-p.Backdate-time.Second)),
			"I7 lifetime <= the profile's, both ends counted": c.NotAfter.Sub(c.NotBefore)+time.Second == p.Validity,
			"I7 notAfter <= the issuer's":                     !c.NotAfter.After(issuer.Certificate.NotAfter),
			"I4 serial number":                                len(c.SerialNumber.Bytes()) == 20 && c.SerialNumber.Sign() > 0 && record.SerialNumber.Int().Cmp(c.SerialNumber) == 0,
			"the record":                                      record.Profile == p.Name && record.Holder == o.Holder && record.Status == ca.StatusGood && record.KeySHA256 == o.KeySHA256 && bytes.Equal(record.DER, c.Raw),
			"its fingerprint":                                 record.SHA256 == ca.FingerprintOf(c),
		} {
			if !ok {
				t.Errorf("profile %s: %s: not so in %s", p.Name, what, record.PEM())
			}
		}
		if err := f.verify(record, chainUsages...); err != nil {
			t.Errorf("profile %s: %v", p.Name, err)
		}
		wrong := x509.ExtKeyUsageServerAuth
		if p.ExtKeyUsage[0] == wrong {
			wrong = x509.ExtKeyUsageClientAuth
		}
		if f.verify(record, wrong) == nil {
			t.Errorf("profile %s also verifies for usage %d", p.Name, wrong)
		}
	}
}

// keyIdentifier is the SHA-1 of the key's bits (RFC 5280, 4.2.1.2, method 1).
func keyIdentifier(t *testing.T, c *x509.Certificate) []byte {
	t.Helper()
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(spki.Key.RightAlign())
	return sum[:]
}

func TestRSAKeysOfServersEncipherKeysToo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, err := ca.ParseRequest("csr", request(t, "rsa-2048"))
	f.must(err)
	for profile, want := range map[string]x509.KeyUsage{
		"device": x509.KeyUsageDigitalSignature, "broker": x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	} {
		o := f.order(profile)
		o.PublicKey, o.KeySHA256 = r.PublicKey, r.KeySHA256
		if c := f.parse(f.issue(o)); c.KeyUsage != want {
			t.Errorf("%s: key usage %b", profile, c.KeyUsage)
		}
	}
}

// TestI9NothingOfARequestIsIssuedButItsKey asks for everything.
func TestI9NothingOfARequestIsIssuedButItsKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	extension := func(critical bool, value any, oid ...int) pkix.Extension {
		der, err := asn1.Marshal(value)
		f.must(err)
		return pkix.Extension{Id: oid, Critical: critical, Value: der}
	}
	key := newKey(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "Root CA", Organization: []string{"Fleet of Tests"}, SerialNumber: "1"},
		DNSNames:    []string{"mqtt.test"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		ExtraExtensions: []pkix.Extension{
			extension(true, struct{ CA bool }{true}, 2, 5, 29, 19),
			extension(true, asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}, 2, 5, 29, 15), // keyCertSign, cRLSign
			extension(false, []asn1.ObjectIdentifier{{2, 5, 29, 37, 0}}, 2, 5, 29, 37),       // anyExtendedKeyUsage
			extension(false, []byte("skid"), 2, 5, 29, 14),
			extension(true, "of my own", 1, 3, 6, 1, 4, 1, 99999, 1),
		},
	}, key)
	f.must(err)
	r, err := ca.ParseRequest("csr", der)
	f.must(err)
	o := f.order("device")
	o.PublicKey, o.KeySHA256 = r.PublicKey, r.KeySHA256
	c := f.parse(f.issue(o))
	all, _ := extensionsOf(c)
	want := []string{"authorityInfoAccess", "authorityKeyIdentifier", "basicConstraints", "cRLDistributionPoints", "extKeyUsage", "keyUsage", "subjectKeyIdentifier"}
	if !slices.Equal(all, want) || c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || c.Subject.String() != "CN=device-1" || bytes.Equal(c.SubjectKeyId, []byte("skid")) {
		t.Errorf("issued %v, CA %t, %s", all, c.IsCA, c.Subject)
	}
}

func TestI9NamesThatNoPolicyMayGive(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	long := strings.Repeat("a", 60) + ".test"
	for _, test := range []struct {
		name    string
		profile string
		change  func(*ca.Order)
		field   string // empty: allowed
	}{
		{"no common name", "device", func(o *ca.Order) { o.CommonName = "" }, "deviceId"},
		{"NUL", "device", func(o *ca.Order) { o.CommonName = "device-1\x00.evil" }, "deviceId"},
		{"a control character", "device", func(o *ca.Order) { o.CommonName = "device\n1" }, "deviceId"},
		{"mixed scripts", "device", func(o *ca.Order) { o.CommonName = "dеvice-1" /* Cyrillic e */ }, "deviceId"},
		{"not UTF-8", "device", func(o *ca.Order) { o.CommonName = "device\xff" }, "deviceId"},
		{"64 octets", "device", func(o *ca.Order) { o.CommonName = strings.Repeat("a", 64) }, ""},
		{"65 octets", "device", func(o *ca.Order) { o.CommonName = strings.Repeat("a", 65) }, "deviceId"},
		{"no common name of a broker", "broker", func(o *ca.Order) { o.CommonName = "" }, "names"},
		{"NUL in a DNS name", "broker", func(o *ca.Order) { o.DNSNames = []string{"mqtt.test\x00.evil"} }, "names"},
		{"an empty DNS name", "broker", func(o *ca.Order) { o.DNSNames = []string{""} }, "names"},
		{"an empty label", "broker", func(o *ca.Order) { o.DNSNames = []string{"mqtt..test"} }, "names"},
		{"a trailing dot", "broker", func(o *ca.Order) { o.DNSNames = []string{"mqtt.test."} }, "names"},
		{"a trailing line", "broker", func(o *ca.Order) { o.DNSNames = []string{"mqtt.test\n"} }, "names"},
		{"a label of 64", "broker", func(o *ca.Order) { o.DNSNames = []string{strings.Repeat("a", 64) + ".test"} }, "names"},
		{"a name of 255", "broker", func(o *ca.Order) { o.DNSNames = []string{strings.Repeat("a.", 127) + "b"} }, "names"},
		{"a URL", "broker", func(o *ca.Order) { o.DNSNames = []string{"mqtts://mqtt.test"} }, "names"},
		{"half an IP address", "broker", func(o *ca.Order) { o.IPs = []net.IP{{10, 0}} }, "names"},
		{"both kinds of address", "broker", func(o *ca.Order) { o.IPs = []net.IP{net.IPv4(10, 0, 0, 1), net.ParseIP("2001:db8::1")} }, ""},
		{"a host name too long for a subject", "broker", func(o *ca.Order) { o.CommonName, o.DNSNames = long, []string{long} }, ""},
	} {
		o := f.order(test.profile)
		test.change(&o)
		before, _ := f.ledger.count("device")
		cert, err := f.ca.Issue(f.ctx, o)
		after, _ := f.ledger.count("device")
		if test.field != "" {
			if wantKind(t, err, ca.KindNameNotAllowed, test.field); cert != nil || after != before {
				t.Errorf("%s: refused and recorded", test.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		c := f.parse(cert)
		if _, critical := extensionsOf(c); (c.Subject.CommonName == "") != slices.Contains(critical, "subjectAltName") {
			t.Errorf("%s: subject %q with critical %v (RFC 5280, 4.2.1.6)", test.name, c.Subject, critical)
		}
		if !slices.Equal(c.DNSNames, o.DNSNames) || !slices.EqualFunc(c.IPAddresses, o.IPs, net.IP.Equal) || len(cert.Names) != len(o.DNSNames)+len(o.IPs) {
			t.Errorf("%s: names %v %v, recorded %v", test.name, c.DNSNames, c.IPAddresses, cert.Names)
		}
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, with("broker", func(i *ca.Issuer) { i.State = ca.IssuerRetired }))
	issuer, err := f.ca.Issuer("device")
	f.must(err)
	weak, err := x509.ParseCertificateRequest(derOf(t, request(t, "rsa-1024")))
	f.must(err)
	for _, test := range []struct {
		name   string
		change func(*ca.Order)
		kind   ca.Kind
		field  string
	}{
		{"an unknown profile", func(o *ca.Order) { o.Profile = "root" }, ca.KindProfile, "profile"},
		{"another holder's profile", func(o *ca.Order) { o.Profile = "agent" }, ca.KindProfile, "profile"},
		{"no holder", func(o *ca.Order) { o.Holder.ID = "" }, ca.KindProfile, "profile"},
		{"I8 a weak key", func(o *ca.Order) { o.PublicKey, o.KeySHA256 = weak.PublicKey, keySHA256(t, weak.PublicKey) }, ca.KindWeakKey, "csr"},
		{"I8 no key", func(o *ca.Order) { o.PublicKey = nil }, ca.KindWeakKey, "csr"},
		{"I8 the key of an issuer", func(o *ca.Order) {
			o.PublicKey, o.KeySHA256 = issuer.Certificate.PublicKey, keySHA256(t, issuer.Certificate.PublicKey)
		}, ca.KindBlockedKey, "csr"},
		{"I8 the key of the root", func(o *ca.Order) { o.PublicKey, o.KeySHA256 = f.root.PublicKey, keySHA256(t, f.root.PublicKey) }, ca.KindBlockedKey, "csr"},
		{"a retired issuer's profile", func(o *ca.Order) { o.Profile, o.Holder.Kind = "broker", ca.HolderBroker }, ca.KindIssuerInactive, "profile"},
	} {
		o := f.order("device")
		test.change(&o)
		cert, err := f.ca.Issue(f.ctx, o)
		if cert != nil {
			t.Fatalf("%s: issued", test.name)
		}
		wantKind(t, err, test.kind, test.field)
	}
	if certs, _ := f.ledger.count("device"); certs != 0 {
		t.Errorf("%d recorded", certs)
	}
}

func TestI3AHashThatIsNotTheKeysIsCaught(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	issuer, err := f.ca.Issuer("device")
	f.must(err)
	o := f.order("device")
	o.PublicKey = issuer.Certificate.PublicKey // under the hash of an innocent key
	if cert, err := f.ca.Issue(f.ctx, o); err == nil || cert != nil {
		t.Fatal("issued for a key that is not the order's")
	}
	if certs, _ := f.ledger.count("device"); certs != 0 {
		t.Errorf("%d recorded", certs)
	}
}

func TestI1NothingIsReturnedThatWasNotRecorded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	full := errors.New("disk full")
	f.ledger.refuseCommits(full)
	if cert, err := f.ca.Issue(f.ctx, f.order("device")); cert != nil || !errors.Is(err, full) {
		t.Fatalf("got %v, %v", cert, err)
	}
	f.ledger.refuseCommits(nil)
	o := f.order("device")
	var seen ca.Certificate
	o.Claim = func(record ca.Certificate) any {
		seen = record
		if certs, _ := f.ledger.count("device"); certs != 0 {
			t.Error("recorded before its claim was made")
		}
		return "the claim"
	}
	cert := f.issue(o)
	if seen.DER != nil || seen.SerialNumber != cert.SerialNumber || seen.SHA256 != cert.SHA256 || seen.KeySHA256 != o.KeySHA256 {
		t.Errorf("the claim was handed %+v", seen)
	}
	recorded, err := f.ledger.Certificate(f.ctx, cert.SerialNumber)
	f.must(err)
	if !bytes.Equal(recorded.DER, cert.DER) || !slices.Equal(f.ledger.claims, []any{"the claim"}) {
		t.Error("what was recorded is not what was returned")
	}
}

func TestI4SerialNumbersArePositiveAndUnique(t *testing.T) {
	t.Parallel()
	const many = 20_000
	seen := make(map[ca.SerialNumber]bool, many)
	ones, zeros := new(big.Int), new(big.Int)
	for range many {
		s := ca.NewSerialNumber()
		n := s.Int()
		if len(n.Bytes()) != 20 || n.Bit(159) != 0 || n.Sign() <= 0 || seen[s] || ca.SerialNumberOf(n) != s {
			t.Fatalf("serial number %s", s)
		}
		seen[s] = true
		ones.Or(ones, n)
		zeros.Or(zeros, new(big.Int).Not(n))
	}
	random := 0
	for bit := range 160 {
		random += int(ones.Bit(bit) & zeros.Bit(bit))
	}
	if random < 128 {
		t.Errorf("%d bits vary, fewer than 128", random)
	}
}

func TestI7NoCertificateOutlivesItsIssuer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	issuer, err := f.ca.Issuer("device")
	f.must(err)
	end := issuer.Certificate.NotAfter
	f.clock.set(end.Add(-48 * time.Hour))
	if c := f.parse(f.issue(f.order("device"))); !c.NotAfter.Equal(end) {
		t.Errorf("notAfter %v, the issuer's %v", c.NotAfter, end)
	}
	f.clock.set(end)
	_, err = f.ca.Issue(f.ctx, f.order("device"))
	wantKind(t, err, ca.KindIssuerInactive, "profile")
}

func TestI7NothingIsSignedWhenTheClockGoesBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.issue(f.order("device"))
	right := f.clock.now()
	f.clock.set(right.Add(-4 * time.Second))
	f.issue(f.order("device")) // within the tolerance
	f.clock.set(right.Add(-6 * time.Second))
	_, err := f.ca.Issue(f.ctx, f.order("device"))
	wantKind(t, err, ca.KindClock, "")
	_, err = f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, true)
	wantKind(t, err, ca.KindClock, "")
	if certs, crls := f.ledger.count("device"); certs != 2 || crls != 1 {
		t.Errorf("%d certificates and %d CRLs", certs, crls)
	}
	f.clock.set(right)
	f.issue(f.order("device"))
	f.publish("device", true)
}

func TestI7TheLedgersTimeCountsFromTheStart(t *testing.T) {
	t.Parallel()
	ahead := made().at.Add(time.Hour)
	f := newFixture(t, func(cfg *ca.Config) { cfg.LastEvent = ahead })
	_, err := f.ca.Issue(f.ctx, f.order("device"))
	wantKind(t, err, ca.KindClock, "")
	f.clock.set(ahead)
	f.issue(f.order("device"))

	empty := newFixture(t)
	empty.clock.set(time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC))
	_, err = empty.ca.Issue(empty.ctx, empty.order("device"))
	wantKind(t, err, ca.KindIssuerInactive, "profile") // expired; not a clock that went back
}

// TestI3AFaultySignatureIsCaught: a key that passed its self-test, and then
// signs wrongly.
func TestI3AFaultySignatureIsCaught(t *testing.T) {
	t.Parallel()
	var key *faultyKey
	f := newFixture(t, with("device", func(i *ca.Issuer) {
		good, _ := kept.Load(i.KeyURI)
		key = &faultyKey{Signer: good.(crypto.Signer)}
		i.KeyURI = keepKey(key)
	}))
	key.broken.Store(true)
	cert, err := f.ca.Issue(f.ctx, f.order("device"))
	if wantKind(t, err, ca.KindKey, ""); cert != nil {
		t.Error("issued")
	}
	_, err = f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, true)
	wantKind(t, err, ca.KindKey, "")
	if certs, crls := f.ledger.count("device"); certs != 0 || crls != 1 {
		t.Errorf("%d certificates and %d CRLs", certs, crls)
	}
	key.broken.Store(false)
	f.issue(f.order("device"))
	if crl := f.publish("device", true); crl.Number != 3 { // 2 was reserved for good
		t.Errorf("CRL %d", crl.Number)
	}
}

// TestIssueIsSafeForConcurrentUse is for the race detector, too.
func TestIssueIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, stop := context.WithCancel(f.ctx)
	var issuing, beside sync.WaitGroup
	for n := range 8 {
		orders := make([]ca.Order, 8)
		for i := range orders {
			orders[i] = f.order([]string{"device", "broker"}[n%2])
		}
		issuing.Go(func() {
			for _, o := range orders {
				if _, err := f.ca.Issue(ctx, o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	beside.Go(func() {
		for ctx.Err() == nil {
			f.ca.SetStatusURLs("device", []string{"http://status.test", "http://moved.test"})
			if _, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, false); err != nil {
				t.Error(err)
			}
			f.ca.Issuers()
			f.ca.Chain("device")
			f.clock.advance(time.Millisecond)
		}
	})
	issuing.Wait()
	stop()
	beside.Wait()
	if certs, _ := f.ledger.count("device"); certs != 64 {
		t.Errorf("%d certificates recorded", certs)
	}
}

// Nothing is signed while the clock and the database's are more than 5 s
// apart, either way, and signing goes on when they agree again (I7).
func TestI7TheDatabasesClockCounts(t *testing.T) {
	var skew time.Duration
	f := newFixture(t, func(cfg *ca.Config) { cfg.Skew = func() time.Duration { return skew } })
	for _, skew = range []time.Duration{6 * time.Second, -6 * time.Second} {
		if _, err := f.ca.Issue(f.ctx, f.order("device")); !errors.Is(err, ca.IsKind(ca.KindClock)) {
			t.Errorf("%v off: %v", skew, err)
		}
	}
	skew = 4 * time.Second
	if _, err := f.ca.Issue(f.ctx, f.order("device")); err != nil {
		t.Errorf("%v off: %v", skew, err)
	}
}
