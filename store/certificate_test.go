package store

import (
	"context"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Expired certificates that are few, and old, are found in steps: a page looks at
// so many certificates, and no more.
func TestExpiredCertificatesAreFoundInSteps(t *testing.T) {
	t.Parallel()
	s := openFull(t)
	err := s.write(t.Context(), func(ctx context.Context, q tx) error {
		_, err := q.exec(ctx, `UPDATE certificates SET not_after = $1 WHERE recorded_at > 10`, micros(s.now().Add(time.Hour)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found, pages := 0, 0
	for page := (enroll.Page{Limit: 10}); ; pages++ {
		some, next, err := s.Certificates(t.Context(), enroll.CertificateFilter{Status: ca.StatusExpired}, page)
		if err != nil {
			t.Fatal(err)
		}
		found += len(some)
		if page.Cursor = next; next == "" {
			break
		}
	}
	if found != 10 || pages != 100_000/scanBound {
		t.Errorf("%d found, after %d pages", found, pages)
	}
}
