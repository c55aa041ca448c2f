package mqtts_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// TestNegativeHostile is I25 for the checks: whatever a broker does after the
// control, the run ends in time, and only what was refused is called so.
func TestNegativeHostile(t *testing.T) {
	f := newFleet(t)
	cases := []struct {
		name  string
		serve func(net.Conn)
		want  map[mqtts.CheckName]mqtts.CheckResult // others are inconclusive
	}{
		{"garbage", endless([]byte("\xde\xad\xbe\xef")), map[mqtts.CheckName]mqtts.CheckResult{"plaintext": mqtts.CheckPass}},
		{"zeros, a byte at a time", func(c net.Conn) { drip(c, make([]byte, 64), 100*time.Millisecond) }, map[mqtts.CheckName]mqtts.CheckResult{"plaintext": mqtts.CheckPass}},
		{"endless handshake records", endless(record(22, append([]byte{2, 0xff, 0xff, 0xff}, make([]byte, 8000)...))), map[mqtts.CheckName]mqtts.CheckResult{"plaintext": mqtts.CheckPass}},
		{"empty handshake records", endless(record(22, nil)), map[mqtts.CheckName]mqtts.CheckResult{"plaintext": mqtts.CheckPass}},
		{"alerts without end", endless(record(21, []byte{1, 90})), map[mqtts.CheckName]mqtts.CheckResult{"plaintext": mqtts.CheckPass, "old_tls": mqtts.CheckPass}},
		{"a long alert", func(c net.Conn) { c.Write(record(21, make([]byte, 300))); drain(c) }, nil},
		{"half a CONNACK", func(c net.Conn) { c.Write([]byte{0x20}); drain(c) }, nil},
		{"RST", func(c net.Conn) { c.Read(make([]byte, 1)); reset(c) }, nil},
		{"silence", drain, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			url := listen(t, func(conn net.Conn) {
				if connections.Add(1) > 1 {
					c.serve(conn)
					return
				}
				overTLS(f.mutual(), func(channel *tls.Conn) { serve311(channel, nil) })(conn)
			})
			target := f.negative(t, url, mqtts.Material{})
			target.Version, target.Timeout, target.StepTimeout = mqtts.Version311, 2*time.Second, 200*time.Millisecond
			start := time.Now()
			r := verify(t, target)
			if took := time.Since(start); took > target.Timeout+500*time.Millisecond {
				t.Errorf("took %v", took)
			}
			for _, check := range r.Checks {
				want := c.want[check.Name]
				if want == "" {
					want = mqtts.CheckInconclusive
				}
				if check.Result != want && check.Result != mqtts.CheckSkipped {
					t.Errorf("%s: %s, want %s: %+v %+v", check.Name, check.Result, want, check.Observed, check.Diagnosis)
				}
			}
		})
	}
}

// TestNegativeCancel: the end of the caller's context ends the checks at once.
func TestNegativeCancel(t *testing.T) {
	f := newFleet(t)
	var connections atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	url := listen(t, func(conn net.Conn) {
		switch n := connections.Add(1); {
		case n == 1:
			overTLS(f.mutual(), func(channel *tls.Conn) { serve311(channel, nil) })(conn)
		case n < 5: // three checks with certificates, then plaintext
			overTLS(f.mutual(), drainTLS)(conn)
		default:
			cancel()
			drain(conn)
		}
	})
	target := f.negative(t, url, mqtts.Material{})
	target.Version, target.Timeout, target.StepTimeout = mqtts.Version311, 20*time.Second, 10*time.Second
	start := time.Now()
	r := mqtts.Verify(ctx, target)
	checkReport(t, r)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	for _, name := range []mqtts.CheckName{mqtts.CheckPlaintext, mqtts.CheckOldTLS} {
		if c := r.Check(name); c.Result != mqtts.CheckInconclusive {
			t.Errorf("%+v", c)
		}
	}
	if r.Verdict != mqtts.VerdictInconclusive {
		t.Errorf("verdict %s", r.Verdict)
	}
}
