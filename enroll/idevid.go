package enroll

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"

	"github.com/fleetca/fleetca/ca"
)

// An IDevID is a certificate that a device was born with (IEEE 802.1AR), held
// against its manufacturer's chain and manifest. The TLS handshake proved that
// the device has its key.
type IDevID struct {
	Manufacturer *Manufacturer
	Entry        *ManifestEntry
	SHA256       string
}

// maxIDevIDChain bounds the certificates that a device sends beside its own.
const maxIDevIDChain = 6

// Object identifiers that are looked at here (RFC 5280; X.520).
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidSubjectSerial  = asn1.ObjectIdentifier{2, 5, 4, 5}
)

// AuthenticateIDevID returns the principal of a client certificate that a
// manufacturer made, and whose key the TLS handshake proved possession of.
// KindUnknownManufacturer for a chain that leads to none that is registered and
// active, KindBadIDevID for one that does not hold, KindNotInManifest.
func (s *Service) AuthenticateIDevID(ctx context.Context, peer []*x509.Certificate) (*Principal, error) {
	if len(peer) == 0 {
		return nil, ca.Errorf(KindUnauthenticated, "", "present the device's certificate and key", "no client certificate was presented")
	}
	makers, err := s.makersOf(ctx, peer)
	if err != nil {
		return nil, err
	}
	serial, err := subjectSerial(peer[0])
	if err != nil {
		return nil, err
	}
	known := ManifestEntry{SubjectSerial: serial, CertificateSerial: ca.SerialNumberOf(peer[0].SerialNumber), SHA256: ca.FingerprintOf(peer[0])}
	var found []*IDevID
	for _, m := range makers {
		entries, err := s.store.ManifestEntries(ctx, m.ID, known)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.describes(known) {
				found = append(found, &IDevID{Manufacturer: m, Entry: e, SHA256: known.SHA256})
			}
		}
	}
	switch len(found) {
	case 1:
		return &Principal{Name: "idevid:" + found[0].Entry.DeviceID, IDevID: found[0]}, nil
	case 0:
		return nil, ca.Errorf(KindNotInManifest, "", "add it: fleetca manufacturer manifest "+makers[0].ID+" --csv FILE",
			"the manifest of manufacturer %s does not name the certificate with serialNumber %.64q, serial number %s, SHA-256 %s", makers[0].ID, known.SubjectSerial, known.CertificateSerial, known.SHA256)
	}
	return nil, ca.Errorf(KindNotInManifest, "", "take one of the lines off the manifest",
		"the manifest names this certificate more than once, as device %s and as device %s", found[0].Entry.DeviceID, found[1].Entry.DeviceID)
}

// describes reports whether all that the entry gives is so of a certificate.
func (e ManifestEntry) describes(c ManifestEntry) bool {
	return (e.SubjectSerial == "" || e.SubjectSerial == c.SubjectSerial) &&
		(e.CertificateSerial == "" || e.CertificateSerial == c.CertificateSerial) && (e.SHA256 == "" || e.SHA256 == c.SHA256)
}

// subjectSerial returns the serialNumber of a certificate's subject, empty for
// none. With two of them it could be taken for either.
func subjectSerial(c *x509.Certificate) (string, error) {
	found := 0
	for _, name := range c.Subject.Names {
		if name.Type.Equal(oidSubjectSerial) {
			found++
		}
	}
	if found > 1 {
		return "", ca.Errorf(KindBadIDevID, "", "ask the manufacturer for a certificate with one", "its subject has %d serialNumbers", found)
	}
	return c.Subject.SerialNumber, nil
}

