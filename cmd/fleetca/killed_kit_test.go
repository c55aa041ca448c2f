package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/store/storetest"
)

// A killSite is a server in this process with a Mosquitto, and a PostgreSQL or
// SQLite, of its own. One of them dies at a moment that a test names, and is
// started again: the moment of an audit event ("event ACTION"), just before it
// is recorded, or of a call of the broker's driver ("driver METHOD").
type killSite struct {
	*testing.T
	testServer
	postgres  *storetest.PostgresServer // nil on SQLite
	mosquitto *mosquittoProcess
	broker    string // host:port
	server    *server
	admin     *restClient

	mu      sync.Mutex
	at      string         // the moment; empty when it is over
	kill    func(string)   // what dies then
	struck  chan string    // the moment, when it was reached
	back    sync.WaitGroup // until what died was started again
	devices int
}

func newKillSite(t *testing.T, onPostgres bool) *killSite {
	t.Helper()
	program, err := findMosquitto()
	if err != nil {
		tool(t, "mosquitto", "mosquitto")
	}
	k := &killSite{T: t, broker: freePort(t)}
	if onPostgres {
		k.postgres = storetest.StartPostgres(t)
		k.database = k.postgres.NewDatabase(t)
	}
	k.dir = filepath.Join(t.TempDir(), "data")
	mustRun(t, "init", "--data", k.dir, "--database", k.database)
	folder := filepath.Join(t.TempDir(), "mosq")
	args := []string{"broker", "config", "mosquitto", "--out", folder, "--url", "mqtts://" + k.broker, "--names", "127.0.0.1,localhost", "--listen", k.broker}
	if os.Geteuid() == 0 {
		args = append(args, "--user", "root") // the test's folder is for its owner alone
	}
	mustRun(t, args...)
	k.mosquitto = &mosquittoProcess{program: program, dir: folder}
	k.log = &output{}
	cfg := serveConfig{
		data: k.dir, database: k.database, peopleAddr: "127.0.0.1:0", machineAddr: "127.0.0.1:0", statusAddr: "127.0.0.1:0",
		mosquitto: []string{folder}, certifyBrokers: true, log: slog.New(slog.NewJSONHandler(k.log, nil)), proofTimeout: 3 * time.Second,
		onEvent:    func(e enroll.Event) { k.reached("event " + momentOf(e)) },
		wrapDriver: func(d brokers.Driver) brokers.Driver { return &mortalDriver{d, k} },
	}
	if k.server, err = startServer(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.server.stop(); err != nil {
			t.Error(err)
		}
	})
	k.startMosquitto()
	t.Cleanup(func() { k.mosquitto.stop() })
	k.people = strings.TrimPrefix(k.server.url("people"), "https://")
	k.admin = k.rest(t, "admin")
	k.must(k.admin.send(t, "POST", "/work-orders", map[string]any{"id": "WO", "product": "p", "quantity": 100}), 201, nil)
	return k
}

// momentOf names an event: its action, and for a step of a rotation or a
// revocation also that and its new state.
func momentOf(e enroll.Event) string {
	var detail struct{ Step, State string }
	if json.Unmarshal(e.Detail, &detail) == nil && detail.Step != "" {
		return e.Action + " " + detail.Step + " " + detail.State
	}
	return e.Action
}

// reached kills what is to die at a moment.
func (k *killSite) reached(moment string) {
	k.mu.Lock()
	if moment != k.at {
		k.mu.Unlock()
		return
	}
	k.at = ""
	k.mu.Unlock()
	k.kill(moment)
	k.struck <- moment
}

