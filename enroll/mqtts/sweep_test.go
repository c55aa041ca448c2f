package mqtts_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetca/fleetca/enroll/mqtts"
	"github.com/fleetca/fleetca/enroll/mqtts/brokerkit"
)

// A saboteur stands between the verifier and a good broker. Of every connection
// it hands on so many bytes of the broker, and then does its deed.
type saboteur struct {
	upstream string
	after    int64
	deed     func(client, broker net.Conn)
	most     atomic.Int64 // bytes of the broker on one connection
}

// deeds are what it does from then on. It returns when the client is gone.
var deeds = map[string]func(client, broker net.Conn){
	"silence": func(client, _ net.Conn) { drain(client) },
	"RST":     func(client, _ net.Conn) { reset(client) },
	"FIN":     func(client, _ net.Conn) { client.Close() },
	"garbage": func(client, _ net.Conn) { endless([]byte("\xde\xad\xbe\xef\x00\xff"))(client) },
	"zeros":   func(client, _ net.Conn) { endless(make([]byte, 4096))(client) },
	"a byte at a time": func(client, broker net.Conn) {
		buf := make([]byte, 1)
		for {
			if _, err := broker.Read(buf); err != nil {
				return
			}
			if _, err := client.Write(buf); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	},
	"a wrong byte": func(client, broker net.Conn) {
		buf := make([]byte, 1)
		if _, err := broker.Read(buf); err != nil {
			return
		}
		buf[0] ^= 0x55
		client.Write(buf)
		io.Copy(client, broker)
	},
}

// serve plays one connection.
func (s *saboteur) serve(client net.Conn) {
	broker, err := net.Dial("tcp", s.upstream)
	if err != nil {
		return
	}
	defer broker.Close()
	var sending sync.WaitGroup
	defer sending.Wait()
	defer client.Close()
	sending.Go(func() {
		io.Copy(broker, client)
		broker.Close()
	})
	n, err := io.CopyN(client, broker, s.after)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	if err == nil && s.deed != nil {
		s.deed(client, broker)
	}
}

// A sweep is one way to talk to the broker.
type sweep struct {
	name   string
	url    string
	change func(*mqtts.Target)
}

// TestSabotage is I25: wherever a broker falls silent, hangs up or goes mad in the
// conversation, and whatever it does, there is a verdict in time, it is no pass,
// memory is bounded and no goroutine is left. FLEETCA_TEST_SOAK=1 tries every
// fifth byte.
func TestSabotage(t *testing.T) {
	f := newFleet(t)
	b := startedMochi(t, f)
	sweeps := []sweep{
		{"TLS 1.2", b.MQTTS, func(t *mqtts.Target) { t.MaxTLS = tls.VersionTLS12 }},
		{"TLS 1.3", b.MQTTS, func(t *mqtts.Target) { t.MinTLS = tls.VersionTLS13 }},
		{"websocket", b.WSS, func(*mqtts.Target) {}},
		{"negative", b.MQTTS, func(t *mqtts.Target) { t.Negative = true }},
	}
	parts := 12
	ignore := goleak.IgnoreCurrent()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var runs atomic.Int64
	t.Run("sweep", func(t *testing.T) {
		for _, s := range sweeps {
			t.Run(s.name, func(t *testing.T) {
				whole := f.sabotage(t, s, 1<<40, nil)
				total := whole.most
				if whole.report.Verdict != mqtts.VerdictPass {
					t.Fatalf("without a deed: %s %+v", whole.report.Verdict, whole.report.Diagnosis)
				}
				positions := total/int64(parts) + 1
				if os.Getenv("FLEETCA_TEST_SOAK") == "1" {
					positions = 5
				}
				var running sync.WaitGroup
				limit := make(chan struct{}, 24)
				for at := int64(0); at < total; at += positions {
					for name, deed := range deeds {
						limit <- struct{}{}
						running.Go(func() {
							defer func() { <-limit }()
							runs.Add(1)
							f.sabotage(t, s, at, deed).check(t, fmt.Sprintf("%s after %d of %d bytes", name, at, total), name, total-at)
						})
					}
				}
				running.Wait()
			})
		}
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d runs, heap grew by %d KiB", runs.Load(), grown>>10)
	if grown > 8<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if err := goleak.Find(ignore); err != nil {
		t.Error(err)
	}
}

// startedMochi is a broker with every listener.
func startedMochi(t *testing.T, f *fleet) *brokerkit.Broker {
	t.Helper()
	for _, k := range brokerkit.Kinds() {
		if strings.HasPrefix(k.Name, "mochi") {
			return k.Start(t, brokerkit.Setup{Certificate: f.broker, ClientCAs: f.roots()})
		}
	}
	t.Fatal("there is no mochi")
	return nil
}

// A sabotaged is what a run behind a saboteur saw.
type sabotaged struct {
	report  *mqtts.Report
	took    time.Duration
	timeout time.Duration
	most    int64
}

// sabotage runs the verifier behind a saboteur.
func (f *fleet) sabotage(t *testing.T, s sweep, after int64, deed func(client, broker net.Conn)) sabotaged {
	t.Helper()
	target := f.target(s.url)
	s.change(&target)
	host, _, _ := strings.Cut(strings.SplitN(s.url, "://", 2)[1], "/")
	saboteur := &saboteur{upstream: host, after: after, deed: deed}
	address, stop := listenUntil(t, saboteur.serve)
	target.Address = address
	target.Timeout, target.StepTimeout = 1500*time.Millisecond, 300*time.Millisecond
	if deed == nil {
		target.Timeout, target.StepTimeout = 20*time.Second, 10*time.Second
	}
	start := time.Now()
	r := mqtts.Verify(context.Background(), target)
	took := time.Since(start)
	stop()
	return sabotaged{r, took, target.Timeout, saboteur.most.Load()}
}

// listenUntil is listen with an end before the test's.
func listenUntil(t *testing.T, serve func(net.Conn)) (address string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	return l.Addr().String(), func() {
		l.Close()
		serving.Wait()
	}
}

// check holds a run against what every one must be. A broker that dawdles may
// pass, and one whose last bytes alone were touched: its goodbye.
func (s sabotaged) check(t *testing.T, what, deed string, left int64) {
	t.Helper()
	const goodbye = 200
	if s.took > s.timeout+2*time.Second {
		t.Errorf("%s: took %v", what, s.took)
	}
	passed := s.report.Verdict == mqtts.VerdictPass
	if passed && deed != "a byte at a time" && left > goodbye {
		var text strings.Builder
		s.report.WriteText(&text, false)
		t.Errorf("%s passed\n%s", what, text.String())
	}
	if !passed && len(s.report.Diagnosis) == 0 {
		t.Errorf("%s: no diagnosis with verdict %s", what, s.report.Verdict)
	}
	for _, c := range s.report.Checks {
		if c.Result == mqtts.CheckFail {
			t.Errorf("%s: check %s failed at a broker that refuses all: %+v", what, c.Name, c.Diagnosis)
		}
	}
	checkReport(t, s.report)
}
