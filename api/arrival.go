package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// arrivalTime is how long a body may be on its way.
const arrivalTime = 5 * time.Second

// How many bodies of a listener may be on their way at the same time, in all and
// from one address.
const (
	maxArrivals          = 512
	maxArrivalsOfAddress = 128
)

// arrivals are the bodies of a listener that are on their way. They are read
// before a request takes a slot, so that who sends slowly keeps nobody out. When
// there are too many, the oldest gives way: it is the slowest. It is safe for
// concurrent use.
type arrivals struct {
	most, mostOfAddress int
	time                time.Duration // that a body may take

	mu  sync.Mutex
	all []*arrival // the oldest first
	of  map[netip.Prefix]int
}

// An arrival is one body.
type arrival struct {
	address netip.Prefix
	control *http.ResponseController
	gaveWay bool
}

func newArrivals() *arrivals {
	return &arrivals{most: maxArrivals, mostOfAddress: maxArrivalsOfAddress, time: arrivalTime, of: map[netip.Prefix]int{}}
}

// first reads a body of at most limit bytes, and only then goes on. What is
// wrong with it is for the next to find.
func (s *arrivals) first(a *API, limit int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength == 0 {
				next.ServeHTTP(w, r)
				return
			}
			body, gaveWay := s.read(w, r, limit)
			if gaveWay {
				a.writeError(w, r, errAtLimit)
				return
			}
			r.Body = body
			next.ServeHTTP(w, r)
		})
	}
}

// read reads a body, and reports whether it had to give way.
func (s *arrivals) read(w http.ResponseWriter, r *http.Request, limit int64) (body *heldBody, gaveWay bool) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.time)) // a recorder of a test has none
	one := s.begin(enroll.AddressGroup(r.RemoteAddr), control)
	text, err := readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	if s.end(one) {
		return nil, true
	}
	if err == nil {
		_ = control.SetReadDeadline(time.Time{}) // else what is left is not waited for
		err = io.EOF
	}
	return &heldBody{left: *bytes.NewReader(text), end: err}, false
}

// believedLength is the longest body whose announced length room is made for
// before it comes.
const believedLength = 16 << 10

// readAll is io.ReadAll, for a body that is said to have so many bytes.
func readAll(from io.Reader, said int64) ([]byte, error) {
	text := bytes.NewBuffer(make([]byte, 0, min(max(said, 0), believedLength)+bytes.MinRead))
	_, err := text.ReadFrom(from)
	return text.Bytes(), err
}

// begin notes that a body is on its way, in another's place where there are too
// many.
func (s *arrivals) begin(address netip.Prefix, control *http.ResponseController) *arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[address] >= s.mostOfAddress {
		s.giveWay(s.all[slices.IndexFunc(s.all, func(one *arrival) bool { return one.address == address })])
	} else if len(s.all) >= s.most {
		s.giveWay(s.all[0])
	}
	one := &arrival{address: address, control: control}
	s.all = append(s.all, one)
	s.of[address]++
	return one
}

// giveWay ends the reading of a body. The lock is held: its handler has not gone
// on, nor is its connection another request's.
func (s *arrivals) giveWay(one *arrival) {
	s.forget(one)
	one.gaveWay = true
	_ = one.control.SetReadDeadline(time.Now())
}

// end notes that a body is no longer on its way, and reports whether it gave way.
func (s *arrivals) end(one *arrival) (gaveWay bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !one.gaveWay {
		s.forget(one)
	}
	return one.gaveWay
}

func (s *arrivals) forget(one *arrival) {
	at := slices.Index(s.all, one)
	s.all = slices.Delete(s.all, at, at+1)
	if s.of[one.address]--; s.of[one.address] == 0 {
		delete(s.of, one.address)
	}
}

// A heldBody is a body that was read, and how that ended.
type heldBody struct {
	left bytes.Reader
	end  error
}

func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.left.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.end
	}
	return n, err
}

// Close does nothing: the server closes what it was read from.
func (b *heldBody) Close() error { return nil }
