package store

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// First enrollments are recorded by one statement, whose text is another for
// each small number of them and of the tokens that they share.
func testPostgresTogether(t *testing.T, url string) {
	s := openAt(t, url)
	ctx, engine := t.Context(), s.db.(*postgresEngine)
	for n := range writtenOut + 3 {
		for tokens := range min(n, 3) + 1 {
			name := fmt.Sprintf("%d with %d tokens", n, tokens)
			order := enroll.WorkOrder{ID: name, Quantity: int64(n), State: enroll.OrderOpen}
			if err := s.CreateWorkOrder(ctx, order, someChange()); err != nil {
				t.Fatal(err)
			}
			token := func(i int) string { return fmt.Sprintf("%s, %d", name, i%tokens) }
			for i := range tokens {
				err := s.CreateEnrollmentToken(ctx, enroll.EnrollmentToken{ID: token(i), Hash: []byte(token(i)), WorkOrder: name, Uses: 100, ExpiresAt: time.Now().Add(time.Hour)}, someChange())
				if err != nil {
					t.Fatal(err)
				}
			}
			enrollments := func(round string, n int) (batch []*issuance) {
				for i := range n {
					one := newIssuance(fmt.Sprintf("%s, %s %d", name, round, i))
					one.Certificate.DER = []byte(one.Certificate.SerialNumber)
					claim := one.Claim.(*enroll.Claim)
					claim.Order = name
					if tokens > 0 {
						claim.Token = &enroll.TokenClaim{ID: token(i), RequestHash: []byte(one.Certificate.SerialNumber)}
					}
					is, err := s.prepareIssuance(&one)
					if err != nil {
						t.Fatal(err)
					}
					batch = append(batch, is)
				}
				return batch
			}
			recorded := func(is *issuance) bool {
				cert, err := s.Certificate(ctx, is.cert.SerialNumber)
				if err != nil && !errors.Is(err, ca.IsKind(ca.KindNotFound)) {
					t.Fatal(err)
				}
				return err == nil && bytes.Equal(cert.DER, is.cert.DER) && cert.KeySHA256 == is.cert.KeySHA256 && cert.Holder == is.cert.Holder && cert.NotAfter.Equal(is.cert.NotAfter.Truncate(time.Microsecond))
			}
			spent := func() int64 {
				all, err := value[int64](ctx, s.db, `SELECT CAST(COALESCE(SUM(used), 0) AS BIGINT) FROM enrollment_tokens WHERE work_order = $1`, name)
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			if n > 0 {
				batch := enrollments("in the order", n)
				if err := engine.recordTogether(ctx, batch, micros(time.Now())); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, is := range batch {
					if !recorded(is) {
						t.Errorf("%s: %s is not recorded as it is", name, is.cert.Holder)
					}
				}
			}
			after, err := s.WorkOrder(ctx, name)
			if err != nil || after.Issued != int64(n) || spent() != int64(min(tokens, 1)*n) {
				t.Errorf("%s: the order has %+v, %d uses of tokens are spent, %v", name, after, spent(), err)
			}
			more := enrollments("too many", n+1)
			if err := engine.recordTogether(ctx, more, micros(time.Now())); !errors.Is(err, errNotTogether) {
				t.Errorf("%s: %d more: %v", name, n+1, err)
			}
			for _, is := range more {
				if recorded(is) {
					t.Errorf("%s: %s is recorded beyond the order's quantity", name, is.cert.Holder)
				}
			}
			if spent() != int64(min(tokens, 1)*n) {
				t.Errorf("%s: what was refused spent a token", name)
			}
		}
	}
}
