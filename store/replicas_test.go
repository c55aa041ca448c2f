package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// testSameEnrollmentsAtReplicas sends each of many enrollments to two replicas at
// once. One records it and the other answers so; neither waits for the other
// while the other waits for it, which PostgreSQL ends after a second.
func testSameEnrollmentsAtReplicas(t *testing.T, url string) {
	replicas := [2]*Store{openAt(t, url), openAt(t, url)}
	ctx, n := t.Context(), 600
	if err := replicas[0].CreateWorkOrder(ctx, enroll.WorkOrder{ID: "order", Quantity: int64(n), State: enroll.OrderOpen}, someChange()); err != nil {
		t.Fatal(err)
	}
	outcomes := make([][2]error, n)
	var sending sync.WaitGroup
	for r, s := range replicas {
		next := make(chan int)
		for range 32 {
			sending.Go(func() {
				for i := range next {
					one := newIssuance(fmt.Sprintf("device %d", i))
					one.Certificate.KeySHA256 = fmt.Sprintf("key %d", i)
					outcomes[i][r] = s.Commit(ctx, []ca.Issuance{one})[0]
				}
			})
		}
		sending.Go(func() {
			defer close(next)
			for i := 0; i < n; i += 40 { // about the same at the same time, in an order of its own
				for _, k := range rand.Perm(min(40, n-i)) {
					next <- i + k
				}
			}
		})
	}
	sending.Wait()
	for i, errs := range outcomes {
		if _, ok := errors.AsType[*enroll.Replay](errors.Join(errs[:]...)); !ok || errs[0] != nil && errs[1] != nil {
			t.Errorf("enrollment %d: %v", i, errs)
		}
	}
	for _, s := range replicas[1:] {
		_ = s.Close() // counts what it did
	}
	time.Sleep(1500 * time.Millisecond)
	deadlocks, err := value[int64](ctx, replicas[0].db, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`)
	if err != nil || deadlocks > 0 {
		t.Errorf("%d deadlocks, %v", deadlocks, err)
	}
	if o, err := replicas[0].WorkOrder(ctx, "order"); err != nil || o.Issued != int64(n) {
		t.Errorf("%+v, %v", o, err)
	}
}
