package api_test

import (
	"fmt"
	"iter"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// batchOf returns n items, of which every tenth is bad in another way.
func batchOf(t *testing.T, prefix string, n int) []client.BatchItem {
	t.Helper()
	items := make([]client.BatchItem, n)
	for i := range items {
		id := fmt.Sprint(prefix, i)
		_, csr := newRequest(t, id)
		items[i] = client.BatchItem{EnrollRequest: enroll.EnrollRequest{DeviceID: id, CSR: csr, WorkOrder: prefix}, IdempotencyKey: "key-" + id}
	}
	items[3].CSR = "not PEM"
	items[13].CSR = strings.Repeat("x", 100<<10)
	items[23].IdempotencyKey = ""
	items[33].DeviceID = "a/b"
	return items
}

func TestBatch(t *testing.T) {
	f, ctx := shared, t.Context()
	for name, server := range map[string]*httptest.Server{"http1": f.machines, "http2": f.people} {
		t.Run(name, func(t *testing.T) {
			factory := f.client(t, server, enroll.RoleFactory, nil)
			order := unique(name + "-")
			if _, err := factory.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: order, Product: "pump", Quantity: 100}); err != nil {
				t.Fatal(err)
			}
			items := batchOf(t, order, 60)
			want := map[int]ca.Kind{3: ca.KindMalformed, 13: ca.KindTooLarge, 23: ca.KindMalformed, 33: ca.KindMalformed}
			for round, status := range []int{201, 200} {
				// Items are sent one by one as results come: both directions are open at once.
				seen := map[int]bool{}
				for r, err := range factory.EnrollBatch(ctx, one(items)) {
					if err != nil {
						t.Fatal(err)
					}
					if seen[r.Index] {
						t.Errorf("item %d is answered twice", r.Index)
					}
					seen[r.Index] = true
					if kind, bad := want[r.Index]; bad {
						if r.Problem == nil || r.Problem.Kind() != kind || r.Status != r.Problem.Status {
							t.Errorf("item %d: %+v", r.Index, r)
						}
						continue
					}
					if r.Status != status || r.Enrollment == nil || r.DeviceID != items[r.Index].DeviceID || r.Replayed != (round == 1) || r.Certificate.Subject != "CN="+r.DeviceID {
						t.Errorf("round %d, item %d: status %d, %+v, %v", round, r.Index, r.Status, r.Enrollment, r.Problem)
					}
				}
				if len(seen) != len(items) {
					t.Errorf("%d results for %d items", len(seen), len(items))
				}
			}
			if o, err := factory.WorkOrder(ctx, order); err != nil || o.Issued != 56 {
				t.Errorf("work order %+v, %v", o, err)
			}
		})
	}
}

func one[T any](items []T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, item := range items {
			if !yield(item) {
				return
			}
		}
	}
}

// TestBatchAnswersWhileReading holds back the second item until the first is
// answered, and then leaves in the middle.
func TestBatchAnswersWhileReading(t *testing.T) {
	f, ctx := shared, t.Context()
	for name, server := range map[string]*httptest.Server{"turn1": f.machines, "turn2": f.people} {
		t.Run(name, func(t *testing.T) {
			operator := f.client(t, server, enroll.RoleOperator, nil)
			items := batchOf(t, unique(name+"-"), 40)
			for i := range items {
				items[i].WorkOrder = ""
			}
			answered := make(chan struct{}, len(items))
			turns := func(yield func(client.BatchItem) bool) {
				for i, item := range items {
					if i > 0 {
						<-answered
					}
					if !yield(item) {
						return
					}
				}
			}
			n := 0
			for r, err := range operator.EnrollBatch(ctx, turns) {
				if err != nil || r.Index != n {
					t.Fatalf("result %d: %+v, %v", n, r, err)
				}
				if n++; n == 20 {
					close(answered)
					break
				}
				answered <- struct{}{}
			}
			if n != 20 {
				t.Errorf("%d results", n)
			}
		})
	}
}

// A client that sends 20,000 requests and reads no answers is not read from either,
// once what lies between is full: the server keeps few of them in memory.
func TestBatchWhoseReaderStalls(t *testing.T) {
	const most, limit = 20_000, 32 << 20
	f := shared
	for name, server := range map[string]*httptest.Server{"stall1": f.machines, "stall2": f.people} {
		t.Run(name, func(t *testing.T) {
			prefix := unique(name + "-")
			var sent atomic.Int64
			items := func(yield func(client.BatchItem) bool) {
				for i := range most {
					id := fmt.Sprint(prefix, i)
					_, csr, err := request(id)
					if err != nil || !yield(client.BatchItem{EnrollRequest: enroll.EnrollRequest{DeviceID: id, CSR: csr}, IdempotencyKey: id}) {
						return
					}
					sent.Add(1)
				}
			}
			before, grown := heap(), int64(0)
			for r, err := range f.client(t, server, enroll.RoleOperator, nil).EnrollBatch(t.Context(), items) {
				if err != nil || r.Status != 201 {
					t.Fatalf("the first result: %+v, %v", r, err)
				}
				for last := int64(-1); last != sent.Load(); time.Sleep(2 * time.Second) { // until the sender waits, too
					last = sent.Load()
				}
				grown = int64(heap()) - int64(before)
				break
			}
			t.Logf("%d were sent, and the heap grew by %d kB", sent.Load(), grown>>10)
			if sent.Load() == most {
				t.Error("all requests were taken from a client that reads nothing")
			}
			if grown > limit {
				t.Errorf("the heap grew by %d bytes", grown)
			}
		})
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestBatchRefusedAtOnce(t *testing.T) {
	f := shared
	items := batchOf(t, "refused", 40)
	for name, server := range map[string]*httptest.Server{"http1": f.machines, "http2": f.people} {
		n := 0
		for _, err := range f.client(t, server, enroll.RoleAuditor, nil).EnrollBatch(t.Context(), one(items)) {
			n++
			isKind(t, err, enroll.KindForbidden, "")
		}
		if n != 1 {
			t.Errorf("%s: %d results", name, n)
		}
	}
}
