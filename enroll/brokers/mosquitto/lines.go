package mosquitto

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// A tracker makes a list of sessions from the lines of the log.
//
// No line can be forged by a client: Mosquitto refuses client identifiers with
// control characters, and what follows the identifier in a line has a form that
// is looked for from the end.
type tracker struct {
	Live   map[string]*session  `json:"live"`   // by client identifier; of cut lines by address
	Opened map[string]time.Time `json:"opened"` // TCP connections that have not sent CONNECT, by address
	Last   uint64               `json:"last"`   // number of the newest session
	Whole  bool                 `json:"whole"`  // the start of this Mosquitto was seen, and all since
	Begun  time.Time            `json:"begun"`  // that start

	reloads    int
	complaints []string // errors since the last reload
}

// A session is one live session.
type session struct {
	brokers.Session
	Number uint64    `json:"number"`
	Opened time.Time `json:"opened"` // when its TCP connection was; zero when not seen
	Cut    bool      `json:"cut"`    // the line was too long: no identity, and a part of the client identifier
}

const (
	// cutLength is from where on a line may have been cut: Mosquitto's lines
	// have at most 999 bytes.
	cutLength = 990
	// maxOpened is how many connections without CONNECT are remembered before
	// old ones are forgotten.
	maxOpened     = 10_000
	maxComplaints = 5
)

// connected is what follows the address in the line of a CONNECT.
var connected = regexp.MustCompile(`^(.*) \(p\d+, c[01], k\d+, u'(.*)'\)\.$`)

// endings are what follows the client identifier in the line of an end. All but
// the last are of Mosquitto's function do_disconnect.
var endings = []string{
	" disconnected.",
	" closed its connection.",
	" has exceeded timeout, disconnecting.",
	" been disconnected by administrative action.",
	" disconnected, not authorised.",
	" disconnected due to malformed packet.",
	" disconnected due to protocol error.",
	" disconnected due to oversize packet.",
	" disconnected due to oversize payload.",
	" disconnected due to out of memory.",
	" disconnected due to QoS too high or retain not supported.",
	" already connected, closing old connection.",
}

func newTracker() *tracker {
	return &tracker{Live: map[string]*session{}, Opened: map[string]time.Time{}}
}

// sound reports whether a tracker that was read can be used.
func (t *tracker) sound() bool { return t != nil && t.Live != nil && t.Opened != nil }

// line takes one line of the log, without its end.
func (t *tracker) line(line string) {
	stamp, text, found := strings.Cut(line, ": ")
	at, err := time.Parse(timeLayout, stamp)
	if !found || err != nil {
		return
	}
	if rest, ok := strings.CutPrefix(text, "New connection from "); ok {
		t.open(at, rest)
	} else if rest, ok := strings.CutPrefix(text, "New client connected from "); ok {
		t.begin(at, rest, len(line) >= cutLength)
	} else if rest, ok := strings.CutPrefix(text, "Client "); ok {
		t.end(rest, len(line) >= cutLength)
	} else if text == "Reloading config." {
		t.reloads++
		t.complaints = nil
	} else if strings.HasPrefix(text, "Error") {
		if len(t.complaints) < maxComplaints {
			t.complaints = append(t.complaints, text)
		}
	} else if strings.HasPrefix(text, "mosquitto version ") && (strings.HasSuffix(text, " starting") || strings.HasSuffix(text, " terminating")) {
		t.Live, t.Opened = map[string]*session{}, map[string]time.Time{}
		t.Whole, t.Begun = true, at
	}
}

// open takes ADDRESS:PORT on port N.
func (t *tracker) open(at time.Time, rest string) {
	address, _, _ := strings.Cut(rest, " ")
	if len(t.Opened) >= maxOpened {
		oldest := slices.Sorted(func(yield func(int64) bool) {
			for _, opened := range t.Opened {
				if !yield(opened.Unix()) {
					return
				}
			}
		})[maxOpened/2]
		for address, opened := range t.Opened {
			if opened.Unix() <= oldest {
				delete(t.Opened, address)
			}
		}
	}
	t.Opened[address] = at
}

// begin takes ADDRESS:PORT as CLIENTID (p2, c1, k60, u'IDENTITY').
func (t *tracker) begin(at time.Time, rest string, maybeCut bool) {
	address, rest, found := strings.Cut(rest, " as ")
	if !found {
		return
	}
	s := &session{Opened: t.Opened[address]}
	delete(t.Opened, address)
	key := ""
	if parts := connected.FindStringSubmatch(rest); parts != nil {
		s.ClientID, s.Identity = parts[1], parts[2]
		key = s.ClientID
	} else if maybeCut {
		s.ClientID, s.Cut = rest, true
		key = "\x00" + address
	} else {
		return
	}
	t.Last++
	s.Number, s.ConnectedAt, s.RemoteAddr = t.Last, at.UTC(), joinAddress(address)
	s.ID = fmt.Sprintf("%d-%s-%08x", at.Unix(), s.RemoteAddr, crc32.ChecksumIEEE([]byte(s.ClientID)))
	t.Live[key] = s
}

// end takes CLIENTID and what happened to it. Mosquitto 2.1 puts an address in
// brackets between the two.
func (t *tracker) end(rest string, maybeCut bool) {
	remove := func(id string) bool {
		if t.Live[id] == nil {
			i := strings.LastIndex(id, " [")
			if i < 0 || !strings.HasSuffix(id, "]") || t.Live[id[:i]] == nil {
				return false
			}
			id = id[:i]
		}
		delete(t.Live, id)
		return true
	}
	for _, ending := range endings {
		if id, ok := strings.CutSuffix(rest, ending); ok && remove(id) {
			return
		}
	}
	// CLIENTID disconnected: REASON.
	for i := strings.LastIndex(rest, " disconnected: "); i >= 0; i = strings.LastIndex(rest[:i], " disconnected: ") {
		if remove(rest[:i]) {
			return
		}
	}
	if !maybeCut {
		return
	}
	for _, s := range t.sorted() {
		if n := min(len(rest), len(s.ClientID)); s.Cut && n > 0 && rest[:n] == s.ClientID[:n] {
			for key, live := range t.Live {
				if live == s {
					delete(t.Live, key)
				}
			}
			return
		}
	}
}

// sorted returns the live sessions, oldest first.
func (t *tracker) sorted() []*session {
	all := make([]*session, 0, len(t.Live))
	for _, s := range t.Live {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int { return cmp.Compare(a.Number, b.Number) })
	return all
}

// joinAddress writes ADDRESS:PORT, where an IPv6 address has no brackets in the
// log, as usual.
func joinAddress(logged string) string {
	i := strings.LastIndex(logged, ":")
	if i < 0 {
		return logged
	}
	return net.JoinHostPort(logged[:i], logged[i+1:])
}
