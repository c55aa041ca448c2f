package embedded

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
)

// baseConfig is the configuration that handshakes begin with. Its session
// ticket keys are those of the broker, for all its life (crypto/tls makes and
// rotates them), so that a session is resumed also after the certificate was
// replaced. All else is taken anew for each handshake.
func (b *Broker) baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		Time:               b.config.Now,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return b.handshakeConfig() },
	}
}

// handshakeConfig is the configuration of one handshake, with the certificate
// and the trust anchors of this moment.
//
// VerifyConnection, not VerifyPeerCertificate: only the former is also called
// when a session is resumed. Whatever it returns, crypto/tls sends alert 42,
// bad_certificate; it has no way to send 44, certificate_revoked, and keeps 45,
// certificate_expired, and 48, unknown_ca, for what it finds itself.
func (b *Broker) handshakeConfig() (*tls.Config, error) {
	pair := b.pair.Load()
	if pair == nil {
		return nil, errors.New("the broker has no certificate yet")
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Time:         b.config.Now,
		Certificates: []tls.Certificate{pair.Certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    b.trust.anchors.Load(),
		VerifyConnection: func(state tls.ConnectionState) error {
			return b.trust.admit(state.PeerCertificates)
		},
	}, nil
}

// counters count handshakes since the broker was made.
type counters struct {
	accepted, resumed, refused, shed atomic.Uint64
}

// Counts are totals since the broker was made.
type Counts struct {
	Accepted uint64 // handshakes that succeeded
	Resumed  uint64 // of these, those that resumed an earlier session
	Refused  uint64 // handshakes that failed, for whatever reason
	Shed     uint64 // connections closed unread because too many were waiting
}

// Counts returns how many handshakes were accepted and refused so far.
func (b *Broker) Counts() Counts {
	return Counts{
		Accepted: b.counters.accepted.Load(),
		Resumed:  b.counters.resumed.Load(),
		Refused:  b.counters.refused.Load(),
		Shed:     b.counters.shed.Load(),
	}
}

// logRefusal writes one line on a failed handshake. The certificate is what the
// client claimed: a failure may come before it proved that it has the key.
func (b *Broker) logRefusal(remote net.Addr, state tls.ConnectionState, err error) {
	b.counters.refused.Add(1)
	attributes := []slog.Attr{slog.String("remote", remote.String())}
	certificates := state.PeerCertificates
	if unverified, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		certificates = unverified.UnverifiedCertificates
	}
	if len(certificates) > 0 {
		attributes = append(attributes,
			slog.String("serialNumber", serialNumber(certificates[0])),
			slog.String("identity", certificates[0].Subject.CommonName))
	}
	attributes = append(attributes, slog.Bool("resumed", state.DidResume), slog.String("cause", err.Error()))
	level := slog.LevelInfo
	if errors.Is(err, io.EOF) { // the client left, as a probe of the port does: nobody was refused
		level = slog.LevelDebug
	}
	b.log.LogAttrs(context.Background(), level, "mqtts handshake refused", attributes...)
}

// serialNumber is lower-case hexadecimal, two digits a byte.
func serialNumber(certificate *x509.Certificate) string {
	return hex.EncodeToString(certificate.SerialNumber.Bytes())
}
