package mqtts

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// Defaults of a Target's zero values.
const (
	DefaultPort        = 8883 // secure-mqtt, IANA
	DefaultPortWSS     = 443  // https
	DefaultTimeout     = 8 * time.Second
	DefaultStepTimeout = 3 * time.Second
	// TopicPrefix is where a run publishes when Target.Topic is empty: one
	// level, the client identifier, is put below it. Access lists of brokers
	// grant verifiers "fleetca/verify/%c" or "fleetca/verify/#".
	TopicPrefix = "fleetca/verify/"
)

// Values of Target.Version.
const (
	Version311  = "3.1.1" // OASIS MQTT 3.1.1
	Version5    = "5"     // OASIS MQTT 5.0
	VersionAuto = "auto"  // 5, then 3.1.1 where the broker has no 5
)

// A Target is a broker to verify and the way to do it.
type Target struct {
	// URL is mqtts://host[:port] or host[:port], port 8883 by default, or
	// wss://host[:port]/path for MQTT over WebSocket, port 443 by default.
	URL string
	// Address, when set, is the host:port that is dialled in place of the
	// URL's. The URL's host stays the server name.
	Address string
	// ServerName is the DNS name or IP address that the broker's certificate
	// must carry. The URL's host by default.
	ServerName string
	// Roots is the trust bundle: the authorities that the broker's chain must
	// end in. An empty bundle is refused; the system's is never used.
	Roots []*x509.Certificate
	// Certificate is the client's certificate, chain and key. Nil sends none.
	Certificate *tls.Certificate
	// CRLs are held against the broker's chain (which fails when it is
	// revoked) and our own certificate (to explain a refusal). Of their entries
	// those in Raw count; ParseCRL leaves them there.
	CRLs []*x509.RevocationList
	// FetchCRLs, when set, is called once, bounded as a step is, for more of
	// them. When it fails the run goes on, and cannot pass: at best it is
	// inconclusive.
	FetchCRLs func(context.Context) ([]*x509.RevocationList, error)

	// ClientID is a random one by default: a known one would take over the
	// session of the device that owns it (MQTT-3.1.4-2).
	ClientID string
	// Username and Password go into CONNECT when not empty.
	Username, Password string
	// Topic is a private one below TopicPrefix by default. No wildcards.
	Topic string
	// Version is VersionAuto by default.
	Version string

	// MinTLS and MaxTLS are tls.VersionTLS12 and tls.VersionTLS13 by default;
	// nothing older is offered.
	MinTLS, MaxTLS uint16
	// ALPN are the application protocols that are offered (RFC 7301); none by
	// default. MQTT's is "mqtt".
	ALPN []string

	// Negative makes the run negative, too: what must not work is tried, with
	// Material, once the eight steps have shown that what must work does.
	Negative bool
	Material Material

	// SkipPublish ends the run after CONNACK.
	SkipPublish bool
	// Timeout bounds the run, StepTimeout each of its steps.
	Timeout, StepTimeout time.Duration

	// Control is net.Dialer.Control: it sees every address after name
	// resolution and before the connection is made, and may refuse it.
	Control func(network, address string, c syscall.RawConn) error
	// SessionCache enables resumption. Nil: every handshake is a full one.
	SessionCache tls.ClientSessionCache
	// Now is the clock that certificates and CRLs are held against.
	Now func() time.Time
}

// Validate reports what in t cannot be used, for a person. It touches no
// network. Verify refuses a Target that Validate refuses.
func (t Target) Validate() error {
	if _, err := ParseURL(t.URL); err != nil {
		return err
	}
	if t.Address != "" {
		if _, _, err := splitHostPort(t.Address); err != nil {
			return fmt.Errorf("address %q: %w", t.Address, err)
		}
	}
	if len(t.Roots) == 0 {
		return errNoRoots
	}
	if t.Certificate != nil {
		if _, err := leafOf(t.Certificate); err != nil {
			return fmt.Errorf("client certificate: %w", err)
		}
	}
	if err := t.Material.validate(t.now()); err != nil {
		return err
	}
	switch t.Version {
	case "", VersionAuto, Version311, Version5:
	default:
		return fmt.Errorf("MQTT version %q: use 3.1.1, 5 or auto", t.Version)
	}
	if err := t.validateTLS(); err != nil {
		return err
	}
	if err := t.validateALPN(); err != nil {
		return err
	}
	return t.validateStrings()
}

