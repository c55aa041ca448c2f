package ca

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/smallstep/certificates/cas/apiv1"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// crlBackdate is how far thisUpdate lies before the signature: a broker whose
// clock is behind refuses a CRL of the future, and every device with it. What a
// CRL lists is what is revoked when it is signed, so that it says more than its
// thisUpdate promises (I10).
const crlBackdate = 5 * time.Minute

// oidIDP is the issuing distribution point extension (RFC 5280, 5.2.5).
var oidIDP = asn1.ObjectIdentifier{2, 5, 29, 28}

// PublishCRL signs the issuer's next full CRL, checks it against its
// predecessor, stores it and returns it. Scheduled CRLs are those of the
// clock; others follow a revocation (RFC 5280, 3.3). Several may run at once,
// in any number of processes: each takes its own number, and what it lists was
// read after that.
func (a *Authority) PublishCRL(ctx context.Context, issuerID string, scheduled bool) (*CRL, error) {
	a.mu.RLock()
	s, ok := a.issuers[issuerID]
	unusable := a.unusable[issuerID]
	a.mu.RUnlock()
	if unusable != nil {
		return nil, unusable
	}
	if !ok || s.cas == nil {
		return nil, Errorf(KindIssuerInactive, "issuer", "", "issuer %.64q has no key here to sign a CRL with", issuerID)
	}
	// Taken before the entries are read: what was revoked before it is on it (I10).
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	draft, err := a.cfg.Ledger.ReserveCRL(ctx, issuerID)
	if err != nil {
		return nil, fmt.Errorf("reserve a CRL number: %w", err)
	}
	crl, err := s.signCRL(draft, now, a.cfg.CRLPeriod)
	if err != nil {
		return nil, err
	}
	crl.Scheduled = scheduled
	if draft.Previous != nil {
		if err := a.checkSuccessor(ctx, draft.Previous, crl); err != nil {
			return nil, err
		}
	}
	if err := a.cfg.Ledger.SaveCRL(ctx, crl); err != nil {
		return nil, fmt.Errorf("store CRL %d of %s: %w", crl.Number, issuerID, err)
	}
	return crl, nil
}

// signCRL signs a full CRL: number, AKI, and an IDP that lists every
// distribution point which certificates of this issuer carry (design decision 8).
func (s *signer) signCRL(draft CRLDraft, now time.Time, period time.Duration) (*CRL, error) {
	thisUpdate := now.Add(-crlBackdate).UTC().Truncate(time.Second)
	if p := draft.Previous; p != nil && p.ThisUpdate.After(thisUpdate) {
		thisUpdate = p.ThisUpdate // within the clock's tolerance, or not backdated yet
	}
	list := &x509.RevocationList{
		Number: big.NewInt(draft.Number), ThisUpdate: thisUpdate, NextUpdate: thisUpdate.Add(crlBackdate + period),
	}
	for _, e := range draft.Entries {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: e.SerialNumber.Int(), RevocationTime: e.RevokedAt.UTC().Truncate(time.Second), ReasonCode: e.Reason.Code(),
		})
	}
	if urls := s.CDPs(); len(urls) > 0 {
		idp, err := marshalIDP(urls)
		if err != nil {
			return nil, err
		}
		list.ExtraExtensions = []pkix.Extension{{Id: oidIDP, Critical: true, Value: idp}}
	}
	res, err := s.cas.CreateCRL(&apiv1.CreateCRLRequest{RevocationList: list})
	if err != nil {
		return nil, Errorf(KindKey, "", "look at the key store; the last CRL stays in force", "issuer %s cannot sign CRL %d: %w", s.ID, draft.Number, err)
	}
	return &CRL{
		IssuerID: s.ID, Number: draft.Number, ThisUpdate: thisUpdate, NextUpdate: list.NextUpdate,
		Entries: len(draft.Entries), DER: res.CRL,
	}, nil
}

