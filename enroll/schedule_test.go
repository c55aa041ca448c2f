package enroll_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// A tarpit accepts connections and says nothing.
type tarpit struct {
	net.Listener
	open, most atomic.Int64
	hold       time.Duration // after which it hangs up; zero for never
	serving    sync.WaitGroup
}

func newTarpit(t *testing.T, hold time.Duration) *tarpit {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tarpit{Listener: l, hold: hold}
	p.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { p.swallow(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.serving.Wait()
	})
	return p
}

func (p *tarpit) swallow(c net.Conn) {
	defer c.Close()
	n := p.open.Add(1)
	defer p.open.Add(-1)
	for most := p.most.Load(); n > most && !p.most.CompareAndSwap(most, n); most = p.most.Load() {
	}
	if p.hold > 0 {
		time.Sleep(p.hold)
		return
	}
	_, _ = io.Copy(io.Discard, c)
}

// heapInUse is the bytes of live and not yet swept objects.
func heapInUse() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// watchHeap returns what tells the most that the heap grew by until then.
func watchHeap() (grown func() int64) {
	runtime.GC()
	before, most := heapInUse(), int64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			most = max(most, heapInUse()-before)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-done
		return most
	}
}

// openFiles counts this process's file descriptors; 0 where that cannot be told.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd") // none elsewhere
	return len(entries)
}

// Of 500 brokers 450 accept and stay silent: all are verified within one timeout
// and five seconds, in bounded memory. Not in parallel: others' memory counts.
func TestScheduleOf500Brokers_I25(t *testing.T) {
	s := newSite(t)
	b := s.broker("alive")
	dead := newTarpit(t, 0)
	const alive, silent = 50, 450
	var registering sync.WaitGroup
	register := func(kind, addr string, n int) {
		for i := range n {
			registering.Go(func() {
				if _, err := s.CreateBroker(s.ctx, as("operator", ""), enroll.NewBroker{ID: fmt.Sprint(kind, i), URL: "mqtts://" + addr}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	register("alive-", b.addr, alive-1)
	register("dead-", dead.Addr().String(), silent)
	registering.Wait()
	files := openFiles()
	grown, start := watchHeap(), time.Now()
	s.scheduled(s.Service)
	took, heap := time.Since(start), grown()
	t.Logf("%d brokers in %v, heap grew by %d KiB", alive+silent, took, heap>>10)
	if took > mqtts.DefaultTimeout+5*time.Second {
		t.Errorf("took %v", took)
	}
	if heap > 64<<20 {
		t.Errorf("the heap grew by %d bytes", heap)
	}
	if n := dead.most.Load(); n < silent*9/10 {
		t.Errorf("%d of %d silent brokers were looked at together", n, silent)
	}
	if after := openFiles(); after > files+20 {
		t.Errorf("%d files are open, %d were", after, files)
	}
	verdicts := map[mqtts.Verdict]int{}
	for _, v := range must(s.NegativeVerifications(s.ctx)) {
		verdicts[v.Report.Verdict]++
	}
	if verdicts[mqtts.VerdictPass] != alive || verdicts[mqtts.VerdictFail] != silent {
		t.Errorf("verdicts %v", verdicts)
	}
}

// No more brokers are verified at once than is configured, by schedule and by
// request together.
func TestVerifyConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	slow := newTarpit(t, 30*time.Millisecond)
	const most = 5
	service := enroll.New(enroll.Config{
		Authority: s.authority, Store: s.store, Log: slog.New(slog.DiscardHandler), Now: s.clock.now, VerifyConnections: most,
	})
	for i := range 40 {
		_, err := s.CreateBroker(s.ctx, as("operator", ""), enroll.NewBroker{ID: fmt.Sprint("b", i), URL: "mqtts://" + slow.Addr().String()})
		s.must(err)
	}
	var asked sync.WaitGroup
	for i := range 20 {
		asked.Go(func() {
			if _, err := service.VerifyBroker(s.ctx, as("op", ""), fmt.Sprint("b", i), true); err != nil {
				t.Error(err)
			}
		})
	}
	s.scheduled(service)
	asked.Wait()
	// One that hangs up may still be counted when the next one connects.
	if n := slow.most.Load(); n < most || n > most+2 {
		t.Errorf("%d connections at once, want %d", n, most)
	}
}
