package enroll_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A maker is a manufacturer: a root, an authority below it, and what it makes.
type maker struct {
	*testing.T
	root, below       *x509.Certificate
	rootKey, belowKey crypto.Signer
}

// eternal is 99991231235959Z: no well-defined expiration (RFC 5280, 4.1.2.5).
var eternal = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

func newMaker(t *testing.T) *maker {
	t.Helper()
	m := &maker{T: t, rootKey: newKey(t), belowKey: newKey(t)}
	m.root = m.sign(m.authority("Acme Root"), nil, m.rootKey, m.rootKey)
	m.below = m.sign(m.authority("Acme IDevIDs"), m.root, m.belowKey, m.rootKey)
	return m
}

func (m *maker) authority(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{Organization: []string{"Acme"}, CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: eternal,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
}

// leaf is what the certificate of a device looks like (IEEE 802.1AR, 8).
func (m *maker) leaf(serial string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{Organization: []string{"Acme"}, SerialNumber: serial}, NotBefore: time.Now().Add(-time.Hour), NotAfter: eternal,
		KeyUsage: x509.KeyUsageDigitalSignature}
}

// sign returns a template as a certificate of key, by parent (nil: by itself).
func (m *maker) sign(template, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	m.Helper()
	template.SerialNumber = ca.NewSerialNumber().Int()
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		m.Fatal(err)
	}
	return must(x509.ParseCertificate(der))
}

// born returns the chain that a device of a serial number presents.
func (m *maker) born(serial string, change ...func(*x509.Certificate)) []*x509.Certificate {
	m.Helper()
	template := m.leaf(serial)
	for _, c := range change {
		c(template)
	}
	return []*x509.Certificate{m.sign(template, m.below, newKey(m), m.belowKey), m.below}
}

func admin(key string) enroll.Call {
	return enroll.Call{Principal: enroll.Principal{Name: "token:admin", Role: enroll.RoleAdmin, Seal: []byte("seal of admin")}, IdempotencyKey: key}
}

// acme registers the maker's root, with a manifest.
func (s *site) acme(m *maker, reenroll bool, manifest string) {
	s.Helper()
	_, err := s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "acme", Certificate: ca.EncodeChain(m.root), Reenroll: reenroll})
	s.must(err)
	if manifest != "" {
		_, err = s.AddManifest(s.ctx, as("factory", ""), "acme", enroll.ManifestRequest{CSV: manifest})
		s.must(err)
	}
}

// comes is the call of a device that presented a chain.
func (s *site) comes(peer []*x509.Certificate, key string) enroll.Call {
	s.Helper()
	p, err := s.AuthenticateIDevID(s.ctx, peer)
	s.must(err)
	return enroll.Call{Principal: *p, IdempotencyKey: key}
}

