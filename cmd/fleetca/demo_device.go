package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Times of a simulated device.
const (
	devicePace = 20 * time.Millisecond // between messages
	deviceWait = 5 * time.Second       // for a connection, an acknowledgement, the last echo
)

// A demoDevice is a simulated device: it makes its own key, keeps its files in
// a folder as a real one would, and speaks MQTT through a library that knows
// nothing of fleetca.
type demoDevice struct {
	id   string
	dir  string
	pair tls.Certificate
	mqtt paho.Client
	gone chan struct{} // closed when the connection is lost

	stop chan struct{} // ends the traffic
	done chan error    // the traffic's end

	mu   sync.Mutex
	seen map[int]bool // messages that came back
	sent int          // messages that were acknowledged
}

func (d *demoDevice) file(name string) string { return filepath.Join(d.dir, name) }

// keep writes what the device was given to its folder, and loads it.
func (d *demoDevice) keep(e *enroll.Enrollment) (err error) {
	if err := writeEnrollment(d.dir, e); err != nil {
		return err
	}
	d.pair, err = tls.LoadX509KeyPair(d.file("chain.pem"), d.file("key.pem"))
	return err
}

// topic is where the device publishes: below the prefix it was given.
func (d *demoDevice) topic() string { return "devices/" + d.id + "/telemetry" }

// verify runs the eight steps as this device, with the authority's CRLs at
// hand to explain a refusal.
func (d *demoDevice) verify(ctx context.Context, m *demo) *mqtts.Report {
	t := mqtts.Target{
		URL: m.endpoints.MQTTS, Roots: m.server.authority.Roots(), Certificate: &d.pair,
		Topic: "devices/" + d.id + "/verify",
	}
	if crls, err := m.server.service.CRLs(ctx); err == nil {
		for _, crl := range crls {
			if list, err := x509.ParseRevocationList(crl.DER); err == nil {
				t.CRLs = append(t.CRLs, list)
			}
		}
	}
	return mqtts.Verify(ctx, t)
}

// connect opens the device's session and subscribes to its own topic.
func (d *demoDevice) connect(m *demo) error {
	u, err := url.Parse(m.endpoints.MQTTS)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	for _, root := range m.server.authority.Roots() {
		roots.AddCert(root)
	}
	d.gone, d.seen = make(chan struct{}), map[int]bool{}
	d.mqtt = paho.NewClient(paho.NewClientOptions().
		AddBroker("tls://" + u.Host).SetClientID(d.id).SetConnectTimeout(deviceWait).
		SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{d.pair}}).
		SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectionLostHandler(func(paho.Client, error) { close(d.gone) }))
	if err := wait(d.mqtt.Connect(), "connect"); err != nil {
		return err
	}
	return wait(d.mqtt.Subscribe(d.topic(), 1, func(_ paho.Client, msg paho.Message) {
		if n, err := strconv.Atoi(string(msg.Payload())); err == nil {
			d.mu.Lock()
			d.seen[n] = true
			d.mu.Unlock()
		}
	}), "subscribe")
}

// wait waits for a token.
func wait(t paho.Token, what string) error {
	if !t.WaitTimeout(deviceWait) {
		return fmt.Errorf("%s: no answer in %v", what, deviceWait)
	}
	if err := t.Error(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// startTraffic publishes numbers at QoS 1 until stopTraffic.
func (d *demoDevice) startTraffic() {
	d.stop, d.done = make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-d.stop:
				d.done <- nil
				return
			case <-time.After(devicePace):
			}
			if err := wait(d.mqtt.Publish(d.topic(), 1, false, strconv.Itoa(d.sent)), "publish"); err != nil {
				d.done <- err
				return
			}
			d.sent++
		}
	}()
}

// stopTraffic ends the traffic and returns how many messages were sent; an
// error when one did not come back.
func (d *demoDevice) stopTraffic() (int, error) {
	close(d.stop)
	if err := <-d.done; err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(deviceWait); ; time.Sleep(devicePace) {
		missing := d.missing()
		if missing == 0 {
			return d.sent, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%d of %d messages are missing", missing, d.sent)
		}
	}
}

func (d *demoDevice) missing() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	missing := 0
	for n := range d.sent {
		if !d.seen[n] {
			missing++
		}
	}
	return missing
}

// lost reports whether the broker closed the session, within a time.
func (d *demoDevice) lost(within time.Duration) bool {
	select {
	case <-d.gone:
		return true
	case <-time.After(within):
		return false
	}
}

// disconnect ends the session, if there is one.
func (d *demoDevice) disconnect() {
	if d.mqtt != nil && d.mqtt.IsConnected() {
		d.mqtt.Disconnect(50)
	}
}