// arm names the moment of the next death.
func (k *killSite) arm(moment string, kill func(string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.kill, k.struck = moment, kill, make(chan string, 1)
}

// mustStrike waits for the death, and until what died is back.
func (k *killSite) mustStrike(moment string) {
	k.Helper()
	select {
	case <-k.struck:
		k.back.Wait()
	case <-time.After(30 * time.Second):
		k.Fatalf("%q was not reached\n%s", moment, k.log)
	}
}

// downtime is how long what died stays away: more than the database's driver
// or a probe tries by itself.
const downtime = 300 * time.Millisecond

// killPostgres kills the postmaster: at an event in the middle of the
// transaction that records it, else at once.
func (k *killSite) killPostgres(moment string) {
	k.back.Add(1)
	restart := func() {
		defer k.back.Done()
		time.Sleep(downtime)
		k.postgres.Start(k.T)
	}
	if !strings.HasPrefix(moment, "event ") {
		k.postgres.Kill()
		go restart()
	} else if err := k.postgres.KillWithin(k.database, "events", restart); err != nil {
		k.Error(err)
	}
}

// killMosquitto kills Mosquitto: in a driver's call it stands still first, so
// that the call is under way, else at once.
func (k *killSite) killMosquitto(moment string) {
	k.back.Add(1)
	die := func() {
		k.mosquitto.cmd.Process.Kill()
		<-k.mosquitto.exited
	}
	if strings.HasPrefix(moment, "driver ") {
		k.mosquitto.cmd.Process.Signal(syscall.SIGSTOP)
		now := die
		die = func() { time.Sleep(100 * time.Millisecond); now() }
	} else {
		die()
		die = func() {}
	}
	go func() {
		defer k.back.Done()
		die()
		time.Sleep(downtime)
		k.startMosquitto()
	}()
}

// startMosquitto starts Mosquitto as its supervisor does, again when it ends at
// once: one that reads certificate and key while a generation is exchanged may
// find two that do not fit.
func (k *killSite) startMosquitto() {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for tries := 1; ; tries++ {
		_, err := k.mosquitto.start(ctx, "mqtts://"+k.broker)
		if err == nil {
			return
		}
		if tries == 5 {
			k.Error(err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A mortalDriver tells its site of every call.
type mortalDriver struct {
	brokers.Driver
	site *killSite
}

func (d *mortalDriver) CertificateRequest(ctx context.Context, names []string) ([]byte, error) {
	d.site.reached("driver CertificateRequest")
	return d.Driver.CertificateRequest(ctx, names)
}

func (d *mortalDriver) Sessions(ctx context.Context) ([]brokers.Session, error) {
	d.site.reached("driver Sessions")
	return d.Driver.Sessions(ctx)
}

func (d *mortalDriver) Install(ctx context.Context, chain [][]byte) error {
	d.site.reached("driver Install")
	return d.Driver.Install(ctx, chain)
}

func (d *mortalDriver) LoadCRL(ctx context.Context, b brokers.Bundle) error {
	d.site.reached("driver LoadCRL")
	return d.Driver.LoadCRL(ctx, b)
}

func (d *mortalDriver) Disconnect(ctx context.Context, identity string) (int, error) {
	d.site.reached("driver Disconnect")
	return d.Driver.Disconnect(ctx, identity)
}

// must decodes an answer that must have a status.
func (k *killSite) must(a answer, status int, v any) {
	k.Helper()
	if a.status != status {
		k.Fatalf("status %d, want %d: %s\n%s", a.status, status, a.body, k.log)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		k.Fatalf("%v: %s", err, a.body)
	}
}

// insist sends until the server has the means to answer, as a client does that
// is told 503 with Retry-After.
func (k *killSite) insist(method, path string, body any, header ...string) answer {
	k.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		a := k.admin.send(k.T, method, path, body, header...)
		if a.status != 503 {
			return a
		}
		if time.Now().After(deadline) {
			k.Fatalf("%s %s: %d %s\n%s", method, path, a.status, a.body, k.log)
		}
	}
}

// A killDevice is an enrolled device with a session.
type killDevice struct {
	id      string
	pair    tls.Certificate
	session paho.Client
	dropped atomic.Int64
}

// device enrolls a device, and connects it.
func (k *killSite) device(reconnects bool) *killDevice {
	k.Helper()
	k.devices++
	d := &killDevice{id: fmt.Sprintf("dev-%d", k.devices)}
	key, csr := newCSR(k.T, d.id)
	var e struct{ Chain string }
	k.must(k.insist("POST", "/enrollments", map[string]any{"deviceId": d.id, "csr": csr, "workOrder": "WO"}, "Idempotency-Key", d.id), 201, &e)
	for block, rest := pem.Decode([]byte(e.Chain)); block != nil; block, rest = pem.Decode(rest) {
		d.pair.Certificate = append(d.pair.Certificate, block.Bytes)
	}
	d.pair.PrivateKey = key
	d.session = paho.NewClient(paho.NewClientOptions().AddBroker("tls://" + k.broker).SetClientID(d.id).SetConnectTimeout(5 * time.Second).
		SetTLSConfig(k.tls(d)).SetAutoReconnect(reconnects).SetMaxReconnectInterval(200 * time.Millisecond).
		SetConnectionLostHandler(func(paho.Client, error) { d.dropped.Add(1) }))
	if err := wait(d.session.Connect(), "connect"); err != nil {
		k.Fatalf("%s: %v\n%s", d.id, err, k.log)
	}
	k.Cleanup(func() { d.session.Disconnect(0) })
	return d
}

func (k *killSite) tls(d *killDevice) *tls.Config {
	roots := x509.NewCertPool()
	for _, root := range parseChain(k.T, k.bundle()) {
		roots.AddCert(root)
	}
	config := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	if d != nil {
		config.Certificates = []tls.Certificate{d.pair}
	}
	return config
}

// served returns the serial number of the certificate that new handshakes get.
func (k *killSite) served() string {
	k.Helper()
	config := k.tls(nil)
	var serial string
	config.VerifyConnection = func(state tls.ConnectionState) error {
		serial = fmt.Sprintf("%x", state.PeerCertificates[0].SerialNumber.Bytes())
		return nil
	}
	conn, err := net.DialTimeout("tcp", k.broker, 5*time.Second)
	if err != nil {
		k.Fatal(err)
	}
	defer conn.Close()
	_ = tls.Client(conn, config).Handshake() // ends with a demand for a certificate; ours was to look
	return serial
}