// makersOf verifies a client's chain (RFC 5280, section 6) and returns the
// active manufacturers that it leads to, the nearest first.
func (s *Service) makersOf(ctx context.Context, peer []*x509.Certificate) ([]*Manufacturer, error) {
	if len(peer) > 1+maxIDevIDChain {
		return nil, ca.Errorf(KindBadIDevID, "", "send the certificates between the device's and the manufacturer's alone", "%d certificates were sent", len(peer))
	}
	if err := checkIDevID(peer); err != nil {
		return nil, err
	}
	known := map[string]*Manufacturer{} // by fingerprint
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: s.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	all, err := s.makers.get(ctx, struct{}{}, s.allMakers)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		known[m.SHA256] = m
		opts.Roots.AddCert(m.Certificate)
	}
	for _, c := range peer[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := withoutOtherNames(peer[0]).Verify(opts)
	if err != nil {
		return nil, chainRefusal(peer[0], err)
	}
	slices.SortStableFunc(chains, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	var makers []*Manufacturer
	var disabled *Manufacturer
	for _, chain := range chains {
		m := known[ca.FingerprintOf(chain[len(chain)-1])]
		switch {
		case m.State != ManufacturerActive:
			disabled = m
		case !slices.Contains(makers, m):
			makers = append(makers, m)
		}
	}
	if len(makers) == 0 {
		return nil, ca.Errorf(KindUnknownManufacturer, "", "an admin may enable it: fleetca manufacturer update "+disabled.ID+" --state active", "manufacturer %s is disabled", disabled.ID)
	}
	return makers, nil
}

// allMakers reads every manufacturer.
func (s *Service) allMakers(ctx context.Context) ([]*Manufacturer, error) {
	var all []*Manufacturer
	for page := (Page{Limit: 500}); ; {
		some, next, err := s.store.Manufacturers(ctx, page)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if page.Cursor = next; next == "" {
			return all, nil
		}
	}
}

// checkIDevID refuses what no certificate of a device may be, whoever signed it.
func checkIDevID(peer []*x509.Certificate) error {
	const hint = "present the certificate that the device was made with, and its key"
	leaf := peer[0]
	switch {
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return ca.Errorf(KindBadIDevID, "", hint, "%s is an authority's certificate, not a device's", leaf.Subject)
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return ca.Errorf(KindBadIDevID, "", hint, "its key usage has no digitalSignature, which TLS takes (IEEE 802.1AR, 8.10.4)")
	}
	for _, c := range peer {
		if err := checkForeignKey(c.PublicKey); err != nil {
			return ca.Errorf(KindBadIDevID, "", "ask the manufacturer for a newer generation", "the key of %s is too weak: %s", c.Subject, err)
		}
	}
	return nil
}

// withoutOtherNames returns a certificate whose critical subjectAltName is no
// obstacle: IDevIDs carry a hardwareModuleName there (IEEE 802.1AR, 8.10.1), which
// crypto/x509 does not read, and nothing is decided by it here.
func withoutOtherNames(c *x509.Certificate) *x509.Certificate {
	clone := *c
	clone.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), oidSubjectAltName.Equal)
	return &clone
}

// chainRefusal says why a chain does not hold.
func chainRefusal(leaf *x509.Certificate, err error) error {
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return ca.Errorf(KindUnknownManufacturer, "", "an admin registers its authority: fleetca manufacturer add ID --cert FILE; and the device sends the certificates in between",
			"no registered manufacturer made the certificate of %s, issued by %s: %w", leaf.Subject, leaf.Issuer, unknown)
	}
	return ca.Errorf(KindBadIDevID, "", "look at it with openssl verify; an expired one takes a token instead", "the certificate of %s does not hold: %s", leaf.Subject, err)
}

// asked fills in what the manifest says and the request leaves out, and refuses
// a request for anything else.
func (d *IDevID) asked(r *EnrollRequest) error {
	const hint = "leave it out: the manifest says it"
	if r.DeviceID != "" && r.DeviceID != d.Entry.DeviceID {
		return ca.Errorf(KindForbidden, "deviceId", hint, "the manifest has this certificate as device %s", d.Entry.DeviceID)
	}
	if r.WorkOrder != "" && r.WorkOrder != d.Entry.WorkOrder {
		return ca.Errorf(KindForbidden, "workOrder", hint, "the manifest has this device for another work order")
	}
	if d.Entry.WorkOrder == "" && r.Profile != "" && r.Profile != "device" { // a work order chooses it, and no device
		return ca.Errorf(KindForbidden, "profile", "leave it out; or name a work order of that profile in the manifest", "the manifest has this device for no work order, and so for profile device")
	}
	r.DeviceID, r.WorkOrder = d.Entry.DeviceID, d.Entry.WorkOrder
	return nil
}

// supersedes reports whether the device enrolls again, where its manufacturer's
// do so.
func (s *Service) supersedes(ctx context.Context, d *IDevID) (bool, error) {
	if !d.Manufacturer.Reenroll {
		return false, nil
	}
	device, err := s.store.Device(ctx, d.Entry.DeviceID)
	if isKind(err, ca.KindNotFound) {
		return false, nil
	}
	return err == nil && device.Status != DeviceRegistered, err
}
