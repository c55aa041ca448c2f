package enroll_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/embedded"
)

// A broker is an embedded broker of a site, behind a driver that can be told to
// fail.
type broker struct {
	*faulty
	s    *site
	id   string
	dir  string
	addr string
	real *embedded.Broker
}

// broker starts an embedded broker with a certificate and the CRLs, and
// registers it.
func (s *site) broker(id string) *broker {
	s.Helper()
	b := &broker{faulty: new(faulty), s: s, id: id, dir: s.TempDir(), addr: "127.0.0.1:0"}
	b.start()
	b.addr = b.real.Addr().String()
	_, err := s.CreateBroker(s.ctx, as("operator", ""), enroll.NewBroker{ID: id, URL: "mqtts://" + b.addr, Names: []string{"127.0.0.1", "localhost"}, Kind: "embedded"})
	s.must(err)
	csr, err := b.CertificateRequest(s.ctx, []string{"127.0.0.1", "localhost"})
	s.must(err)
	e, err := s.IssueBroker(s.ctx, as("operator", ""), id, string(csr))
	s.must(err)
	s.must(b.Install(s.ctx, chainOf(e.Chain)))
	s.drivers[id] = b.faulty
	s.must(s.PushCRLs(s.ctx))
	return b
}

// start starts the broker, again after a crash.
func (b *broker) start() {
	b.s.Helper()
	real, err := embedded.New(embedded.Config{
		Addr: b.addr, Dir: b.dir, ClientCAs: b.s.deviceIssuers(), Now: b.s.clock.now, Log: slog.New(slog.NewTextHandler(b.s.log, nil)),
	})
	b.s.must(err)
	b.s.must(real.Start())
	b.s.Cleanup(func() { _ = real.Close() })
	b.real = real
	b.set(real)
}

// restart ends the broker with all its sessions, and starts it again.
func (b *broker) restart() {
	b.s.Helper()
	b.s.must(b.real.Close())
	b.start()
}

// serves returns the serial number of the certificate that is served.
func (b *broker) serves() ca.SerialNumber {
	b.s.Helper()
	leaf, err := b.Active(b.s.ctx)
	b.s.must(err)
	return ca.SerialNumberOf(leaf.SerialNumber)
}

func (s *site) deviceIssuers() []*x509.Certificate {
	var all []*x509.Certificate
	for _, i := range s.authority.Issuers() {
		if i.Purpose == ca.PurposeDevice {
			all = append(all, i.Certificate)
		}
	}
	return all
}

// chainOf returns the certificates of a PEM text, in DER.
func chainOf(text string) (chain [][]byte) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain
		}
		chain = append(chain, block.Bytes)
	}
}

// faulty is a driver whose methods do what a test says before, or instead of,
// what they do.
type faulty struct {
	mu     sync.Mutex
	driver brokers.Driver
	faults map[string]func(context.Context) error
}

var _ brokers.Driver = (*faulty)(nil)

func (f *faulty) set(d brokers.Driver) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.driver = d
}

// on makes a method call do first, and fail with its error; nil ends that.
func (f *faulty) on(method string, do func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.faults == nil {
		f.faults = map[string]func(context.Context) error{}
	}
	f.faults[method] = do
}