// A device that its manufacturer's manifest names enrolls with the certificate
// it was made with, once, and says neither its id nor its work order.
func TestIDevID_I1_I5_I6_I19(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.order("WO", 5, enroll.NewToken{})
	s.acme(m, false, "subjectSerial,deviceId,workOrder\nSN 1,pump-1,WO\nSN 2,pump-2,WO\n")
	peer := m.born("SN 1")
	csr := newCSR(t, newKey(t), "pump-1")
	var first *enroll.Enrollment
	made := s.newEvents(func() {
		first = must(s.EnrollDevice(s.ctx, s.comes(peer, "k"), enroll.EnrollRequest{CSR: csr}))
	})
	if !slices.Equal(made, []string{"device.enroll"}) {
		t.Errorf("events %v", made)
	}
	all, _, err := s.Events(s.ctx, enroll.EventFilter{Subject: "device:pump-1"}, enroll.Page{Limit: 1})
	s.must(err)
	event := all[0]
	if event.Actor != "idevid:pump-1" || !strings.Contains(string(event.Detail), `"manufacturer":"acme"`) || !strings.Contains(string(event.Detail), ca.FingerprintOf(peer[0])) {
		t.Errorf("%+v %s", event, event.Detail)
	}
	if d := must(s.Device(s.ctx, "pump-1")); d.WorkOrder != "WO" || d.Status != enroll.DeviceActive || first.DeviceID != "pump-1" || first.Certificate.Subject != "CN=pump-1" {
		t.Errorf("%+v", d)
	}
	if o := must(s.WorkOrder(s.ctx, "WO")); o.Issued != 1 {
		t.Errorf("%d issued", o.Issued)
	}
	entries, _, err := s.Manifest(s.ctx, "acme", enroll.Page{})
	s.must(err)
	if entries[0].SerialNumber != first.Certificate.SerialNumber || entries[0].EnrolledAt == nil || entries[1].EnrolledAt != nil {
		t.Errorf("%+v", entries[0])
	}
	s.unchanged(func() {
		for _, key := range []string{"k", ""} { // the very request again, with and without its key
			again := must(s.EnrollDevice(s.ctx, s.comes(peer, key), enroll.EnrollRequest{CSR: csr, DeviceID: "pump-1"}))
			if !again.Replayed || again.Chain != first.Chain {
				t.Error("another answer")
			}
		}
		other := newCSR(t, newKey(t), "")
		_, err := s.EnrollDevice(s.ctx, s.comes(peer, ""), enroll.EnrollRequest{CSR: other})
		s.wantKind(err, enroll.KindIDevIDUsed, "")
		_, err = s.EnrollDevice(s.ctx, s.comes(peer, "k"), enroll.EnrollRequest{CSR: other})
		s.wantKind(err, enroll.KindIdempotency, "")
		second := s.comes(m.born("SN 2"), "")
		_, err = s.EnrollDevice(s.ctx, second, enroll.EnrollRequest{CSR: other, DeviceID: "pump-1"})
		s.wantKind(err, enroll.KindForbidden, "deviceId")
		_, err = s.EnrollDevice(s.ctx, second, enroll.EnrollRequest{CSR: other, WorkOrder: "other"})
		s.wantKind(err, enroll.KindForbidden, "workOrder")
		_, err = s.EnrollDevice(s.ctx, second, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "pump-1")})
		s.wantKind(err, ca.KindNameNotAllowed, "csr")
		_, err = s.EnrollDevice(s.ctx, second, enroll.EnrollRequest{CSR: csr})
		s.wantKind(err, ca.KindNameNotAllowed, "csr")
	})
}

// What is refused is counted for the manifest's work order, under its device.
func TestRefusedIDevID(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.order("WO", 1, enroll.NewToken{})
	s.acme(m, false, "subjectSerial,deviceId,workOrder\nSN 1,pump-1,WO\nSN 2,pump-2,WO\n")
	must(s.EnrollDevice(s.ctx, s.comes(m.born("SN 1"), ""), enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "")}))
	_, err := s.EnrollDevice(s.ctx, s.comes(m.born("SN 2"), ""), enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "")})
	s.wantKind(err, enroll.KindQuotaReached, "workOrder")
	s.must(s.SaveRefusals(s.ctx))
	p := must(s.WorkOrderProgress(s.ctx, "WO"))
	if len(p.LastRefused) != 1 || p.LastRefused[0].Device != "pump-2" || p.LastRefused[0].Kind != enroll.KindQuotaReached {
		t.Errorf("%+v", p)
	}
}

// A device does not choose its profile: its work order does, and without one it
// is device.
func TestIDevIDProfile(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.acme(m, false, "subjectSerial,deviceId\nSN 1,pump-1\n")
	call := s.comes(m.born("SN 1"), "")
	for _, profile := range []string{"broker", "canary", "device-wide", "none"} {
		_, err := s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), ""), Profile: profile})
		s.wantKind(err, enroll.KindForbidden, "profile")
	}
	if e := must(s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), ""), Profile: "device"})); e.Certificate.Profile != "device" {
		t.Errorf("profile %s", e.Certificate.Profile)
	}
}

