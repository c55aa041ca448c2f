package embedded

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// trust decides whether a client certificate admits its holder: trust anchors
// and revocation lists, each replaced as a whole while handshakes go on.
type trust struct {
	now     func() time.Time
	file    brokers.CRLFile
	anchors atomic.Pointer[x509.CertPool]
	revoked atomic.Pointer[revocations]

	loading sync.Mutex // one bundle after the other
}

func newTrust(file brokers.CRLFile, now func() time.Time) *trust {
	t := &trust{now: now, file: file}
	t.revoked.Store(new(revocations))
	return t
}

func (t *trust) setAnchors(certificates []*x509.Certificate) {
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	t.anchors.Store(pool)
}

// reload reads the last good bundle.
func (t *trust) reload() error {
	t.loading.Lock()
	defer t.loading.Unlock()
	lists, err := t.file.Load()
	if err != nil {
		return err
	}
	revoked, err := newRevocations(lists)
	if err != nil {
		return err
	}
	t.revoked.Store(revoked)
	return nil
}

// load checks a bundle and makes it the one in force: first on disk, so that a
// restart does not go back to an older one, then in memory.
func (t *trust) load(bundle brokers.Bundle) error {
	t.loading.Lock()
	defer t.loading.Unlock()
	guard := brokers.Guard{Now: t.now}
	lists, err := guard.Check(bundle, t.revoked.Load().lists())
	if err != nil {
		return err
	}
	revoked, err := newRevocations(lists)
	if err != nil {
		return err
	}
	if err := t.file.Store(lists); err != nil {
		return err
	}
	t.revoked.Store(revoked)
	return nil
}

// admit returns nil when the holder of this certificate may enter now. The
// certificates are those that the client sent, leaf first. It does not rely on
// what an earlier handshake found: a session may be resumed after the anchors,
// the lists or the time have changed.
func (t *trust) admit(certificates []*x509.Certificate) error {
	if len(certificates) == 0 {
		return errors.New("no client certificate")
	}
	leaf := certificates[0]
	if leaf.IsCA {
		return errors.New("the client certificate is that of a CA")
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return errors.New("the certificate is not for clients: its extended key usage lacks clientAuth")
	}
	if err := checkIdentity(leaf.Subject.CommonName); err != nil {
		return err
	}
	options := x509.VerifyOptions{
		Roots:         t.anchors.Load(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   t.now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, certificate := range certificates[1:] {
		options.Intermediates.AddCert(certificate)
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return fmt.Errorf("verify client certificate: %w", err)
	}
	revoked := t.revoked.Load()
	for _, chain := range chains {
		if err = revoked.check(chain, t.now()); err == nil {
			return nil
		}
	}
	return err
}

// checkIdentity refuses common names that cannot be one level of a topic.
func checkIdentity(name string) error {
	switch {
	case name == "":
		return errors.New("the client certificate has no common name")
	case len(name) > 256 || strings.ContainsAny(name, "/+#\x00"):
		return errors.New("the common name of the client certificate cannot be a topic level")
	}
	return nil
}

// revocations are the lists in force. They do not change.
type revocations struct {
	byList   []*revocation
	byIssuer sync.Map // RawSubject and public key of an issuer -> []*revocation, found once
}

// A revocation is one list, made ready to be asked.
type revocation struct {
	list    *x509.RevocationList              // without its entries, which take most of its memory
	point   *brokers.IssuingDistributionPoint // nil when the list has none
	serials map[string]bool                   // serial numbers, big-endian bytes
}

func newRevocations(lists []*x509.RevocationList) (*revocations, error) {
	r := new(revocations)
	for _, list := range lists {
		point, err := brokers.FindIssuingDistributionPoint(list)
		if err != nil {
			return nil, err
		}
		serials := make(map[string]bool, len(list.RevokedCertificateEntries))
		for _, entry := range list.RevokedCertificateEntries {
			serials[string(entry.SerialNumber.Bytes())] = true
		}
		r.byList = append(r.byList, &revocation{withoutEntries(list), point, serials})
	}
	return r, nil
}

// withoutEntries returns a list whose entries are in its bytes alone.
func withoutEntries(list *x509.RevocationList) *x509.RevocationList {
	bare := *list
	bare.RevokedCertificateEntries, bare.RevokedCertificates = nil, nil //nolint:staticcheck // the deprecated field holds them once more
	return &bare
}

func (r *revocations) lists() []*x509.RevocationList {
	lists := make([]*x509.RevocationList, len(r.byList))
	for i, revocation := range r.byList {
		lists[i] = revocation.list
	}
	return lists
}

// check fails unless every certificate below the trust anchor has a current
// list of its issuer that speaks for it and does not name it.
func (r *revocations) check(chain []*x509.Certificate, now time.Time) error {
	if len(chain) < 2 {
		return errors.New("the client certificate is itself a trust anchor")
	}
	for i, certificate := range chain[:len(chain)-1] {
		lists, err := r.of(chain[i+1]).speakingFor(certificate, chain[i+1])
		if err != nil {
			return err
		}
		for _, list := range lists {
			if err := list.check(certificate, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// lists of one issuer: one, or one for each shard of its certificates.
type issuerLists []*revocation

// of finds the lists that this issuer signed.
func (r *revocations) of(issuer *x509.Certificate) issuerLists {
	key := string(issuer.RawSubject) + string(issuer.RawSubjectPublicKeyInfo)
	if found, ok := r.byIssuer.Load(key); ok {
		return found.(issuerLists)
	}
	var lists issuerLists
	for _, revocation := range r.byList {
		if bytes.Equal(revocation.list.RawIssuer, issuer.RawSubject) && revocation.list.CheckSignatureFrom(issuer) == nil {
			lists = append(lists, revocation)
		}
	}
	r.byIssuer.Store(key, lists)
	return lists
}

// speakingFor returns the list whose issuing distribution point lists one of
// the certificate's (RFC 5280, 6.3.3 (b)(2)). For a certificate without one, from
// before its issuer had a status URL, that may be any: all of them must be
// current, and none may name it.
func (l issuerLists) speakingFor(certificate, issuer *x509.Certificate) (issuerLists, error) {
	if len(l) == 0 {
		return nil, fmt.Errorf("no revocation list of the issuer %q is loaded", issuer.Subject)
	}
	points := certificate.CRLDistributionPoints
	if len(points) == 0 {
		return l, nil
	}
	for i, r := range l {
		if r.point == nil || slices.ContainsFunc(points, r.point.Covers) {
			return l[i : i+1], nil
		}
	}
	return nil, fmt.Errorf("the revocation list of %q does not speak for the distribution point %q", issuer.Subject, points[0])
}

func (r *revocation) check(certificate *x509.Certificate, now time.Time) error {
	if !now.Before(r.list.NextUpdate) {
		return fmt.Errorf("the revocation list of %q expired at %s", r.list.Issuer, r.list.NextUpdate.UTC().Format(time.RFC3339))
	}
	if r.serials[string(certificate.SerialNumber.Bytes())] {
		return fmt.Errorf("certificate %x is revoked", certificate.SerialNumber)
	}
	return nil
}
