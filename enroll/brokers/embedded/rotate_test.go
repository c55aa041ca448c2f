package embedded

import (
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// The broker's certificate is replaced, twice and back once, while devices
// publish at QoS 1: no message is lost, no session is another one, and new
// handshakes see the new certificate.
func TestRotateUnderLoad(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex
	received := map[string]bool{}
	reader := s.mustPaho(s.clients.Device("reader"), "reader")
	wait(t, reader.Subscribe("data/#", 1, func(_ paho.Client, message paho.Message) {
		mu.Lock()
		defer mu.Unlock()
		received[string(message.Payload())] = true
	}))
	var sent []string
	var lost atomic.Int64
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for device := range 4 {
		name := fmt.Sprintf("device-%d", device)
		client := s.mustPaho(s.clients.Device(name), name, func(o *paho.ClientOptions) {
			o.SetConnectionLostHandler(func(paho.Client, error) { lost.Add(1) })
		})
		publishers.Go(func() {
			for i := 0; ; i++ {
				payload := fmt.Sprintf("%s/%d", name, i)
				token := client.Publish("data/"+name, 1, false, payload)
				if !token.WaitTimeout(5*time.Second) || token.Error() != nil {
					t.Errorf("publish %s: %v", payload, token.Error())
					return
				}
				mu.Lock()
				sent = append(sent, payload)
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	before := s.sessionIDs()
	served := func() string {
		device := s.clients.Device("probe")
		tcp, err := tls.Dial("tcp", s.Addr().String(), s.tls(&device, tls.VersionTLS12))
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		return string(tcp.ConnectionState().PeerCertificates[0].Raw)
	}
	first := served()
	for range 2 {
		chain := brokertest.Install(t, s, s.servers)
		time.Sleep(50 * time.Millisecond)
		if got := served(); got != string(chain[0]) || got == first {
			t.Error("the new certificate is not served")
		}
	}
	if err := s.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	close(stop)
	publishers.Wait()
	if after := s.sessionIDs(); len(before) != 5 || !slices.Equal(before, after) || lost.Load() != 0 {
		t.Errorf("sessions before %v, after %v, lost %d", before, after, lost.Load())
	}
	eventually(t, "all received", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(received) == len(sent)
	})
	t.Logf("%d messages", len(sent))
}

func wait(t *testing.T, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(5 * time.Second) {
		t.Fatal("no answer")
	}
	if token.Error() != nil {
		t.Fatal(token.Error())
	}
}
