package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A witness serves a trust bundle and listings, and notes who sent a token.
type witness struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // path and Authorization of each request
}

func newWitness(t *testing.T, bundle func(*witness) string) *witness {
	w := &witness{}
	w.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.seen = append(w.seen, r.URL.Path+" "+r.Header.Get("Authorization"))
		w.mu.Unlock()
		if r.URL.Path == "/api/v1/trust-bundle" {
			_ = json.NewEncoder(rw).Encode(enroll.TrustBundle{Generation: 1, PEM: bundle(w)})
			return
		}
		fmt.Fprint(rw, `{"items":[]}`)
	}))
	w.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	w.StartTLS()
	t.Cleanup(w.Close)
	return w
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func own(w *witness) string { return ca.EncodeChain(w.Certificate()) }

func firstBroker(c *Client, t *testing.T) error {
	for _, err := range c.Brokers(t.Context()) {
		return err
	}
	return nil
}

func TestBootstrapByFingerprint(t *testing.T) {
	w := newWitness(t, own)
	print := fingerprint(w.Certificate())
	var colons []string
	for i := 0; i < len(print); i += 2 {
		colons = append(colons, strings.ToUpper(print[i:i+2]))
	}
	for _, form := range []string{print, strings.Join(colons, ":")} {
		w.seen = nil
		c, err := New(Config{Server: w.URL, Token: "fca_canary", CAFingerprint: form})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := firstBroker(c, t); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{"/api/v1/trust-bundle ", "/api/v1/brokers Bearer fca_canary", "/api/v1/brokers Bearer fca_canary"}
		if fmt.Sprint(w.seen) != fmt.Sprint(want) {
			t.Errorf("requests %q, want %q", w.seen, want)
		}
		c.Close()
	}
}

func TestBootstrapRefuses(t *testing.T) {
	other := newWitness(t, own) // httptest's certificate is the same everywhere: the bundle tells them apart
	pretender := newWitness(t, func(*witness) string { return "" })
	c, err := New(Config{Server: pretender.URL, Token: "fca_canary", CAFingerprint: fingerprint(other.Certificate())})
	if err != nil {
		t.Fatal(err)
	}
	err = firstBroker(c, t)
	var e *ca.Error
	if !errors.As(err, &e) || e.Field != "caFingerprint" || e.Hint == "" {
		t.Errorf("a server without that root: %v", err)
	}
	wrong := strings.Repeat("ab", 32)
	if c, err = New(Config{Server: other.URL, Token: "fca_canary", CAFingerprint: wrong}); err != nil {
		t.Fatal(err)
	}
	if err := firstBroker(c, t); !errors.As(err, &e) || e.Field != "caFingerprint" {
		t.Errorf("a root with another fingerprint: %v", err)
	}
	for _, w := range []*witness{other, pretender} {
		if strings.Contains(fmt.Sprint(w.seen), "canary") {
			t.Errorf("the token was sent to a server that is not trusted: %q", w.seen)
		}
	}
}

func TestServerOfAnotherAuthority(t *testing.T) {
	w := newWitness(t, own)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Server: w.URL, Token: "fca_canary", CA: []*x509.Certificate{other}})
	if err != nil {
		t.Fatal(err)
	}
	var e *ca.Error
	if err := firstBroker(c, t); !errors.As(err, &e) || !strings.Contains(e.Hint, "another authority") || len(w.seen) > 0 {
		t.Errorf("got %v, requests %q", err, w.seen)
	}
}

func TestConfigRefused(t *testing.T) {
	w := newWitness(t, own)
	dir := t.TempDir()
	good, empty := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "empty.pem")
	if err := errors.Join(os.WriteFile(good, []byte(own(w)), 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config Config
		field  string
	}{
		"no trust":        {Config{Server: w.URL}, "ca"},
		"two trusts":      {Config{Server: w.URL, CAFile: good, CAFingerprint: strings.Repeat("0", 64)}, "ca"},
		"no server":       {Config{CAFile: good}, "server"},
		"http":            {Config{Server: "http://127.0.0.1:1", CAFile: good}, "server"},
		"path":            {Config{Server: w.URL + "/api/v1", CAFile: good}, "server"},
		"no file":         {Config{Server: w.URL, CAFile: filepath.Join(dir, "none.pem")}, "ca"},
		"empty file":      {Config{Server: w.URL, CAFile: empty}, "ca"},
		"bad fingerprint": {Config{Server: w.URL, CAFingerprint: "abc"}, "caFingerprint"},
	} {
		var e *ca.Error
		if _, err := New(c.config); !errors.As(err, &e) || e.Field != c.field || e.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := New(Config{Server: w.URL + "/", CAFile: good})
	if err != nil {
		t.Fatal(err)
	}
	if err := firstBroker(c, t); err != nil {
		t.Error(err)
	}
}

func TestSecretDoesNotShow(t *testing.T) {
	config := Config{Token: "fca_canary"}
	text, _ := json.Marshal(config)
	if shown := fmt.Sprintf("%v %+v %#v %s %q %s", config, config, config, config.Token, config.Token, text); strings.Contains(shown, "canary") {
		t.Error(shown)
	}
}

func TestAnswersThatAreNotOurs(t *testing.T) {
	status, body := 200, ""
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://elsewhere.test/")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer s.Close()
	c, err := New(Config{Server: s.URL, CA: []*x509.Certificate{s.Certificate()}, HTTPTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	status, body = 502, "<html>proxy</html>"
	var p *Problem
	if err := firstBroker(c, t); !errors.As(err, &p) || p.Status != 502 || p.Hint() == "" || p.RetryAfter != 7*time.Second || p.Kind() != "" {
		t.Errorf("a proxy's page: %v", err)
	}
	status = 302
	if err := firstBroker(c, t); !errors.As(err, &p) || p.Status != 302 {
		t.Errorf("a redirect: %v", err)
	}
	status = 200
	if err := firstBroker(c, t); err == nil {
		t.Error("HTML is taken for a page of brokers")
	}
	s.Close()
	if err := firstBroker(c, t); !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
		t.Errorf("no server: %v", err)
	}
}