func (f *faulty) before(ctx context.Context, method string) (brokers.Driver, error) {
	f.mu.Lock()
	do, d := f.faults[method], f.driver
	f.mu.Unlock()
	if do == nil {
		return d, nil
	}
	err := do(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.driver, err
}

func (f *faulty) Kind() string { return "embedded" }

func (f *faulty) CertificateRequest(ctx context.Context, names []string) ([]byte, error) {
	d, err := f.before(ctx, "CertificateRequest")
	if err != nil {
		return nil, err
	}
	return d.CertificateRequest(ctx, names)
}

// errPretend makes a fault claim success without doing anything.
var errPretend = errors.New("pretend")

func (f *faulty) Install(ctx context.Context, chain [][]byte) error {
	d, err := f.before(ctx, "Install")
	if errors.Is(err, errPretend) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.Install(ctx, chain)
}

func (f *faulty) Rollback(ctx context.Context) error {
	d, err := f.before(ctx, "Rollback")
	if err != nil {
		return err
	}
	return d.Rollback(ctx)
}

func (f *faulty) Active(ctx context.Context) (*x509.Certificate, error) {
	d, err := f.before(ctx, "Active")
	if err != nil {
		return nil, err
	}
	return d.Active(ctx)
}

func (f *faulty) LoadCRL(ctx context.Context, b brokers.Bundle) error {
	d, err := f.before(ctx, "LoadCRL")
	if errors.Is(err, errPretend) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.LoadCRL(ctx, b)
}

func (f *faulty) TrustClients(ctx context.Context, all brokers.ClientCAs) error {
	d, err := f.before(ctx, "TrustClients")
	if err != nil {
		return err
	}
	return d.TrustClients(ctx, all)
}

func (f *faulty) Sessions(ctx context.Context) ([]brokers.Session, error) {
	d, err := f.before(ctx, "Sessions")
	if err != nil {
		return nil, err
	}
	return d.Sessions(ctx)
}

func (f *faulty) Disconnect(ctx context.Context, identity string) (int, error) {
	d, err := f.before(ctx, "Disconnect")
	if err != nil {
		return 0, err
	}
	return d.Disconnect(ctx, identity)
}

// hang is a fault: the order is never carried out.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A session is a device that is connected.
type session struct {
	conn   *tls.Conn
	closed chan struct{} // by the broker
}

func (s *session) alive() bool {
	select {
	case <-s.closed:
		return false
	default:
		return true
	}
}

// connect connects a device to a broker: MQTT 3.1.1, without keep-alive.
func (b *broker) connect(id string, e *enroll.Enrollment, key crypto.Signer) (*session, error) {
	roots := x509.NewCertPool()
	roots.AddCert(b.s.root)
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{
		RootCAs: roots, ServerName: "localhost", Time: b.s.clock.now,
		Certificates: []tls.Certificate{{Certificate: chainOf(e.Chain), PrivateKey: key}},
	}}
	raw, err := d.DialContext(b.s.ctx, "tcp", b.addr)
	if err != nil {
		return nil, err
	}
	conn := raw.(*tls.Conn)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	packet := append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, byte(len(id))}, id...)
	answer := make([]byte, 4)
	_, err = conn.Write(packet)
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err == nil && !bytes.Equal(answer, []byte{0x20, 2, 0, 0}) {
		err = fmt.Errorf("CONNACK is %x", answer)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	c := &session{conn: conn, closed: make(chan struct{})}
	go func() {
		defer close(c.closed)
		_, _ = io.Copy(io.Discard, conn)
	}()
	b.s.Cleanup(func() {
		_ = conn.Close()
		<-c.closed
	})
	return c, nil
}

func (b *broker) mustConnect(id string, e *enroll.Enrollment, key crypto.Signer) *session {
	b.s.Helper()
	c, err := b.connect(id, e, key)
	b.s.must(err)
	return c
}

// fleet connects n devices.
func (b *broker) fleet(n int) []*session {
	b.s.Helper()
	all := make([]*session, n)
	for i := range all {
		id := fmt.Sprintf("%s-fleet-%d", b.id, i)
		e, key := b.s.enroll(id)
		all[i] = b.mustConnect(id, e, key)
	}
	return all
}

func alive(all []*session) int {
	n := 0
	for _, c := range all {
		if c.alive() {
			n++
		}
	}
	return n
}

// deadBroker registers a broker that accepts and stays silent.
func (s *site) deadBroker(id string) {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	var mu sync.Mutex
	var open []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
		}
	}()
	s.Cleanup(func() {
		_ = l.Close()
		<-done
		for _, c := range open {
			_ = c.Close()
		}
	})
	_, err = s.CreateBroker(s.ctx, as("operator", ""), enroll.NewBroker{ID: id, URL: "mqtts://" + l.Addr().String()})
	s.must(err)
}

// step returns a step of a rotation or a revocation.
func step(t testing.TB, steps []enroll.Step, name, broker string) enroll.Step {
	t.Helper()
	i := slices.IndexFunc(steps, func(st enroll.Step) bool { return st.Name == name && st.Broker == broker })
	if i < 0 {
		t.Fatalf("there is no step %s of broker %q in %+v", name, broker, steps)
	}
	return steps[i]
}