// One certificate of birth enrolls once, whoever asks at the same time, at
// whichever server.
func TestRacingIDevIDs_I6(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.acme(m, false, "subjectSerial,deviceId\nSN 1,pump-1\n")
	peer := m.born("SN 1")
	call := s.comes(peer, "")
	replicas := []*enroll.Service{s.Service, s.server(s.openStore())}
	_, errs := race(12, func(i int) (*enroll.Enrollment, error) {
		return replicas[i%2].EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "")})
	})
	s.wantKinds(errs, map[ca.Kind]int{"": 1, enroll.KindIDevIDUsed: 11})
	if good := s.certificates("pump-1")[ca.StatusGood]; len(good) != 1 {
		t.Errorf("%d certificates", len(good))
	}
}

// Where the manufacturer's devices may, one enrolls again under a new key: what
// it held is revoked in the same transaction, and no quota is taken again.
func TestIDevIDAgain(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.order("WO", 1, enroll.NewToken{})
	s.acme(m, true, "subjectSerial,deviceId,workOrder\nSN 1,pump-1,WO\n")
	call := s.comes(m.born("SN 1"), "")
	csr := newCSR(t, newKey(t), "")
	first := must(s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: csr}))
	if again := must(s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: csr})); !again.Replayed || again.Chain != first.Chain {
		t.Error("a repeated request made another certificate")
	}
	var second *enroll.Enrollment
	made := s.newEvents(func() {
		second = must(s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "")}))
	})
	if !slices.Equal(made, []string{"device.rekey"}) {
		t.Errorf("events %v", made)
	}
	all := s.certificates("pump-1")
	if !slices.Equal(all[ca.StatusRevoked], []ca.SerialNumber{first.Certificate.SerialNumber}) || !slices.Equal(all[ca.StatusGood], []ca.SerialNumber{second.Certificate.SerialNumber}) {
		t.Errorf("%v", all)
	}
	if o := must(s.WorkOrder(s.ctx, "WO")); o.Issued != 1 {
		t.Errorf("%d issued", o.Issued)
	}
	s.unchanged(func() { // the key that was superseded does not come back
		_, err := s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: csr})
		s.wantKind(err, enroll.KindDuplicateKey, "csr")
	})
	must(s.HoldDevice(s.ctx, as("op", ""), "pump-1"))
	_, err := s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "")})
	s.wantKind(err, enroll.KindDeviceHeld, "deviceId")
	must(s.ReleaseDevice(s.ctx, as("op", ""), "pump-1"))
	must(s.UpdateManufacturer(s.ctx, admin(""), "acme", enroll.ManufacturerUpdate{Reenroll: new(false)}))
	_, err = s.EnrollDevice(s.ctx, call, enroll.EnrollRequest{CSR: newCSR(t, newKey(t), "")}) // it was let in before
	s.wantKind(err, enroll.KindIDevIDUsed, "")
}

