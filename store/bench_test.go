package store

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// newIssuance returns a first enrollment with everything that one can spend.
func newIssuance(device string) ca.Issuance {
	serial := ca.NewSerialNumber()
	change := someChange()
	change.Idempotency = &enroll.Idempotency{Scope: "bench", Key: device, RequestHash: make([]byte, 32)}
	return ca.Issuance{
		Certificate: ca.Certificate{
			SerialNumber: serial, SHA256: string(serial), Subject: "CN=" + device, IssuerID: "devices", Profile: "device",
			Holder: ca.Holder{Kind: ca.HolderDevice, ID: device}, Status: ca.StatusGood,
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeySHA256: string(serial), DER: make([]byte, 600),
		},
		Claim: &enroll.Claim{Change: change, Device: &enroll.DeviceClaim{ID: device}, Order: "order"},
	}
}

// The benchmarks measure enrollments from 64 callers on two processors, signing
// left out.

func BenchmarkSQLiteCommit(b *testing.B) {
	benchmarkCommit(b, filepath.Join(b.TempDir(), "fleetca.db"))
}

func BenchmarkPostgresCommit(b *testing.B) {
	benchmarkCommit(b, storetest.StartPostgres(b).NewDatabase(b))
}

func benchmarkCommit(b *testing.B, url string) {
	s, err := Open(b.Context(), Config{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := s.CreateWorkOrder(b.Context(), enroll.WorkOrder{ID: "order", Quantity: 1 << 40, State: enroll.OrderOpen}, someChange()); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.ResetTimer()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Commit(b.Context(), []ca.Issuance{newIssuance(fmt.Sprintf("d%09d", n.Add(1)))})[0]; err != nil {
				b.Error(err)
				return
			}
		}
	})
}
