package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// basePath stands before every call's path.
const basePath = "/api/v1"

// maxAnswer bounds an answer that is read whole.
const maxAnswer = 64 << 20

// A Secret is text that does not show when it is printed or logged.
type Secret = enroll.Secret

// A Config says which server to call, and as whom. Of CA, CAFile and
// CAFingerprint exactly one is given.
type Config struct {
	// Server is the base URL of a listener: https://HOST[:PORT]. Renewals go
	// to the machine listener.
	Server string
	// Token is the API token; empty where a call needs none.
	Token Secret
	// CA are the roots that the server's chain must end in.
	CA []*x509.Certificate
	// CAFile is a PEM file with them.
	CAFile string
	// CAFingerprint is the root's SHA-256 in hex; colons are allowed.
	CAFingerprint string
	// Certificate is the client certificate, for the machine listener.
	Certificate *tls.Certificate
	// HTTPTimeout bounds one call; a minute when zero. Batches have no bound
	// but their context.
	HTTPTimeout time.Duration
}

// A Client calls one server. It is safe for concurrent use.
type Client struct {
	cfg  Config
	base string // without a slash at the end

	mu    sync.Mutex
	roots []*x509.Certificate // nil until the fingerprint has been resolved
	http  *http.Client        // nil as long
}

// New returns a client. It connects to nothing yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, ca.Errorf(ca.KindMalformed, "server", "write https://HOST:PORT", "%.200q is not the base URL of a server", cfg.Server)
	}
	if cfg.HTTPTimeout == 0 {
		cfg.HTTPTimeout = time.Minute
	}
	c := &Client{cfg: cfg, base: "https://" + u.Host}
	if c.roots, err = configuredRoots(cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// client returns the HTTP client, once the roots to trust are known.
func (c *Client) client(ctx context.Context) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		return c.http, nil
	}
	if c.roots == nil {
		root, err := c.bootstrap(ctx)
		if err != nil {
			return nil, err
		}
		c.roots = []*x509.Certificate{root}
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	for _, root := range c.roots {
		tlsConfig.RootCAs.AddCert(root)
	}
	if c.cfg.Certificate != nil {
		// Sent whatever authorities the server names: it checks by its ledger.
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cfg.Certificate, nil }
	}
	c.http = newHTTPClient(tlsConfig)
	return c.http, nil
}

// newHTTPClient returns a client that follows no redirect: the API has none,
// and a token must not travel.
func newHTTPClient(tlsConfig *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
			MaxIdleConnsPerHost: 32,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Roots returns the roots that the client trusts, resolving the fingerprint
// first if need be.
func (c *Client) Roots(ctx context.Context) ([]*x509.Certificate, error) {
	if _, err := c.client(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.roots, nil
}

// Close closes idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// An answer is what came back, beside the body.
type answer struct {
	status   int
	replayed bool
}

// call makes one call: in as JSON (nil for no body), out from JSON.
func (c *Client) call(ctx context.Context, method, path string, in, out any, opts []Option) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HTTPTimeout)
	defer cancel()
	var body io.Reader
	header := http.Header{}
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return answer{}, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(text)
		header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPost {
		header.Set("Idempotency-Key", keyOf(opts))
	}
	resp, err := c.do(ctx, method, path, header, body)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, c.unreachable(err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return answer{}, fmt.Errorf("%s %s answered with other JSON than this program knows: %w", method, path, err)
	}
	return answer{status: resp.StatusCode, replayed: resp.Header.Get("Idempotent-Replayed") == "true"}, nil
}

// do sends a request, and turns an answer that is no success into its error.
// The caller closes the body.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	client, err := c.client(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+basePath+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header = header
	req.Header.Set("Accept", "application/json")
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+string(c.cfg.Token))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, problemOf(resp)
	}
	return resp, nil
}

// unreachable says why there was no answer, and what to do about it.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	hint := "check the server's URL, and that the server runs"
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	var urlError *url.Error
	if errors.As(err, &urlError) {
		err = urlError.Err // its text repeats the URL
	}
	switch {
	case errors.As(err, &authority):
		hint = "the server's certificate is of another authority: give this fleet's root as CA file or fingerprint"
	case errors.As(err, &hostname):
		hint = "call the server by a name in its certificate, or start it with --public-host"
	case errors.As(err, &invalid):
		hint = "look at the server's certificate, and at this machine's clock"
	case errors.Is(err, context.DeadlineExceeded):
		hint = "the call may have taken effect: repeat it with the same idempotency key"
	}
	return ca.Errorf(enroll.KindUnavailable, "", hint, "call %s: %w", c.base, err)
}
