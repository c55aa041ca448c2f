package mosquitto

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

const (
	reloadTimeout    = 15 * time.Second // of a reload, until the log tells of it
	reloadAgain      = 2 * time.Second  // after which SIGHUP is sent once more
	handshakeTimeout = 5 * time.Second
)

// errRefused says that Mosquitto complained of what it read.
var errRefused = errors.New("not taken by Mosquitto")

// reload makes Mosquitto read its files again and looks whether it did: the log
// says so, without an error, and a handshake shows the leaf (nil: any). It does
// nothing when Mosquitto does not run.
func (d *Driver) reload(ctx context.Context, leaf *x509.Certificate) error {
	p, err := d.process(ctx)
	if errors.Is(err, errStopped) {
		return nil
	}
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	if err := d.log.read(); err != nil {
		return d.logError(err)
	}
	d.log.rotate()
	before := d.log.reloads()
	if err := d.hangUp(limited, p, before); err != nil {
		return err
	}
	// Mosquitto has one thread: it answers when it has read everything.
	served, err := d.handshake(limited)
	if readErr := d.log.read(); readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
		return d.logError(readErr)
	}
	if complaints := d.log.complaints(); len(complaints) > 0 {
		return fmt.Errorf("%w: %s", errRefused, strings.Join(complaints, "; "))
	}
	if err != nil {
		if _, gone := d.process(ctx); gone != nil {
			return fmt.Errorf("after a reload: %w", gone)
		}
		return fmt.Errorf("handshake after a reload: %w", err)
	}
	if leaf != nil && !bytes.Equal(served.Raw, leaf.Raw) {
		return fmt.Errorf("%w: after a reload it serves the certificate %x, not %x", errRefused, served.SerialNumber, leaf.SerialNumber)
	}
	return nil
}

// hangUp sends SIGHUP and waits until the log tells of a reload. A log that
// Mosquitto could not open is opened by one, and tells of the next.
func (d *Driver) hangUp(ctx context.Context, p *process, before int) error {
	var sent time.Time
	for d.log.reloads() == before {
		if time.Since(sent) > reloadAgain {
			if err := p.hangUp(ctx); errors.Is(err, os.ErrProcessDone) {
				return fmt.Errorf("%w: start it again with: %s", err, d.StartCommand())
			} else if err != nil {
				return err
			}
			sent = time.Now()
		}
		if err := pause(ctx, poll); err != nil {
			return fmt.Errorf("wait until the log tells of a reload: %w: see %s", err, d.log.path)
		}
		if err := d.log.read(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := d.checkProcess(p.Pid); err != nil && d.log.reloads() == before {
			return fmt.Errorf("wait for a reload: %w: start it again with: %s", err, d.StartCommand())
		}
	}
	return nil
}

func (d *Driver) logError(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the log %s of the running Mosquitto is not there: see log_dest in %s, and restart it", d.log.path, configFile)
	}
	return err
}

// handshake returns the leaf that the listener presents. The handshake ends well
// for us before Mosquitto misses a client certificate, and not without the key
// that belongs to the leaf (RFC 8446 section 4.4).
func (d *Driver) handshake(ctx context.Context) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", d.settings.address())
	if err != nil {
		return nil, err
	}
	defer tcp.Close()
	conn := tls.Client(tcp, &tls.Config{
		InsecureSkipVerify: true, // what it presents is compared, or told
		MinVersion:         tls.VersionTLS13,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake with %s: %w", d.settings.address(), err)
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}
