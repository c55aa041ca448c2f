package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetca/fleetca/api"
	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
	"github.com/fleetca/fleetca/enroll/leaktest"
	"github.com/fleetca/fleetca/store"
)

// A fleet is a real authority on a real store, behind real listeners.
type fleet struct {
	store    *store.Store
	service  *enroll.Service
	ca       *ca.Authority
	root     *x509.Certificate
	keys     ca.Keyring // the root's among them, in root/key.pem
	tokens   map[enroll.Role]string
	people   *httptest.Server // HTTP/2
	machines *httptest.Server // HTTP/1.1, client certificates requested
	status   *httptest.Server // plain HTTP

	transport *http.Transport // trusts the root

	hall       *embedded.Broker
	revocation string // decided while hall was the only broker
}

var shared *fleet

// conforms watches the exchanges of all tests.
var conforms *conformance

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fleetca-api-")
	if err == nil {
		conforms, err = newConformance()
	}
	if err == nil {
		shared, err = newFleet(context.Background(), dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
		everything := code == 0 && flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" && !testing.Short()
		err = errors.Join(shared.close(), conforms.verdict(everything))
	}
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func newFleet(ctx context.Context, dir string) (*fleet, error) {
	passphrase := []byte(leaktest.Canary("passphrase"))
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "keys"), 0o700), os.MkdirAll(filepath.Join(dir, "root"), 0o700)); err != nil {
		return nil, err
	}
	h, err := ca.Initialize(ctx, ca.InitConfig{Dir: dir, RootKeyPath: filepath.Join(dir, "root", "key.pem"), Passphrase: passphrase, Organization: "Test"})
	if err != nil {
		return nil, err
	}
	f := &fleet{root: h.Root(), keys: ca.Keyring{Dir: dir, Passphrase: passphrase}, tokens: map[enroll.Role]string{}}
	if f.store, err = store.Open(ctx, store.Config{URL: filepath.Join(dir, "fleetca.db")}); err != nil {
		return nil, err
	}
	if err := f.store.Migrate(ctx); err != nil {
		return nil, err
	}
	if err := f.store.CreateIssuers(ctx, h.Issuers, h.CRLs, enroll.Change{Event: enroll.InitEvent(ca.FingerprintOf(h.Root()))}); err != nil {
		return nil, err
	}
	f.ca, err = ca.Open(ctx, ca.Config{Issuers: h.Issuers, Keys: f.keys, Ledger: f.store})
	if err != nil {
		return nil, err
	}
	drivers := map[string]brokers.Driver{}
	f.service = enroll.New(enroll.Config{Authority: f.ca, Store: f.store, Drivers: drivers, MachineURL: "https://machines.test"})
	if err := f.startHall(ctx, dir, drivers); err != nil {
		return nil, err
	}
	for _, role := range enroll.Roles() {
		if f.tokens[role], _, err = f.service.MintAPIToken(ctx, "test", string(role), role, time.Hour); err != nil {
			return nil, err
		}
	}
	return f, f.listen(ctx)
}

// listen starts the listeners, with a server certificate of the fleet's own.
func (f *fleet) listen(ctx context.Context) error {
	key, csr, err := request("")
	if err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(csr))
	issued, err := f.service.IssueServer(ctx, []string{"127.0.0.1", "localhost"}, block.Bytes)
	if err != nil {
		return err
	}
	pair := tls.Certificate{PrivateKey: key}
	for rest := []byte(issued.Chain); ; {
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	log := slog.New(slog.NewJSONHandler(leaktest.Tee(io.Discard), &slog.HandlerOptions{Level: slog.LevelDebug}))
	a := api.New(api.Config{Service: f.service, Registry: prometheus.NewRegistry(), AuthBurst: 1_000_000, Log: log})
	f.people = startTLS(conforms.watch(a.People()), &tls.Config{Certificates: []tls.Certificate{pair}}, true)
	f.machines = startTLS(conforms.watch(a.Machines()), &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}, false)
	f.status = httptest.NewServer(a.Status())
	pool := x509.NewCertPool()
	pool.AddCert(f.root)
	f.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	return nil
}

func startTLS(h http.Handler, config *tls.Config, http2 bool) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.TLS, s.EnableHTTP2 = config, http2
	s.Config.ReadTimeout, s.Config.WriteTimeout = 30*time.Second, 30*time.Second
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	return s
}

func (f *fleet) close() error {
	f.transport.CloseIdleConnections()
	f.people.Close()
	f.machines.Close()
	f.status.Close()
	return errors.Join(f.hall.Close(), f.store.Close())
}

// client returns a client for a server in a role; none for an empty one.
func (f *fleet) client(t *testing.T, server *httptest.Server, role enroll.Role, certificate *tls.Certificate) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{
		Server: server.URL, Token: client.Secret(f.tokens[role]), CA: []*x509.Certificate{f.root}, Certificate: certificate,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// request makes a key and a certification request for a common name.
func request(commonName string) (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

func newRequest(t *testing.T, commonName string) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, csr, err := request(commonName)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// raw makes a request with the fleet's root trusted, and returns the answer
// with its body read.
func (f *fleet) raw(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r, _ = http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := f.transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// unique returns an id that no other test, nor another run of this one, has.
func unique(prefix string) string { return prefix + rand.Text()[:8] }
