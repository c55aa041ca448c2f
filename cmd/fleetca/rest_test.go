package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/fleetca/fleetca/enroll/leaktest"
)

// A restClient speaks REST with net/http alone, as any program would.
type restClient struct {
	base, token string
	http        *http.Client
}

// rest returns a REST client of the people listener; role may be empty.
func (s *testServer) rest(t *testing.T, role string) *restClient {
	t.Helper()
	c := &restClient{base: "https://" + s.people + "/api/v1", http: s.httpClient(t, nil)}
	if role != "" {
		c.token = s.token(t, role)
	}
	return c
}

// httpClient returns an HTTP client that trusts the server's root, with a
// client certificate or nil.
func (s *testServer) httpClient(t *testing.T, pair *tls.Certificate) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	for _, root := range parseChain(t, s.bundle()) {
		config.RootCAs.AddCert(root)
	}
	if pair != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// An answer is an HTTP answer, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// problem is an RFC 9457 problem document.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Errors []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
		Hint    string `json:"hint"`
	} `json:"errors"`
}

// send sends body (a string as it is, anything else as JSON).
func (c *restClient) send(t *testing.T, method, path string, body any, header ...string) answer {
	t.Helper()
	a, err := c.try(method, path, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (c *restClient) try(method, path string, body any, header ...string) (answer, error) {
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			return answer{}, err
		}
	}
	req, err := http.NewRequest(method, c.base+path, bytes.NewReader(text))
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if resp.StatusCode >= http.StatusBadRequest {
		leaktest.Write(string(got))
	}
	return answer{resp.StatusCode, resp.Header, got}, err
}

// into decodes an answer that must have a status.
func (a answer) into(t *testing.T, status int, v any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

// newCSR returns a P-256 key, and a PEM request of it for a common name.
func newCSR(t *testing.T, cn string) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, csrOf(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}})
}

func csrOf(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// besides are tables that keep no state: counts of what was refused, and what is
// counted in the background.
var besides = []string{"login_failures", "order_refusals", "order_refused", "aggregates"}

// rowCounts returns the rows of every table but River's own and besides.
func (s *testServer) rowCounts(t *testing.T) map[string]int {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "fleetca.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT name FROM sqlite_master WHERE type = 'table'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(name, "river_") && !strings.HasPrefix(name, "sqlite_") && !slices.Contains(besides, name) {
			tables = append(tables, name)
		}
	}
	counts := map[string]int{}
	for _, table := range tables {
		var n int
		if err := db.QueryRow(`SELECT count(*) FROM "` + table + `"`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		counts[table] = n
	}
	if counts["events"] == 0 {
		t.Fatalf("no events counted in %v", tables)
	}
	return counts
}
