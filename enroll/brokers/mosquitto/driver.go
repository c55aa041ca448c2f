package mosquitto

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// Options are what a driver needs beside its folder.
type Options struct {
	// Certificate returns a client certificate, with key, that Mosquitto
	// admits and whose common name is Settings.Control. It is asked for when
	// sessions are to be closed; without it none can be.
	Certificate func(context.Context) (*tls.Certificate, error)
	// Log receives what the driver does by itself; nil discards it.
	Log *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// A Driver acts on one Mosquitto on this host. Make one with [Open]. Two drivers
// must not work on one folder.
type Driver struct {
	dir         string
	settings    Settings
	options     Options
	generations *brokers.Generations
	lists       brokers.CRLFile
	log         *follower
	closed      *closings
	turn        chan struct{} // what reloads Mosquitto takes turns
	patience    time.Duration // with a reload

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

var _ brokers.Driver = (*Driver)(nil)

// Open opens the folder that [WriteConfig] wrote. Mosquitto need not run. The
// driver follows its log until Close.
func Open(dir string, o Options) (*Driver, error) {
	d, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open Mosquitto's folder: %w", err)
	}
	return d, nil
}

func open(dir string, o Options) (*Driver, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Driver{
		dir: dir, options: o, lists: brokers.CRLFile(filepath.Join(dir, crlFile)),
		log: newFollower(filepath.Join(dir, logFile), filepath.Join(dir, ".sessions.json")), turn: make(chan struct{}, 1),
		patience: reloadTimeout,
	}
	if d.settings, err = readSettings(dir); err != nil {
		return nil, err
	}
	owner, err := d.settings.owner()
	if err != nil {
		return nil, err
	}
	if err := owner.mayDrive(dir); err != nil {
		return nil, err
	}
	if d.generations, err = brokers.OpenGenerations(dir, o.Now); err != nil {
		return nil, err
	}
	d.generations.ShareKeys(owner.gid)
	if d.closed, err = openClosings(filepath.Join(dir, ".closed.json")); err != nil {
		return nil, err
	}
	if err := d.log.read(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if live, whole := d.log.sessions(); !whole && len(live) > 0 {
		o.Log.Warn("the log does not go back to the start of Mosquitto: sessions from before it are not known", "broker", d.settings.ID)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	d.stopped.Go(func() { d.watch(ctx) })
	return d, nil
}

// Close ends what the driver does by itself. Mosquitto runs on.
func (d *Driver) Close() error {
	d.stop()
	d.stopped.Wait()
	return d.log.close()
}

// Kind is "mosquitto".
func (d *Driver) Kind() string { return "mosquitto" }

// Settings returns the settings as they were written.
func (d *Driver) Settings() Settings { return d.settings }

// StartCommand is what a person starts Mosquitto with.
func (d *Driver) StartCommand() string {
	return "mosquitto -c " + filepath.Join(d.dir, configFile)
}

// Installed returns the leaf on disk, which Mosquitto presents after its next
// start, or an error for which errors.Is(err, brokers.ErrNoGeneration) holds.
func (d *Driver) Installed() (*x509.Certificate, error) {
	pair, err := d.generations.Active()
	if err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}

// CertificateRequest implements [brokers.Driver].
func (d *Driver) CertificateRequest(ctx context.Context, names []string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.generations.Request(names)
}

// Install implements [brokers.Driver]. It succeeds when a handshake showed the
// new leaf, or when Mosquitto does not run.
func (d *Driver) Install(ctx context.Context, chain [][]byte) error {
	leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return d.generations.Install(chain, d.serve(ctx))
}

// Rollback implements [brokers.Driver], with the same proof as Install.
func (d *Driver) Rollback(ctx context.Context) error {
	leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return d.generations.Rollback(d.serve(ctx))
}

// serve returns what makes Mosquitto present a pair. Called a second time it is
// on the way back, which is gone also when the context has ended.
func (d *Driver) serve(ctx context.Context) func(*brokers.Pair) error {
	back := false
	return func(pair *brokers.Pair) error {
		if back {
			detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.patience)
			defer cancel()
			return d.reload(detached, pair.Leaf)
		}
		back = true
		return d.reload(ctx, pair.Leaf)
	}
}

// Active implements [brokers.Driver]: the leaf in a handshake with the listener.
func (d *Driver) Active(ctx context.Context) (*x509.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.generations.Active(); err != nil {
		return nil, err
	}
	if _, err := d.process(ctx); err != nil {
		return nil, fmt.Errorf("active certificate: %w", err)
	}
	leaf, err := d.handshake(ctx)
	if err != nil {
		return nil, fmt.Errorf("active certificate: %w", err)
	}
	return leaf, nil
}

// LoadCRL implements [brokers.Driver]. It succeeds when the log says that the
// lists were read and the listener answers, or when Mosquitto does not run. A
// good bundle that Mosquitto could not read makes place for the last one.
func (d *Driver) LoadCRL(ctx context.Context, b brokers.Bundle) error {
	leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := d.loadCRL(ctx, b); err != nil {
		return fmt.Errorf("load revocation lists: %w", err)
	}
	return nil
}

func (d *Driver) loadCRL(ctx context.Context, b brokers.Bundle) error {
	previous, err := d.lists.Load()
	if err != nil { // somebody damaged the file: what is good replaces it
		d.options.Log.WarnContext(ctx, "the last revocation lists cannot be read: any good ones are taken", "broker", d.settings.ID, "error", err)
		previous = nil
	}
	guard := brokers.Guard{Now: d.options.Now}
	lists, err := guard.Check(b, previous)
	if err != nil {
		return err
	}
	if err := d.lists.Store(lists); err != nil {
		return err
	}
	err = d.reload(ctx, nil)
	if !errors.Is(err, errRefused) || previous == nil {
		return err
	}
	if back := d.lists.Store(previous); back != nil {
		return errors.Join(err, back)
	}
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.patience)
	defer cancel()
	if back := d.reload(detached, nil); back != nil {
		return errors.Join(err, fmt.Errorf("with the last lists: %w", back))
	}
	return err
}

// SetClientCAs replaces the CAs of client certificates and reloads Mosquitto.
// Sessions stay. OpenSSL wants each chain up to its root, so that roots belong to
// them, and admits nobody from a CA whose revocation list is not loaded.
func (d *Driver) SetClientCAs(ctx context.Context, anchors []*x509.Certificate) error {
	leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if len(anchors) == 0 {
		return errors.New("replace the clients' CAs: there are none")
	}
	if err := brokers.WriteFile(filepath.Join(d.dir, clientsFile), encodeCertificates(anchors), 0o644); err != nil {
		return fmt.Errorf("replace the clients' CAs: %w", err)
	}
	if err := d.reload(ctx, nil); err != nil {
		return fmt.Errorf("replace the clients' CAs: %w", err)
	}
	return nil
}

// TrustClients implements [brokers.Driver]. Mosquitto is reloaded only for what
// it does not have yet.
func (d *Driver) TrustClients(ctx context.Context, all brokers.ClientCAs) error {
	anchors := slices.Concat(all.Issuers, all.Above)
	if have, err := os.ReadFile(filepath.Join(d.dir, clientsFile)); err == nil && bytes.Equal(have, encodeCertificates(anchors)) {
		return nil
	}
	return d.SetClientCAs(ctx, anchors)
}

// enter waits for its turn.
func (d *Driver) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case d.turn <- struct{}{}:
		return func() { <-d.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