// What a chain must be, and which certificates it is refused for.
func TestIDevIDChain(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.acme(m, false, "subjectSerial,deviceId\nSN 1,pump-1\n")
	signed := func(template *x509.Certificate, key crypto.Signer) []*x509.Certificate {
		return []*x509.Certificate{m.sign(template, m.below, key, m.belowKey), m.below}
	}
	with := func(change func(*x509.Certificate)) []*x509.Certificate { return m.born("SN 1", change) }
	module := []byte{0x30, 0x12, 0xa0, 0x10, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x04, 0xa0, 0x04, 0x30, 0x02, 0x05, 0x00} // an otherName: hardwareModuleName
	unknown := newMaker(t)
	underLeaf := func() []*x509.Certificate {
		key := newKey(t)
		leaf := signed(m.leaf("SN 9"), key)
		return []*x509.Certificate{m.sign(m.leaf("SN 1"), leaf[0], newKey(t), key), leaf[0], m.below}
	}
	short := m.authority("Acme for an hour")
	short.NotAfter = time.Now().Add(-time.Minute)
	shortKey := newKey(t)
	expired := m.sign(short, m.root, shortKey, m.rootKey)
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	for name, c := range map[string]struct {
		peer []*x509.Certificate
		kind ca.Kind // empty when it is good
	}{
		"as it should be, until 99991231235959Z": {m.born("SN 1"), ""},
		"with the root sent along":               {append(m.born("SN 1"), m.root), ""},
		"without key usage":                      {with(func(c *x509.Certificate) { c.KeyUsage = 0 }), ""},
		"for clients":                            {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), ""},
		"with a critical hardwareModuleName": {with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: module}}
		}), ""},
		"P-384":    {signed(m.leaf("SN 1"), must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))), ""},
		"RSA 2048": {signed(m.leaf("SN 1"), must(rsa.GenerateKey(rand.Reader, 2048))), ""},

		"nothing sent":                      {nil, enroll.KindUnauthenticated},
		"without the authority in between":  {m.born("SN 1")[:1], enroll.KindUnknownManufacturer},
		"another manufacturer's":            {unknown.born("SN 1"), enroll.KindUnknownManufacturer},
		"another's root with the same name": {append(unknown.born("SN 1"), m.below, m.root), enroll.KindUnknownManufacturer},
		"signed by a device":                {underLeaf(), enroll.KindUnknownManufacturer},
		"below an authority that expired":   {[]*x509.Certificate{m.sign(m.leaf("SN 1"), expired, newKey(t), shortKey), expired}, enroll.KindBadIDevID},
		"expired":                           {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), enroll.KindBadIDevID},
		"not valid yet":                     {with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), enroll.KindBadIDevID},
		"for servers alone":                 {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), enroll.KindBadIDevID},
		"for encipherment alone":            {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), enroll.KindBadIDevID},
		"an authority":                      {[]*x509.Certificate{m.below}, enroll.KindBadIDevID},
		"the manufacturer's root":           {[]*x509.Certificate{m.root}, enroll.KindBadIDevID},
		"that may sign certificates":        {with(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), enroll.KindBadIDevID},
		"with an unknown critical extension": {with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), enroll.KindBadIDevID},
		"RSA 1024":                   {signed(m.leaf("SN 1"), weak), enroll.KindBadIDevID},
		"P-224":                      {signed(m.leaf("SN 1"), must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))), enroll.KindBadIDevID},
		"with too many certificates": {append(m.born("SN 1"), m.below, m.below, m.below, m.below, m.below, m.below), enroll.KindBadIDevID},
		"with two serial numbers in its subject": {with(func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: "SN 1"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: "SN 2"}}
			c.Subject.SerialNumber = ""
		}), enroll.KindBadIDevID},
		"that no manifest names": {m.born("SN 7"), enroll.KindNotInManifest},
		"without serial number":  {m.born(""), enroll.KindNotInManifest},
	} {
		p, err := s.AuthenticateIDevID(s.ctx, c.peer)
		if c.kind == "" {
			if err != nil || p.Name != "idevid:pump-1" || p.Role != "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if got := kinds([]error{err}); got[c.kind] != 1 {
			t.Errorf("%s: %v, want %s", name, err, c.kind)
		}
		if e, ok := errors.AsType[*ca.Error](err); !ok || e.Hint == "" {
			t.Errorf("%s: no hint: %v", name, err)
		}
	}
	must(s.DisableManufacturer(s.ctx, enroll.Call{Principal: enroll.Principal{Name: "token:s", Role: enroll.RoleSecurity}}, "acme"))
	_, err := s.AuthenticateIDevID(s.ctx, m.born("SN 1"))
	s.wantKind(err, enroll.KindUnknownManufacturer, "")
}

// A device of this authority is none of a manufacturer's, and this authority
// no manufacturer.
func TestOwnCertificatesAreNoIDevIDs(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.acme(m, false, "")
	e, _ := s.enroll("d")
	_, err := s.AuthenticateIDevID(s.ctx, []*x509.Certificate{must(e.Certificate.X509())})
	s.wantKind(err, enroll.KindUnknownManufacturer, "")
	leaf := m.born("SN 1")[0]
	for name, text := range map[string]string{
		"our root":   ca.EncodeChain(s.root),
		"two":        ca.EncodeChain(m.root, m.below),
		"a device":   ca.EncodeChain(leaf),
		"nothing":    "",
		"not base64": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"a key":      "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		_, err := s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "x", Certificate: text})
		if kinds([]error{err})[ca.KindMalformed] != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, i := range s.authority.Issuers() {
		_, err := s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "x", Certificate: ca.EncodeChain(i.Certificate)})
		s.wantKind(err, ca.KindMalformed, "certificate")
	}
	old := m.authority("Acme of old")
	old.NotAfter = time.Now().Add(-time.Hour)
	_, err = s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "x", Certificate: ca.EncodeChain(m.sign(old, nil, m.rootKey, m.rootKey))})
	s.wantKind(err, ca.KindMalformed, "certificate")
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	_, err = s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "x", Certificate: ca.EncodeChain(m.sign(m.authority("Acme, small"), nil, small, small))})
	s.wantKind(err, ca.KindWeakKey, "certificate")
}

