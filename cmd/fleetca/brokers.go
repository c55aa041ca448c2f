package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
	"github.com/fleetca/fleetca/enroll/brokers/mosquitto"
)

// embeddedID is the broker id of the embedded broker.
const embeddedID = "embedded"

// A managedBroker is a broker that this server acts on.
type managedBroker struct {
	id        string
	driver    brokers.Driver
	installed func(context.Context) (*x509.Certificate, error) // the certificate that is on its disk
	// start makes the broker ready and returns what it is registered as. The
	// service is there by then.
	start func(context.Context) (enroll.NewBroker, error)
	close func() error
}

// openBrokers opens the brokers that the configuration names.
func (s *server) openBrokers() error {
	if s.cfg.mqttsAddr != "" {
		if err := s.openEmbedded(); err != nil {
			return err
		}
	}
	for _, dir := range s.cfg.mosquitto {
		if err := s.openMosquitto(dir); err != nil {
			return usageError(fmt.Errorf("--mosquitto %s: %w", dir, err), "write the folder with: fleetca broker config mosquitto --out DIR --url mqtts://HOST:8883")
		}
	}
	for _, b := range s.brokers {
		if s.cfg.wrapDriver != nil {
			b.driver = s.cfg.wrapDriver(b.driver)
		}
	}
	return nil
}

// drivers returns the drivers by broker id.
func (s *server) drivers() map[string]brokers.Driver {
	all := map[string]brokers.Driver{}
	for _, b := range s.brokers {
		all[b.id] = b.driver
	}
	return all
}

// issuersFor returns the certificates of the issuers for a purpose.
func (s *server) issuersFor(p ca.Purpose) []*x509.Certificate {
	var all []*x509.Certificate
	for _, i := range s.authority.Issuers() {
		if i.Purpose == p {
			all = append(all, i.Certificate)
		}
	}
	return all
}

// mqttsAddress returns the embedded broker's address, with any free port where
// that will do and the port is taken, or is about to be: by the same server
// that has taken another of ours.
func (s *server) mqttsAddress() string {
	const flag, anywhere = "mqtts-addr", "127.0.0.1:0"
	if !s.cfg.anyPort[flag] {
		return s.cfg.mqttsAddr
	}
	if s.listeners["status"].Addr().String() != s.cfg.statusAddr || s.listeners["people"].Addr().String() != s.cfg.peopleAddr {
		return anywhere
	}
	l, err := net.Listen("tcp", s.cfg.mqttsAddr)
	if err != nil {
		return anywhere
	}
	l.Close()
	return s.cfg.mqttsAddr
}

func (s *server) openEmbedded() error {
	b, err := embedded.New(embedded.Config{
		Addr: s.mqttsAddress(), Dir: s.cfg.data, CRLFile: s.dir.crl(), ClientCAs: s.issuersFor(ca.PurposeDevice), Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	s.brokers = append(s.brokers, &managedBroker{
		id: embeddedID, driver: b, installed: b.Active, close: b.Close,
		start: func(context.Context) (enroll.NewBroker, error) {
			if err := b.Start(); err != nil {
				return enroll.NewBroker{}, listenError("mqtts-addr", s.cfg.mqttsAddr, err)
			}
			_, port, err := net.SplitHostPort(b.Addr().String())
			url := "mqtts://" + net.JoinHostPort(s.publicHost(s.listeners["status"]), port)
			return enroll.NewBroker{ID: embeddedID, Kind: b.Kind(), Names: s.publicNames(), URL: url}, err
		},
	})
	return nil
}

func (s *server) openMosquitto(dir string) error {
	d, err := mosquitto.Open(dir, mosquitto.Options{
		Log:         s.cfg.log,
		Certificate: func(ctx context.Context) (*tls.Certificate, error) { return s.service.CanaryCertificate(ctx) },
	})
	if err != nil {
		return err
	}
	settings := d.Settings()
	if slices.ContainsFunc(s.brokers, func(b *managedBroker) bool { return b.id == settings.ID }) {
		return errors.Join(fmt.Errorf("there is another broker %q", settings.ID), d.Close())
	}
	s.brokers = append(s.brokers, &managedBroker{
		id: settings.ID, driver: d, close: d.Close,
		installed: func(context.Context) (*x509.Certificate, error) { return d.Installed() },
		start: func(ctx context.Context) (enroll.NewBroker, error) {
			all := s.service.ClientCAs()
			if err := d.SetClientCAs(ctx, slices.Concat(all.Issuers, all.Above)); err != nil {
				s.cfg.log.Error("hand a broker the CAs of devices", "broker", settings.ID, "err", err)
			}
			return enroll.NewBroker{ID: settings.ID, Kind: d.Kind(), Names: settings.Names, URL: settings.URL}, nil
		},
	})
	return nil
}

// startBrokers starts and registers every broker, under the URL it has now,
// hands them the newest CRLs, and sees that each has a certificate. A broker
// that is broken is logged, and does not keep the server from starting: CRLs
// are handed out again by the minute.
func (s *server) startBrokers(ctx context.Context) error {
	for _, b := range s.brokers {
		registration, err := b.start(ctx)
		if err != nil {
			return err
		}
		known, err := s.service.Broker(ctx, b.id)
		switch {
		case errors.Is(err, ca.IsKind(ca.KindNotFound)):
			_, err = s.service.CreateBroker(ctx, serverCall(), registration)
		case err == nil:
			registration.Product, registration.Site = known.Product, known.Site
			err = s.service.MoveBroker(ctx, "server", registration)
		}
		if err != nil {
			return err
		}
	}
	if err := s.service.PushCRLs(ctx); err != nil {
		s.cfg.log.Error("hand brokers the CRLs", "err", err)
	}
	if !s.cfg.certifyBrokers {
		return nil
	}
	for _, b := range s.brokers {
		if err := s.certify(ctx, b); err != nil {
			s.cfg.log.Error("give a broker a certificate", "broker", b.id, "err", err)
		}
	}
	return nil
}

// serverCall is a call that the server makes itself.
func serverCall() enroll.Call { return enroll.Call{Principal: enroll.Principal{Name: "server"}} }

// certify gives a broker a certificate for its names, unless it has one that
// will do.
func (s *server) certify(ctx context.Context, b *managedBroker) error {
	registered, err := s.service.Broker(ctx, b.id)
	if err != nil {
		return err
	}
	if leaf, err := b.installed(ctx); err == nil && s.serves(leaf, registered.Names) {
		return nil
	}
	csr, err := b.driver.CertificateRequest(ctx, registered.Names)
	if err != nil {
		return err
	}
	issued, err := s.service.IssueBroker(ctx, serverCall(), b.id, string(csr))
	if err != nil {
		return err
	}
	return b.driver.Install(ctx, derChain(issued.Chain))
}

// serves reports whether a broker's certificate will do: one of this
// authority, with all names, and more than a third of its life ahead.
func (s *server) serves(leaf *x509.Certificate, names []string) bool {
	if time.Until(leaf.NotAfter) < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return false
	}
	if slices.ContainsFunc(names, func(n string) bool { return leaf.VerifyHostname(n) != nil }) {
		return false
	}
	return slices.ContainsFunc(s.issuersFor(ca.PurposeBroker), func(i *x509.Certificate) bool { return leaf.CheckSignatureFrom(i) == nil })
}
