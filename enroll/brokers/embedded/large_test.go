package embedded

import (
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// A list of very many certificates is taken and asked: 20,000, and a million
// with FLEETCA_TEST_SOAK=1.
func TestLargeList(t *testing.T) {
	n := 20_000
	if os.Getenv("FLEETCA_TEST_SOAK") == "1" {
		n = 1_000_000
	}
	s := newSite(t)
	good, revoked := s.clients.Device("good"), s.clients.Device("revoked")
	many := make([]*x509.Certificate, n, n+1)
	for i := range many {
		serial := new(big.Int).Lsh(big.NewInt(0x40), 152) // 20 octets, as ours
		many[i] = &x509.Certificate{SerialNumber: serial.Add(serial, new(big.Int).Mul(big.NewInt(int64(i)), big.NewInt(1<<40)))}
	}
	bundle := s.clients.Bundle(brokertest.List{Number: 50, Revoked: append(many, revoked.Leaf)})
	clear(many)
	runtime.GC()
	before, began := heap(), time.Now()
	if err := s.LoadCRL(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	took, peak := time.Since(began), heap()-before // what the garbage collector has not taken yet is in it
	runtime.GC()
	kept := heap() - before
	t.Logf("%d entries, %d bytes of PEM: loaded in %v, heap +%d MiB at its end, +%d MiB kept", n+1, len(bundle.PEM), took.Round(time.Millisecond), peak>>20, kept>>20)
	if limit := int64(n)*250 + 16<<20; kept > limit {
		t.Errorf("%d bytes are kept, more than %d", kept, limit)
	}
	for name, certificate := range map[string]tls.Certificate{"good": good, "revoked": revoked} {
		_, answer, err := s.dial(s.tls(&certificate, tls.VersionTLS13), connect(4, "c"))
		if in := err == nil && answer.FixedHeader.Type == packets.Connack; in != (name == "good") {
			t.Errorf("%s: let in %v, %v", name, in, err)
		}
	}
	again := s.clients.Bundle(brokertest.List{Number: 49})
	if err := s.LoadCRL(t.Context(), again); err == nil { // numbers are compared with what is kept
		t.Error("an older list was taken")
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
