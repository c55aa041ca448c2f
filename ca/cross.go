package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"time"
)

// A CrossCertificate is a root's name and key, signed by another root.
type CrossCertificate struct {
	Root, By    string // issuer IDs
	Certificate *x509.Certificate
}

// Of reports whether the certificate is the root's name and key, signed by the
// other.
func (x CrossCertificate) Of(root, by *x509.Certificate) bool {
	return bytes.Equal(x.Certificate.RawSubject, root.RawSubject) && bytes.Equal(x.Certificate.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) &&
		x.Certificate.IsCA && !x.Certificate.Equal(root) && x.Certificate.CheckSignatureFrom(by) == nil
}

// CrossSign signs the name and the key of a root with another root's key, so that
// who trusts the other alone can verify what the root signed: new by old while
// the old one is in the field, old by new after that. It is valid until the
// first of the two ends.
func CrossSign(root, by *x509.Certificate, byKey crypto.Signer, now time.Time) (*x509.Certificate, error) {
	if !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return nil, Errorf(KindKey, "certificate", "give the certificate of a root", "%s is not a self-signed CA certificate", root.Subject)
	}
	if err := checkParent(by, now); err != nil {
		return nil, err
	}
	if by.MaxPathLen >= 0 && by.MaxPathLen < 2 {
		return nil, Errorf(KindKey, "certificate", "leave the key of the other root out: it is signed then, and does not sign", "%s allows one CA below it (path length %d), and a root that it cross-signs needs issuers of its own", by.Subject, by.MaxPathLen)
	}
	t := &x509.Certificate{
		SerialNumber: NewSerialNumber().Int(), RawSubject: root.RawSubject, SubjectKeyId: root.SubjectKeyId,
		NotBefore: now.Add(-caBackdate).Truncate(time.Second), NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
	}
	if t.NotAfter.After(by.NotAfter) {
		t.NotAfter = by.NotAfter
	}
	return signCA(t, by, root.PublicKey, byKey)
}