// checkSuccessor refuses a CRL that may not follow prev (I10, I11): the number
// must grow, and an entry may be gone only when its certificate expired (before
// prev, if that was a scheduled one), or its hold was released.
func (a *Authority) checkSuccessor(ctx context.Context, prev, next *CRL) error {
	if next.Number <= prev.Number {
		return Errorf(KindRefusedCRL, "", "restore the CRL numbers; fleetca restore does it", "CRL number %d of %s does not follow %d", next.Number, next.IssuerID, prev.Number)
	}
	before, err := x509.ParseRevocationList(prev.DER)
	if err != nil {
		return fmt.Errorf("parse CRL %d: %w", prev.Number, err)
	}
	after, err := x509.ParseRevocationList(next.DER)
	if err != nil {
		return fmt.Errorf("parse CRL %d: %w", next.Number, err)
	}
	if err := after.CheckSignatureFrom(a.issuerCertificate(next.IssuerID)); err != nil {
		return Errorf(KindRefusedCRL, "", "", "the signature of CRL %d of %s does not verify: %w", next.Number, next.IssuerID, err)
	}
	listed := make(map[string]bool, len(after.RevokedCertificateEntries))
	for _, e := range after.RevokedCertificateEntries {
		listed[string(e.SerialNumber.Bytes())] = true
	}
	expired := next.ThisUpdate
	if prev.Scheduled {
		expired = prev.ThisUpdate
	}
	for _, e := range before.RevokedCertificateEntries {
		if listed[string(e.SerialNumber.Bytes())] {
			continue
		}
		serial := SerialNumberOf(e.SerialNumber)
		cert, err := a.cfg.Ledger.Certificate(ctx, serial)
		if isNotFound(err) {
			return Errorf(KindRefusedCRL, "", "the ledger was changed by hand; restore a backup", "CRL %d of %s would drop %s, which the ledger no longer holds", next.Number, next.IssuerID, serial)
		}
		if err != nil {
			return fmt.Errorf("why is %s no longer on the CRL: %w", serial, err)
		}
		released := e.ReasonCode == ReasonCertificateHold.Code() && cert.Status == StatusGood
		if !released && cert.NotAfter.After(expired) {
			return Errorf(KindRefusedCRL, "", "the ledger was changed by hand; restore a backup", "CRL %d of %s would drop %s, which is neither expired nor released", next.Number, next.IssuerID, serial)
		}
	}
	return nil
}

func (a *Authority) issuerCertificate(id string) *x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.issuers[id].Certificate
}

// CRLDue reports whether an issuer's scheduled CRL is due: none yet, none
// younger than the renewal interval, or one that does not list the issuer's
// current distribution points.
func (a *Authority) CRLDue(ctx context.Context, issuerID string) (bool, error) {
	i, err := a.Issuer(issuerID)
	if err != nil || i.KeyURI == "" {
		return false, err
	}
	crl, err := a.cfg.Ledger.LatestCRL(ctx, issuerID)
	if isNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if a.cfg.Now().Sub(crl.ThisUpdate) >= crlBackdate+a.cfg.CRLRenewal {
		return true, nil
	}
	listed, err := crl.DistributionPoints()
	if err != nil {
		return false, err
	}
	for _, url := range i.CDPs() {
		if !listed[url] {
			return true, nil
		}
	}
	return false, nil
}

// DistributionPoints returns the URLs in the CRL's IDP.
func (c *CRL) DistributionPoints() (map[string]bool, error) {
	list, err := x509.ParseRevocationList(c.DER)
	if err != nil {
		return nil, fmt.Errorf("parse CRL %d of %s: %w", c.Number, c.IssuerID, err)
	}
	urls := map[string]bool{}
	for _, ext := range list.Extensions {
		if !ext.Id.Equal(oidIDP) {
			continue
		}
		var idp, point, names, name cryptobyte.String
		der := cryptobyte.String(ext.Value)
		if !der.ReadASN1(&idp, cbasn1.SEQUENCE) || !idp.ReadASN1(&point, cbasn1.Tag(0).ContextSpecific().Constructed()) ||
			!point.ReadASN1(&names, cbasn1.Tag(0).ContextSpecific().Constructed()) {
			return nil, fmt.Errorf("parse the IDP of CRL %d of %s", c.Number, c.IssuerID)
		}
		for names.ReadASN1(&name, cbasn1.Tag(6).ContextSpecific()) {
			urls[string(name)] = true
		}
	}
	return urls, nil
}

// PEM returns the CRL PEM-encoded.
func (c *CRL) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: c.DER})
}

// marshalIDP returns an IDP whose distribution point's fullName lists the URLs.
func marshalIDP(urls []string) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // distributionPoint
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // fullName
				for _, u := range urls {
					b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(u)) })
				}
			})
		})
	})
	return b.Bytes()
}
