package mqtts

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"
)

// longValidity is the longest life of a broker's certificate that raises no
// warning.
const longValidity = 825 * 24 * time.Hour

// checkWeakness notes what is accepted but should be mended.
func (j *judgement) checkWeakness() {
	for _, c := range j.chain {
		if key := weakKey(c); key != "" {
			j.find(CodeServerWeakKey, facts{"subject": subjectOf(c), "key": key})
			break
		}
	}
	life := j.leaf.NotAfter.Sub(j.leaf.NotBefore)
	if life > longValidity {
		j.find(CodeServerLongValidity, facts{"days": fmt.Sprint(int(life.Hours() / 24))})
	}
	if j.leaf.NotAfter.Sub(j.now) < life/10 {
		j.find(CodeServerExpiresSoon, facts{"time": stamp(j.leaf.NotAfter)})
	}
	if j.leaf.IsCA && len(j.chain) > 1 {
		j.find(CodeServerCertificateIsCA, nil)
	}
	j.checkSent()
}

// checkSent notes an intermediate that came from the bundle and not from the
// broker (RFC 8446 section 4.4.2).
func (j *judgement) checkSent() {
	for i, c := range j.chain {
		root := i == len(j.chain)-1 && bytes.Equal(c.RawSubject, c.RawIssuer)
		if i > 0 && !root && !containsCertificate(j.sent, c) {
			j.find(CodeServerIntermediateNotSent, facts{"issuer": subjectOf(c)})
			return
		}
	}
}

// weakKey names a key that is too small, "" for others.
func weakKey(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 {
			return fmt.Sprintf("RSA of %d bits", bits)
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return "ECDSA " + k.Curve.Params().Name
		}
	}
	return ""
}
