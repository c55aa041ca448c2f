package mqtts_test

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// endless writes b until the peer is gone.
func endless(b []byte) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// drip writes b a byte at a time.
func drip(c net.Conn, b []byte, every time.Duration) {
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(every)
	}
	drain(c)
}

// record is a TLS record.
func record(kind byte, body []byte) []byte {
	return append([]byte{kind, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
}

// script plays a broker: it reads a packet, then writes an answer, in turn.
func script(answers ...[]byte) func(*tls.Conn) {
	return func(c *tls.Conn) {
		buf := make([]byte, 4096)
		for _, a := range answers {
			if n, _ := c.Read(buf); n == 0 {
				return
			}
			c.Write(a)
		}
		drain(c)
	}
}

var accepted = []byte{0x20, 2, 0, 0}

// TestHostile is I25: any bytes end in a verdict within the deadline, in bounded
// memory, with no goroutine left.
func TestHostile(t *testing.T) {
	f := newFleet(t)
	inside := func(serve func(*tls.Conn)) func(net.Conn) { return overTLS(f.mutual(), serve) }
	plain := func(serve func(net.Conn)) func(*tls.Conn) { return func(c *tls.Conn) { serve(c) } }
	big := &tls.Certificate{Certificate: f.broker.Certificate, PrivateKey: f.broker.PrivateKey}
	for len(big.Certificate) < 1800 { // 1 MB
		big.Certificate = append(big.Certificate, f.issuer.certificate.Raw)
	}
	bigChain := f.mutual()
	bigChain.Certificates = []tls.Certificate{*big}
	noTickets := f.mutual()
	noTickets.SessionTicketsDisabled = true
	unasked := &tls.Config{Certificates: []tls.Certificate{*f.broker}}
	cases := []struct {
		name  string
		serve func(net.Conn)
		step  mqtts.StepName
		code  mqtts.Code
	}{
		{"silent", drain, mqtts.StepClientHello, mqtts.CodeTLSHandshakeTimeout},
		{"closes at once", func(net.Conn) {}, mqtts.StepClientHello, mqtts.CodeTLSHandshakeClosed},
		{"resets soon", func(c net.Conn) { time.Sleep(20 * time.Millisecond); reset(c) }, mqtts.StepClientHello, mqtts.CodeTLSHandshakeClosed},
		{"resets after ClientHello", func(c net.Conn) { c.Read(make([]byte, 1)); reset(c) }, mqtts.StepClientHello, mqtts.CodeTLSHandshakeClosed},
		{"garbage", endless([]byte("\xde\xad\xbe\xef")), mqtts.StepClientHello, mqtts.CodeNotTLS},
		{"zeros", endless(make([]byte, 4096)), mqtts.StepClientHello, mqtts.CodeNotTLS},
		{"a byte at a time", func(c net.Conn) { drip(c, record(22, make([]byte, 200)), 100*time.Millisecond) }, mqtts.StepClientHello, mqtts.CodeTLSHandshakeTimeout},
		{"garbage a byte at a time", func(c net.Conn) { drip(c, make([]byte, 200), 100*time.Millisecond) }, mqtts.StepClientHello, mqtts.CodeNotTLS},
		{"HTTP a byte at a time", func(c net.Conn) { drip(c, []byte("HTTP/1.1"), 200*time.Millisecond) }, mqtts.StepClientHello, mqtts.CodeNotMQTTHTTP},
		{"ServerHello, then silence", func(c net.Conn) { c.Write(record(22, []byte{2, 0, 0, 70, 3, 3})); drain(c) }, mqtts.StepServerCertificate, mqtts.CodeTLSHandshakeTimeout},
		{"ServerHello, then RST", func(c net.Conn) {
			c.Write(record(22, []byte{2, 0, 0, 70, 3, 3}))
			time.Sleep(20 * time.Millisecond)
			reset(c)
		}, mqtts.StepServerCertificate, mqtts.CodeTLSHandshakeClosed},
		{"endless handshake records", endless(record(22, append([]byte{2, 0xff, 0xff, 0xff}, make([]byte, 8000)...))), mqtts.StepServerCertificate, mqtts.CodeTLSProtocolViolation},
		{"endless empty handshake records", endless(record(22, nil)), mqtts.StepClientHello, mqtts.CodeTLSProtocolViolation},
		{"endless warnings", endless(record(21, []byte{1, 90})), mqtts.StepClientHello, ""},
		{"1 MB of certificates", overTLS(bigChain, script(accepted)), mqtts.StepServerCertificate, mqtts.CodeTLSProtocolViolation},

		{"silence after TLS", inside(plain(drain)), mqtts.StepConnack, mqtts.CodeConnackTimeout},
		{"close after TLS", overTLS(noTickets, func(*tls.Conn) {}), mqtts.StepSessionKeys, mqtts.CodeClientRejectedSilently},
		{"RST after TLS", overTLS(noTickets, func(c *tls.Conn) { reset(c.NetConn()) }), mqtts.StepSessionKeys, mqtts.CodeClientRejectedSilently},
		{"close after the ticket", inside(func(*tls.Conn) {}), mqtts.StepConnack, mqtts.CodeClientRejectedSilently},
		{"close without mutual TLS", overTLS(unasked, func(*tls.Conn) {}), mqtts.StepConnack, mqtts.CodeConnackMissing},
		{"garbage after TLS", inside(plain(endless([]byte("\xff\xff\xff\xff")))), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"huge remaining length", inside(script([]byte{0x20, 0xff, 0xff, 0xff, 0x7f})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"endless remaining length", inside(script([]byte{0x20, 0xff, 0xff, 0xff, 0xff, 0xff})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"reserved flags", inside(script([]byte{0x21, 2, 0, 0})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"reserved acknowledge flags", inside(script([]byte{0x20, 2, 0x80, 0})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"empty CONNACK", inside(script([]byte{0x20, 0})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"truncated CONNACK, then silence", inside(script([]byte{0x20, 2, 0})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"truncated CONNACK, then close", inside(func(c *tls.Conn) { c.Write([]byte{0x20, 2, 0}) }), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"CONNACK with broken properties", inside(script([]byte{0x20, 5, 0, 0, 9, 0x1f, 0})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"another packet", inside(script([]byte{0x90, 3, 0, 1, 0})), mqtts.StepConnack, mqtts.CodeConnackMalformed},
		{"unknown code", inside(script([]byte{0x20, 3, 0, 0xee, 0})), mqtts.StepConnack, mqtts.CodeConnackRefused},
		{"CONNACK, then silence", inside(script(accepted)), mqtts.StepPublishSubscribe, mqtts.CodeSubscribeDenied},
		{"CONNACK, then close", inside(func(c *tls.Conn) { c.Read(make([]byte, 999)); c.Write(accepted) }), mqtts.StepPublishSubscribe, mqtts.CodeSubscribeDenied},
		{"CONNACK, then RST", inside(func(c *tls.Conn) {
			c.Read(make([]byte, 999))
			c.Write(accepted)
			c.Read(make([]byte, 999))
			reset(c.NetConn())
		}), mqtts.StepPublishSubscribe, mqtts.CodeSubscribeDenied},
		{"endless PINGRESP", inside(func(c *tls.Conn) {
			c.Read(make([]byte, 999))
			c.Write(accepted)
			endless([]byte{0xd0, 0})(c)
		}), mqtts.StepPublishSubscribe, ""},
		{"SUBACK, then silence", inside(script(accepted, []byte{0x90, 4, 0, 1, 0, 1})), mqtts.StepPublishSubscribe, mqtts.CodePublishNotDelivered},
		{"fragmented CONNACK", inside(func(c *tls.Conn) {
			c.Read(make([]byte, 999))
			drip(c, []byte{0x20, 3, 0, 0x87, 0}, 20*time.Millisecond)
		}), mqtts.StepConnack, mqtts.CodeConnackNotAuthorized},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := f.target(listen(t, c.serve))
			target.Timeout, target.StepTimeout, target.Version = 1500*time.Millisecond, 500*time.Millisecond, mqtts.Version5
			start := time.Now()
			r := verify(t, target)
			if took := time.Since(start); took > target.Timeout+500*time.Millisecond {
				t.Errorf("took %v", took)
			}
			expect(t, r, c.step, c.code)
			if r.Verdict != mqtts.VerdictFail {
				t.Errorf("verdict %s", r.Verdict)
			}
		})
	}
}

// TestBounded runs the worst floods at once, and measures memory and goroutines.
func TestBounded(t *testing.T) {
	f := newFleet(t)
	floods := []string{
		listen(t, endless(record(22, append([]byte{2, 0, 0xff, 0xff}, make([]byte, 16000)...)))),
		listen(t, overTLS(f.mutual(), func(c *tls.Conn) {
			c.Read(make([]byte, 999))
			c.Write(accepted)
			endless(append([]byte{0x30, 0x80, 0x80, 3, 0, 1, 'a'}, make([]byte, 3*16384-3)...))(c)
		})),
		listen(t, drain),
	}
	ignore := goleak.IgnoreCurrent()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	done := make(chan *mqtts.Report)
	const each = 20
	for _, url := range floods {
		for range each {
			go func() {
				target := f.target(url)
				target.Timeout, target.StepTimeout = 600*time.Millisecond, 300*time.Millisecond
				done <- mqtts.Verify(context.Background(), target)
			}()
		}
	}
	for range each * len(floods) {
		if r := <-done; r.Verdict != mqtts.VerdictFail || r.DurationMs > 1500 {
			t.Errorf("%s after %v ms", r.Verdict, r.DurationMs)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if total := after.TotalAlloc - before.TotalAlloc; total > 400<<20 {
		t.Errorf("%d bytes allocated in all", total)
	}
	if err := goleak.Find(ignore); err != nil {
		t.Error(err)
	}
}
