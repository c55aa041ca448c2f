package mosquitto

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const stamp = "2026-01-02T03:04:05+0100: "

// logged makes a log of lines without their time.
func logged(lines ...string) *tracker {
	t := newTracker()
	for _, line := range lines {
		t.line(stamp + line)
	}
	return t
}

func (t *tracker) clients() []string {
	clients := []string{}
	for _, s := range t.sorted() {
		clients = append(clients, s.Identity+"/"+s.ClientID)
	}
	return clients
}

// Each way for a session to end, as Mosquitto 2.0.11 words it; and the way of
// 2.1, with an address.
func TestEndings(t *testing.T) {
	t.Parallel()
	all := append(slices.Clone(endings), " disconnected: Connection reset by peer.", " [127.0.0.1:2] disconnected.", " [127.0.0.1:2] disconnected: keepalive timeout.")
	for _, ending := range all {
		for _, id := range []string{"a", "a b", "a disconnected.", "a disconnected: x", "a [::1:5]"} {
			tracker := logged(
				"New client connected from 127.0.0.1:1 as other (p2, c1, k60, u'o').",
				"New client connected from 127.0.0.1:2 as "+id+" (p5, c0, k0, u'i').",
				"Client <unknown>"+ending,
				"Client not this one"+ending,
			)
			if got := tracker.clients(); !slices.Equal(got, []string{"o/other", "i/" + id}) {
				t.Fatalf("%q: %q", id, got)
			}
			tracker.line(stamp + "Client " + id + ending)
			if got := tracker.clients(); !slices.Equal(got, []string{"o/other"}) {
				t.Errorf("%q with %q: %q", id, ending, got)
			}
		}
	}
}

// What is not a session is none, and a start or an end of Mosquitto ends all.
func TestLines(t *testing.T) {
	t.Parallel()
	session := "New client connected from ::1:4242 as a (p2, c1, k60, u'i')."
	tracker := logged(session,
		"New client connected from 127.0.0.1:1 as without a name (p2, c1, k60).",
		"New client connected from 127.0.0.1:1", "New client connected from ", "Client ", "Client  [", "", "New connection from ",
		"Received DISCONNECT from a", "Sending CONNACK to a (0, 0)", "Expiring client a due to timeout.",
		"Client a connected with too large Will payload",
	)
	for _, line := range []string{"", ": ", session, "1700000000: " + session, "New client", stamp} {
		tracker.line(line)
	}
	if got := tracker.sorted(); len(got) != 1 || got[0].RemoteAddr != "[::1]:4242" || got[0].ConnectedAt.String() != "2026-01-02 02:04:05 +0000 UTC" {
		t.Fatalf("%+v", tracker.clients())
	}
	if tracker.Whole {
		t.Error("nobody saw the start")
	}
	for _, end := range []string{"mosquitto version 2.0.11 terminating", "mosquitto version 2.0.11 starting"} {
		tracker := logged("New connection from 127.0.0.1:1 on port 8883.", session)
		tracker.line(stamp + end)
		if len(tracker.Live)+len(tracker.Opened) != 0 || !tracker.Whole {
			t.Errorf("%s: %v %v", end, tracker.clients(), tracker.Opened)
		}
	}
	tracker = logged("Error: old", "Reloading config.", "Error: new")
	if tracker.reloads != 1 || !slices.Equal(tracker.complaints, []string{"Error: new"}) {
		t.Errorf("%d %q", tracker.reloads, tracker.complaints)
	}
}

// Connections that never send CONNECT do not fill the memory.
func TestOpenedIsBounded(t *testing.T) {
	t.Parallel()
	tracker := newTracker()
	for i := range 3 * maxOpened {
		tracker.line(fmt.Sprintf("2026-01-02T%02d:%02d:%02d+0000: New connection from 10.0.0.1:%d on port 8883.", i/3600, i/60%60, i%60, i))
	}
	if n := len(tracker.Opened); n > maxOpened {
		t.Errorf("%d are remembered", n)
	}
	if _, ok := tracker.Opened[fmt.Sprintf("10.0.0.1:%d", 3*maxOpened-1)]; !ok {
		t.Error("the newest is forgotten")
	}
}

// Whatever a client calls itself: its session begins and ends, and no other.
func FuzzClientID(f *testing.F) {
	for _, id := range []string{"a", "x (p2, c1, k60, u'victim').", "victim", "victim disconnected.", " as victim", "victim [1]", strings.Repeat("z", 1200)} {
		f.Add(id, byte(0))
	}
	f.Fuzz(func(t *testing.T, id string, how byte) {
		if id == "" || id == "victim" || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Skip()
		}
		cut := func(line string) string { return line[:min(len(line), 999)] }
		tracker := logged("New client connected from 127.0.0.1:1 as victim (p2, c1, k60, u'v').")
		tracker.line(cut(stamp + "New client connected from 127.0.0.1:2 as " + id + " (p2, c1, k60, u'i')."))
		all := tracker.sorted()
		if len(all) != 2 || all[0].Identity != "v" || all[1].Identity != "i" && !all[1].Cut {
			t.Fatalf("begun: %+v", tracker.clients())
		}
		tracker.line(cut(stamp + "Client " + id + endings[int(how)%len(endings)]))
		if all := tracker.sorted(); len(all) != 1 || all[0].Identity != "v" {
			t.Fatalf("ended: %+v", tracker.clients())
		}
	})
}