// All that a line gives of a certificate must be so; and a certificate that two
// lines describe is refused, not guessed at.
func TestManifestMatching(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	all, serial, print, twice, half := m.born("A"), m.born(""), m.born("C"), m.born("D"), m.born("E")
	number := func(peer []*x509.Certificate) string { return fmt.Sprintf("00:%X", peer[0].SerialNumber) }
	s.acme(m, false, strings.Join([]string{
		"deviceId,subjectSerial,certificateSerial,sha256",
		"all,A," + number(all) + "," + strings.ToUpper(ca.FingerprintOf(all[0])),
		"serial,," + number(serial) + ",",
		"print,,," + ca.FingerprintOf(print[0]),
		"twice-1,D,,", "twice-2,,," + ca.FingerprintOf(twice[0]),
		"half,E," + number(print) + ",", // the serial number is another's
	}, "\n"))
	for want, peer := range map[string][]*x509.Certificate{"all": all, "serial": serial, "print": print} {
		if p := must(s.AuthenticateIDevID(s.ctx, peer)); p.IDevID.Entry.DeviceID != want {
			t.Errorf("%s: %+v", want, p)
		}
	}
	for _, peer := range [][]*x509.Certificate{twice, half} {
		_, err := s.AuthenticateIDevID(s.ctx, peer)
		s.wantKind(err, enroll.KindNotInManifest, "")
	}
	must(s.RemoveManifest(s.ctx, as("op", ""), "acme", enroll.ManifestRemoval{DeviceIDs: []string{"twice-1", "twice-1"}}))
	if p := must(s.AuthenticateIDevID(s.ctx, twice)); p.IDevID.Entry.DeviceID != "twice-2" {
		t.Errorf("%+v", p)
	}
}

// Two manufacturers may be registered on one chain: the one whose manifest names
// the certificate is meant, the nearer first.
func TestManufacturersAboveOneAnother(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.acme(m, false, "subjectSerial,deviceId\nSN 1,by-root\n")
	must(s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "plant", Certificate: ca.EncodeChain(m.below)}))
	must(s.AddManifest(s.ctx, as("op", ""), "plant", enroll.ManifestRequest{CSV: "subjectSerial,deviceId\nSN 2,by-plant\n"}))
	for serial, want := range map[string]string{"SN 1": "acme", "SN 2": "plant"} {
		if p := must(s.AuthenticateIDevID(s.ctx, m.born(serial))); p.IDevID.Manufacturer.ID != want {
			t.Errorf("%s is %s's", serial, p.IDevID.Manufacturer.ID)
		}
	}
	if p := must(s.AuthenticateIDevID(s.ctx, m.born("SN 2")[:1])); p.IDevID.Entry.DeviceID != "by-plant" { // nothing in between is needed
		t.Errorf("%+v", p)
	}
	_, err := s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "twin", Certificate: ca.EncodeChain(m.root)})
	s.wantKind(err, enroll.KindConflict, "certificate")
}

