package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// I8: of two certificates with one key the first is revoked as compromised while
// the key is renewed on the strength of the second. The renewal waits for the
// revocation, and must see it.
func testRenewalBesideRevocation(t *testing.T, url string) {
	s := openAt(t, url)
	enrollment := func() ca.Issuance {
		i := newIssuance("d")
		i.Claim.(*enroll.Claim).Order, i.Claim.(*enroll.Claim).Idempotency = "", nil
		return i
	}
	first := enrollment()
	renewal := func(of ca.Issuance) ca.Issuance {
		i := enrollment()
		i.Certificate.KeySHA256 = of.Certificate.KeySHA256
		i.Claim.(*enroll.Claim).Replaces = of.Certificate.SerialNumber
		return i
	}
	commit := func(i ca.Issuance) error { return s.Commit(t.Context(), []ca.Issuance{i})[0] }
	second := renewal(first)
	for _, i := range []ca.Issuance{first, second} {
		if err := commit(i); err != nil {
			t.Fatal(err)
		}
	}

	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	under, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`UPDATE devices SET not_after = not_after WHERE id = 'd'`,
		`UPDATE certificates SET status = 'revoked', reason = 'keyCompromise', revoked_at = 1 WHERE serial = '` + string(first.Certificate.SerialNumber) + `'`,
	} {
		if _, err := under.Exec(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	third := renewal(second)
	renewed := make(chan error, 1)
	go func() { renewed <- commit(third) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		waits, err := value[int64](t.Context(), s.db, `SELECT COUNT(*) FROM pg_locks WHERE NOT granted`)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the renewal does not wait for the revocation: %v", err)
		}
		if waits > 0 {
			break
		}
	}
	if err := under.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-renewed; !errors.Is(err, ca.IsKind(ca.KindBlockedKey)) {
		t.Errorf("the compromised key is renewed: %v", err)
	}
	if _, err := s.Certificate(t.Context(), third.Certificate.SerialNumber); err == nil {
		t.Error("its certificate is recorded")
	}
}
