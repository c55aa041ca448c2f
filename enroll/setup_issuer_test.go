package enroll_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/leaktest"
)

// A statusListener answers for http://status.test what package api does for a
// status URL, from the first server of a site.
type statusListener struct {
	service *enroll.Service
	mu      sync.Mutex
	dark    map[string]bool // URLs that answer 404
}

// hide makes URLs answer 404; none ends that.
func (l *statusListener) hide(urls ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dark = map[string]bool{}
	for _, u := range urls {
		l.dark[u] = true
	}
}

// RoundTrip implements http.RoundTripper.
func (l *statusListener) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	dark := l.dark[r.URL.String()]
	l.mu.Unlock()
	var body []byte
	var err error
	if !dark {
		body, err = l.answer(r)
	}
	answer := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(bytes.NewReader(body)), Request: r}
	if dark || err != nil {
		answer.StatusCode, answer.Status = http.StatusNotFound, "404 Not Found"
	}
	return answer, nil
}

func (l *statusListener) answer(r *http.Request) ([]byte, error) {
	if name, ok := strings.CutPrefix(r.URL.Path, "/crl/"); ok {
		crl, err := l.service.CRL(r.Context(), strings.TrimSuffix(name, ".crl"))
		if err != nil {
			return nil, err
		}
		return crl.DER, nil
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/issuers/"); ok {
		c, err := l.service.IssuerCertificate(r.Context(), strings.TrimSuffix(name, ".cer"))
		if err != nil {
			return nil, err
		}
		return c.Raw, nil
	}
	request, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	answer, err := l.service.OCSP(r.Context(), request)
	if answer == nil {
		return nil, err
	}
	return answer.DER, nil
}

// rootKey opens the key of the template's root.
func (s *site) rootKey() crypto.Signer {
	s.Helper()
	key, err := (ca.Keyring{Dir: filepath.Join(template.dir, "sealed"), Passphrase: []byte(leaktest.Canary("passphrase"))}).Open(s.ctx, "softkms:path=root.pem", s.root.PublicKey)
	s.must(err)
	return key
}

// keyFile writes a key in plain, and returns its URI.
func (s *site) keyFile(key crypto.Signer) string {
	s.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	path := filepath.Join(s.TempDir(), "key.pem")
	s.must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return "softkms:path=" + path
}

// addIssuer makes an issuer under the root, as fleetca issuer create does.
func (s *site) addIssuer(plan ca.CAPlan) ca.Issuer {
	s.Helper()
	return s.addIssuerUnder(plan, "root", s.root, s.rootKey())
}

func (s *site) addIssuerUnder(plan ca.CAPlan, parent string, root *x509.Certificate, rootKey crypto.Signer) ca.Issuer {
	s.Helper()
	if plan.CommonName == "" {
		plan.CommonName = "Issuing CA " + plan.ID
	}
	key := newKey(s)
	cert, err := ca.SignIssuer(plan, key.Public(), root, rootKey, s.clock.now())
	s.must(err)
	i := plan.Issuer(cert, parent, s.keyFile(key))
	crl, err := ca.FirstCRL(s.ctx, i, key, 1, s.clock.now())
	s.must(err)
	s.must(s.store.AddIssuers(s.ctx, []ca.Issuer{i}, []*ca.CRL{crl}, nil, enroll.Change{Event: enroll.IssuerEvent(time.Now(), "local:test", "issuer.create", i)}))
	return i
}

// addRoot makes a second root, as fleetca root rollover does: cross-signed by the
// first and back.
func (s *site) addRoot(id string) (*x509.Certificate, crypto.Signer) {
	s.Helper()
	plan := ca.CAPlan{ID: id, Purpose: ca.PurposeRoot, CommonName: "Root " + id}
	key := newKey(s)
	cert, err := ca.SignRoot(plan, key, s.clock.now())
	s.must(err)
	i := plan.Issuer(cert, id, "")
	crl, err := ca.FirstCRL(s.ctx, i, key, 1, s.clock.now())
	s.must(err)
	old := s.rootKey()
	byOld, err := ca.CrossSign(cert, s.root, old, s.clock.now())
	s.must(err)
	back, err := ca.CrossSign(s.root, cert, key, s.clock.now())
	s.must(err)
	cross := []ca.CrossCertificate{{Root: id, By: "root", Certificate: byOld}, {Root: "root", By: id, Certificate: back}}
	s.must(s.store.AddIssuers(s.ctx, []ca.Issuer{i}, []*ca.CRL{crl}, cross, enroll.Change{Event: enroll.IssuerEvent(time.Now(), "local:test", "issuer.create", i)}))
	return cert, key
}