var errNoRoots = errors.New("the trust bundle is empty: give the certificates of the authorities that issue the broker's certificate")

func (t Target) validateTLS() error {
	for _, v := range []uint16{t.MinTLS, t.MaxTLS} {
		if v != 0 && v != tls.VersionTLS12 && v != tls.VersionTLS13 {
			return fmt.Errorf("TLS version 0x%04x: use TLS 1.2 or 1.3", v)
		}
	}
	if t.MinTLS != 0 && t.MaxTLS != 0 && t.MinTLS > t.MaxTLS {
		return errors.New("the lowest TLS version is above the highest")
	}
	return nil
}

// validateALPN is RFC 7301 section 3.1.
func (t Target) validateALPN() error {
	for _, p := range t.ALPN {
		if p == "" || len(p) > 255 {
			return fmt.Errorf("application protocol %q: must be of 1 to 255 bytes", p)
		}
	}
	return nil
}

// validateStrings checks what goes into MQTT as UTF-8 strings of at most 65,535
// bytes (MQTT 5.0 section 1.5.4).
func (t Target) validateStrings() error {
	fields := []struct{ name, value string }{
		{"client id", t.ClientID}, {"user name", t.Username}, {"topic", t.Topic},
	}
	for _, f := range fields {
		if len(f.value) > 65535 || !utf8.ValidString(f.value) || strings.ContainsRune(f.value, 0) {
			return fmt.Errorf("%s: must be UTF-8 without NUL and of at most 65535 bytes", f.name)
		}
	}
	if len(t.Password) > 65535 {
		return errors.New("password: must be of at most 65535 bytes")
	}
	if strings.ContainsAny(t.Topic, "+#") {
		return fmt.Errorf("topic %q: a topic that is published to has no wildcards (+, #)", t.Topic)
	}
	if t.Password != "" && t.Username == "" && t.Version == Version311 {
		return errors.New("password: MQTT 3.1.1 allows none without a user name")
	}
	return nil
}

// withDefaults returns t with every zero value filled in. t must be valid.
func (t Target) withDefaults() Target {
	endpoint, _ := ParseURL(t.URL)
	setDefault(&t.ServerName, endpoint.Host)
	t.ServerName = strings.TrimSuffix(t.ServerName, ".")
	setDefault(&t.ClientID, "fleetca-"+randomHex(6)) // 20 bytes; 3.1.1 promises 23 (MQTT-3.1.3-5)
	level := t.ClientID                              // as random as the topic must be, and access lists can grant it
	if strings.ContainsAny(level, "+#/") {
		level = randomHex(8)
	}
	setDefault(&t.Topic, TopicPrefix+level)
	setDefault(&t.Version, VersionAuto)
	setDefault(&t.MinTLS, tls.VersionTLS12)
	setDefault(&t.MaxTLS, tls.VersionTLS13)
	if t.Timeout <= 0 {
		t.Timeout = DefaultTimeout
	}
	if t.StepTimeout <= 0 {
		t.StepTimeout = DefaultStepTimeout
	}
	if t.Now == nil {
		t.Now = time.Now
	}
	return t
}

// now returns the time that certificates are held against.
func (t Target) now() time.Time {
	if t.Now == nil {
		return time.Now()
	}
	return t.Now()
}

// limit returns how long a step may take, for a person.
func (t Target) limit() string { return min(t.StepTimeout, t.Timeout).String() }

// address returns the host:port to dial, "" for a URL that is none.
func (t Target) address() string {
	endpoint, err := ParseURL(t.URL)
	switch {
	case t.Address != "":
		return t.Address
	case err != nil:
		return ""
	}
	return endpoint.Address()
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// randomHex returns n random bytes in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
