package brokers

import (
	"context"
	"crypto/x509"
	"errors"
	"time"
)

// A Driver acts on one broker, for the rotation of its certificate and for the
// revocation of the devices that connect to it.
//
// Every method is safe for concurrent use and can be repeated: a call made
// again after a crash, with the same arguments, ends in the same state.
type Driver interface {
	// Kind names the kind of broker: "embedded", "mosquitto".
	Kind() string

	// CertificateRequest makes a fresh P-256 key beside the broker, staged and
	// not active, and returns a DER-encoded PKCS #10 request for it (RFC 2986).
	// The names are DNS names and IP addresses; the first DNS name, or else the
	// first name, is also the common name. The key never leaves the broker's
	// host.
	CertificateRequest(ctx context.Context, names []string) (csr []byte, err error)

	// Install makes the chain (DER, leaf first) and the staged key that matches
	// its leaf the broker's certificate, and reloads the broker. Live sessions
	// stay. On an error the previous pair stays active. With the chain that is
	// already active it does nothing and succeeds, so that an interrupted
	// rotation can be resumed.
	Install(ctx context.Context, chain [][]byte) error

	// Rollback makes the generation that was active before the present one
	// active again, and reloads the broker. A rollback that was already done
	// succeeds. It returns an error for which errors.Is(err, ErrNoGeneration)
	// holds when there is nothing to go back to.
	Rollback(ctx context.Context) error

	// Active returns the leaf that the broker presents in new handshakes, or
	// an error for which errors.Is(err, ErrNoGeneration) holds.
	Active(ctx context.Context) (leaf *x509.Certificate, err error)

	// LoadCRL checks the bundle with a [Guard] and makes the broker use it from
	// the next handshake on. A refused bundle leaves the last good one loaded
	// and returns a *GuardError.
	LoadCRL(ctx context.Context, b Bundle) error

	// TrustClients replaces the CAs of client certificates, from the next
	// handshake on; live sessions stay. A CA whose revocation list is not loaded
	// admits nobody.
	TrustClients(ctx context.Context, all ClientCAs) error

	// Sessions returns the live sessions, from the broker's own list, oldest
	// first.
	Sessions(ctx context.Context) ([]Session, error)

	// Disconnect ends every live session of the identity, which is the common
	// name of a client certificate, and returns how many it ended. It returns
	// when the broker no longer lists them.
	Disconnect(ctx context.Context, identity string) (closed int, err error)
}

// ClientCAs are the CAs of client certificates.
type ClientCAs struct {
	Issuers []*x509.Certificate // that sign them
	Above   []*x509.Certificate // up to the roots, for brokers that want whole chains
}

// A Session is one live connection of a client to a broker.
type Session struct {
	ID           string    `json:"id"`           // unique for each connection, never used again
	ClientID     string    `json:"clientId"`     // MQTT client identifier
	Identity     string    `json:"identity"`     // common name of the client certificate
	SerialNumber string    `json:"serialNumber"` // of the client certificate, lower-case hexadecimal
	RemoteAddr   string    `json:"remoteAddr"`   // IP address and port
	ConnectedAt  time.Time `json:"connectedAt"`
}

// ErrNoGeneration says that there is no certificate installed, or none to go
// back to.
var ErrNoGeneration = errors.New("no certificate generation")