// Calls that change manufacturers and manifests are repeatable, make an event
// each, and none where nothing changes.
func TestManufacturerChanges_I5_I19(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	s.order("WO", 5, enroll.NewToken{})
	n := enroll.NewManufacturer{ID: "acme", Certificate: ca.EncodeChain(m.root)}
	manifest := enroll.ManifestRequest{CSV: "subjectSerial,deviceId,workOrder\nSN 1,pump-1,WO\nSN 2,pump-2,WO\n"}
	made := s.newEvents(func() {
		must(s.AddManufacturer(s.ctx, admin("k"), n))
		_, err := s.AddManufacturer(s.ctx, admin("k"), n)
		s.wantReplay(err)
		for i, want := range []enroll.ManifestResult{{Added: 2}, {Unchanged: 2}, {Unchanged: 2}} {
			if got := must(s.AddManifest(s.ctx, as("op", []string{"m", "m", ""}[i]), "acme", manifest)); *got != want {
				t.Errorf("%d: %+v", i, got)
			}
		}
		must(s.UpdateManufacturer(s.ctx, admin(""), "acme", enroll.ManufacturerUpdate{Reenroll: new(true)}))
		must(s.UpdateManufacturer(s.ctx, admin(""), "acme", enroll.ManufacturerUpdate{Reenroll: new(true)}))
		must(s.DisableManufacturer(s.ctx, admin(""), "acme"))
		must(s.DisableManufacturer(s.ctx, admin(""), "acme"))
		for range 2 {
			if left := must(s.RemoveManifest(s.ctx, as("op", "r"), "acme", enroll.ManifestRemoval{DeviceIDs: []string{"pump-1"}})); left.Devices != 1 {
				t.Errorf("%d devices left", left.Devices)
			}
		}
	})
	if want := []string{"manufacturer.add", "manifest.add", "manufacturer.update", "manufacturer.disable", "manifest.remove"}; !slices.Equal(made, want) {
		t.Errorf("events %v, want %v", made, want)
	}
	bound := as("line", "")
	bound.Principal.Role, bound.Principal.Token = enroll.RoleFactory, &enroll.APIToken{WorkOrder: "other"}
	s.unchanged(func() {
		_, err := s.AddManifest(s.ctx, bound, "acme", enroll.ManifestRequest{CSV: "subjectSerial,deviceId,workOrder\nSN 3,pump-3,WO\n"})
		s.wantKind(err, enroll.KindForbidden, "workOrder")
		_, err = s.RemoveManifest(s.ctx, bound, "acme", enroll.ManifestRemoval{DeviceIDs: []string{"pump-2"}})
		s.wantKind(err, enroll.KindForbidden, "workOrder")
		_, err = s.UpdateManufacturer(s.ctx, admin(""), "acme", enroll.ManufacturerUpdate{})
		s.wantKind(err, ca.KindMalformed, "")
		_, err = s.UpdateManufacturer(s.ctx, admin(""), "acme", enroll.ManufacturerUpdate{State: new(enroll.ManufacturerState("asleep"))})
		s.wantKind(err, ca.KindMalformed, "state")
		_, err = s.RemoveManifest(s.ctx, as("op", ""), "acme", enroll.ManifestRemoval{})
		s.wantKind(err, ca.KindMalformed, "deviceIds")
		_, err = s.AddManifest(s.ctx, as("op", ""), "acme", enroll.ManifestRequest{CSV: "subjectSerial,deviceId\n" + manyLines(enroll.MaxManifestRows+1)})
		s.wantKind(err, ca.KindTooLarge, "csv")
		_, _, err = s.Manifest(s.ctx, "none", enroll.Page{})
		s.wantKind(err, ca.KindNotFound, "id")
	})
}

func manyLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "SN %d,d-%d\n", i, i)
	}
	return b.String()
}

// A manufacturer's authority that is about to end needs a person, unless it is
// disabled.
func TestAttentionToManufacturers(t *testing.T) {
	t.Parallel()
	s, m := newSite(t), newMaker(t)
	brief := m.authority("Acme, brief")
	brief.NotBefore, brief.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(47*time.Hour)
	must(s.AddManufacturer(s.ctx, admin(""), enroll.NewManufacturer{ID: "brief", Certificate: ca.EncodeChain(m.sign(brief, nil, m.rootKey, m.rootKey))}))
	s.acme(m, false, "")
	s.wantAttention()
	s.clock.forward(33 * time.Hour)
	s.wantAttention("manufacturer-expiring warning manufacturer:brief open-manufacturer")
	s.clock.forward(15 * time.Hour)
	s.wantAttention("manufacturer-expiring critical manufacturer:brief open-manufacturer")
	must(s.DisableManufacturer(s.ctx, admin(""), "brief"))
	s.wantAttention()
}
