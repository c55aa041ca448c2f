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

// openForBench opens a new database.
func openForBench(b *testing.B, url string) *Store {
	b.Helper()
	s, err := Open(b.Context(), Config{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	if err := s.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}

func benchmarkCommit(b *testing.B, url string) {
	s := openForBench(b, url)
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

func BenchmarkSQLiteNewestCRLs(b *testing.B) {
	benchmarkNewestCRLs(b, filepath.Join(b.TempDir(), "fleetca.db"))
}

func BenchmarkPostgresNewestCRLs(b *testing.B) {
	benchmarkNewestCRLs(b, storetest.StartPostgres(b).NewDatabase(b))
}

// benchmarkNewestCRLs looks for the newest CRL of 1,024 shards, of which each
// has 20: what every server does twice a second.
func benchmarkNewestCRLs(b *testing.B, url string) {
	const shards, each = 1024, 20
	s := openForBench(b, url)
	if err := s.db.update(b.Context(), func(q tx) error {
		if _, err := q.exec(b.Context(), `INSERT INTO issuers (id, ordinal, purpose, state, der, parent, key_uri, status_urls, crl_shards, crl_shards_ever)
			VALUES ('devices', 0, 'device', 'active', $1, 'devices', '', '[]', $2, $2)`, []byte{}, int64(shards)); err != nil {
			return err
		}
		for n := range int64(shards * each) {
			if _, err := q.exec(b.Context(), `INSERT INTO crls (issuer_id, number, this_update, next_update, entries, scheduled, der, shard)
				VALUES ('devices', $1, $1, $1, 0, 1, $2, $3)`, n+1, []byte{}, n%shards); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if all, err := s.NewestCRLs(b.Context()); err != nil || len(all) != shards {
			b.Fatal(len(all), err)
		}
	}
}
