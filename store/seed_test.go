package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store/storetest"
)

// seedIssuer is an issuer to seed under.
func seedIssuer(t testing.TB) ca.Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test data"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte{1, 2, 3}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Issuer{ID: "device", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Certificate: cert, Parent: "device", KeyURI: "none", StatusURLs: []string{"http://status.test"}}
}

// seeded returns a store with test data.
func seeded(t testing.TB, s *Store, c SeedConfig) {
	t.Helper()
	ctx := t.Context()
	if err := s.MarkTestData(ctx, someChange()); err != nil {
		t.Fatal(err)
	}
	c.Issuer = seedIssuer(t)
	if c.Now.IsZero() {
		c.Now = s.now()
	}
	if err := s.CreateIssuers(ctx, []ca.Issuer{c.Issuer}, nil, someChange()); err != nil {
		t.Fatal(err)
	}
	if err := s.Seed(ctx, c); err != nil {
		t.Fatal(err)
	}
}

func TestSQLiteSeed(t *testing.T) {
	t.Parallel()
	testSeed(t, openTemp(t))
}

func TestPostgresSeed(t *testing.T) {
	t.Parallel()
	testSeed(t, openAt(t, storetest.StartPostgres(t).NewDatabase(t)))
}

// What is seeded is as if it had been enrolled, and all indexes are there again.
func testSeed(t *testing.T, s *Store) {
	ctx := t.Context()
	names := []string{"devices", "certificates", "keys", "events", "revocations", "work_orders"}
	before, err := s.db.indexes(ctx, s.db, names)
	if err != nil || len(before) < 20 {
		t.Fatalf("%d indexes, %v", len(before), err)
	}
	if err := s.Seed(ctx, SeedConfig{Devices: 1, Certificates: 1, Issuer: seedIssuer(t)}); !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
		t.Fatalf("a store that is not marked: %v", err)
	}
	var progress []int
	seeded(t, s, SeedConfig{Devices: 12_000, Certificates: 2, Orders: 40, Progress: func(n int) { progress = append(progress, n) }})
	after, err := s.db.indexes(ctx, s.db, names)
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("the indexes were %v, and are %v, %v", before, after, err)
	}
	if !slices.Equal(progress, []int{10_000, 12_000}) {
		t.Errorf("progress %v", progress)
	}
	if marked, err := s.TestData(ctx); err != nil || !marked {
		t.Errorf("marked %t, %v", marked, err)
	}
	if err := s.Seed(ctx, SeedConfig{Devices: 1, Certificates: 1, Issuer: seedIssuer(t)}); !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
		t.Errorf("seeded twice: %v", err)
	}
	checkSeededFleet(t, s)
	checkSeededDevices(t, s)
	for cursor, n := "", int64(0); ; {
		orders, next, err := s.WorkOrders(ctx, enroll.Page{Limit: 500, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range orders {
			n += o.Issued
			if o.Issued > o.Quantity || (o.FullAt != nil) != (o.Issued == o.Quantity) {
				t.Errorf("%+v", o)
			}
		}
		if cursor = next; cursor == "" {
			if len(orders) != 40 || n < 11_700 || n > 12_000 {
				t.Errorf("%d orders, %d issued", len(orders), n)
			}
			break
		}
	}
}

// checkSeededFleet looks at the spread.
func checkSeededFleet(t *testing.T, s *Store) {
	t.Helper()
	if err := s.CountFleet(t.Context(), s.now()); err != nil {
		t.Fatal(err)
	}
	f, err := s.Figures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := int64(0)
	for status, n := range f.Devices {
		all += n
		if n < 60 {
			t.Errorf("%d devices are %s", n, status)
		}
	}
	if all != 12_000 || f.Devices[enroll.DeviceActive] < 11_000 || f.Certificates[ca.StatusGood] < 22_000 || f.Certificates[ca.StatusHeld] == 0 || f.Certificates[ca.StatusRevoked] == 0 {
		t.Errorf("%+v", f)
	}
	forecast, err := s.Forecast(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sum := forecast.Overdue["device"] + forecast.Later["device"]
	for _, w := range forecast.Weeks {
		sum += w.Expiring["device"]
	}
	if sum != f.Devices[enroll.DeviceActive] || forecast.Overdue["device"] == 0 {
		t.Errorf("%d of %d devices expire, overdue %v", sum, f.Devices[enroll.DeviceActive], forecast.Overdue)
	}
}

// checkSeededDevices looks at some devices, their certificates and events.
func checkSeededDevices(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	for _, status := range enroll.DeviceStatuses() {
		page, _, err := s.Devices(ctx, enroll.DeviceFilter{Status: status}, enroll.Page{Limit: 5})
		if err != nil || len(page) != 5 {
			t.Fatalf("%s: %d, %v", status, len(page), err)
		}
		for _, listed := range page {
			d, err := s.Device(ctx, listed.ID)
			if err != nil {
				t.Fatal(err)
			}
			if (status == enroll.DeviceRegistered) != (len(d.Certificates) == 0) || len(d.Certificates) > 2 || d.WorkOrder == "" {
				t.Errorf("%+v", d)
			}
			for _, c := range d.Certificates {
				parsed, err := c.X509()
				if err != nil {
					t.Fatal(err)
				}
				if parsed.Subject.CommonName != d.ID || ca.SerialNumberOf(parsed.SerialNumber) != c.SerialNumber || !parsed.NotAfter.Equal(c.NotAfter) ||
					!parsed.NotBefore.Equal(c.NotBefore) || ca.FingerprintOf(parsed) != c.SHA256 || parsed.Issuer.CommonName != "test data" {
					t.Errorf("certificate %s of %s says %s, %v", c.SerialNumber, d.ID, parsed.Subject, parsed.NotAfter)
				}
			}
			if status == enroll.DeviceActive && (d.ExpiresAt == nil || !d.ExpiresAt.Equal(d.Certificates[0].NotAfter)) {
				t.Errorf("%+v", d)
			}
			events, _, err := s.DeviceEvents(ctx, d.ID, enroll.Page{})
			if err != nil || len(events) < len(d.Certificates) {
				t.Errorf("%s: %d events, %v", d.ID, len(events), err)
			}
		}
	}
	broken, err := collect(ctx, s.db, func(row scanner) (bool, error) {
		var canonical, leaf []byte
		err := row.Scan(&canonical, &leaf)
		want := enroll.LeafHash(canonical)
		return !bytes.Equal(leaf, want[:]), err
	}, `SELECT canonical, leaf_hash FROM events ORDER BY at DESC, id DESC LIMIT 500`)
	if err != nil || slices.Contains(broken, true) {
		t.Errorf("leaf hashes do not hold, %v", err)
	}
}

// A store that may be a real fleet's is never marked.
func TestSeedRefusesWhatIsReal(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(s *Store) error{
		"issuers": func(s *Store) error {
			return s.CreateIssuers(t.Context(), []ca.Issuer{seedIssuer(t)}, nil, someChange())
		},
		"certificate": func(s *Store) error { return s.Commit(t.Context(), []ca.Issuance{seedlessIssuance("d")})[0] },
		"device": func(s *Store) error {
			return s.CreateDevice(t.Context(), enroll.Device{ID: "d", Status: enroll.DeviceRegistered, CreatedAt: s.now()}, someChange())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTemp(t)
			if err := fill(s); err != nil {
				t.Fatal(err)
			}
			if err := s.CheckEmpty(t.Context()); !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
				t.Errorf("is empty: %v", err)
			}
			if err := s.MarkTestData(t.Context(), someChange()); !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
				t.Errorf("marked: %v", err)
			}
			if marked, err := s.TestData(t.Context()); marked || err != nil {
				t.Errorf("marked %t, %v", marked, err)
			}
		})
	}
}

// What a program before this one made is refused as it is: looking at it is no
// reason to migrate it.
func TestSeedLeavesOldDatabases(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{URL: filepath.Join(t.TempDir(), "fleetca.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for range 2 { // the database is empty, and has the first migration alone
		if err := s.CheckEmpty(t.Context()); err != nil {
			t.Errorf("is not empty: %v", err)
		}
		if err := s.CheckSeedable(t.Context()); !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
			t.Errorf("can be seeded: %v", err)
		}
		firstSchema(t, s)
	}
	err = s.write(t.Context(), func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `INSERT INTO devices (id, status, group_name, attributes, work_order, trust_generation, created_at, last_seen_at) VALUES ('d1', 'registered', '', '{}', '', 1, 1, 0)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CheckEmpty(t.Context()); !errors.Is(err, ca.IsKind(enroll.KindConflict)) {
		t.Errorf("is empty: %v", err)
	}
	if v, err := s.SchemaVersion(t.Context()); v != 1 || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
}

// seedlessIssuance is an enrollment for no work order.
func seedlessIssuance(device string) ca.Issuance {
	i := newIssuance(device)
	i.Claim.(*enroll.Claim).Order = ""
	return i
}
