package mosquitto

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// Sessions begin and end in the list, with what is known of them, however they
// end, and whatever a client calls itself.
func TestSessions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one, two := s.clients.Device("one"), s.clients.Device("two")
	polite, _ := s.mustPaho(one, "polite")
	rude := s.mustConnect(one, "rude")
	broken := s.mustConnect(one, "broken")
	taken := s.mustConnect(two, "taken")
	s.mustConnect(one, "polite disconnected. ")
	s.mustConnect(two, "x (p2, c1, k60, u'one').")
	want := []string{"one/broken", "one/polite", "one/polite disconnected. ", "one/rude", "two/taken", "two/x (p2, c1, k60, u'one')."}
	s.wantList(want...)
	sessions, err := s.Sessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first := sessions[0]; first.ClientID != "polite" || !strings.HasPrefix(first.RemoteAddr, "127.0.0.1:") || first.ID == "" ||
		time.Since(first.ConnectedAt) > time.Minute || first.SerialNumber != "" {
		t.Errorf("%+v", first)
	}
	polite.Disconnect(0)
	rude.Close()
	if _, err := broken.Write([]byte("\xff\xff\xff\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	s.mustConnect(one, "taken") // another's identifier: Mosquitto allows it
	s.wantList("one/polite disconnected. ", "one/taken", "two/x (p2, c1, k60, u'one').")
	taken.Close()
	if closed, err := s.Disconnect(t.Context(), "two"); closed != 1 || err != nil {
		t.Errorf("closed %d: %v", closed, err)
	}
	s.wantList("one/polite disconnected. ", "one/taken")
}

// mustConnect is a client without a library.
func (s *site) mustConnect(certificate tls.Certificate, clientID string) *tls.Conn {
	s.t.Helper()
	conn := s.handshaken(certificate)
	if err := s.connect(conn, 4, clientID); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

func (s *site) handshaken(certificate tls.Certificate) *tls.Conn {
	s.t.Helper()
	conn, err := tls.Dial("tcp", s.address, s.tls(certificate))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// connect sends CONNECT of MQTT 3.1.1 (4) or 5.
func (s *site) connect(conn *tls.Conn, version byte, clientID string) error {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', version, 2, 0, 60}
	if version == 5 {
		body = append(body, 0) // no properties
	}
	answer, err := exchange(conn, bufio.NewReader(conn), packetConnect, appendString(body, clientID), packetConnack)
	if err == nil && answer[1] != 0 {
		err = fmt.Errorf("CONNACK %x", answer)
	}
	return err
}

// ended reads until the connection is closed, and returns what was read.
func ended(t *testing.T, conn *tls.Conn) []byte {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	data, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the session lives on")
	}
	return data
}

// A client identifier that is too long for the log hides nobody: the session is
// listed without an identity, and closed with the others.
func TestLongClientID(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	long := strings.Repeat("z", 3000)
	mine := s.handshaken(s.clients.Device("d"))
	if err := s.connect(mine, 5, long); err != nil {
		t.Fatal(err)
	}
	other := s.mustConnect(s.clients.Device("other"), "a"+long)
	eventually(t, "listed", func() bool { return len(s.list()) == 2 && strings.HasPrefix(s.list()[0], "/azz") })
	if closed, err := s.Disconnect(t.Context(), "d"); closed != 1 || err != nil {
		t.Errorf("closed %d: %v", closed, err)
	}
	if last := ended(t, mine); !bytes.Equal(last, []byte{0xe0, 1, 0x98}) {
		t.Errorf("the last of MQTT 5 is % x", last)
	}
	eventually(t, "gone", func() bool { return len(s.list()) == 1 })
	other.Close()
	s.wantList()
}

// A client that finished its handshake before it was revoked, and sends CONNECT
// after its sessions were closed, is closed again, also by a driver that was
// opened since.
func TestLateConnect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	device := s.clients.Device("d")
	late, later, hidden := s.handshaken(device), s.handshaken(device), s.handshaken(device)
	s.revoke(device)
	if _, err := s.Disconnect(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	if err := s.connect(late, 4, "late"); err != nil {
		t.Fatal("Mosquitto refuses, there is nothing to close:", err)
	}
	ended(t, late)
	s.Close()
	s.open()
	if err := s.connect(later, 4, "later"); err != nil {
		t.Fatal(err)
	}
	if err := s.connect(hidden, 4, strings.Repeat("z", 3000)); err != nil {
		t.Fatal(err)
	}
	ended(t, later)
	ended(t, hidden)
	s.wantList()
	time.Sleep(time.Second) // a connection from after the second of the closing
	fresh := s.mustConnect(s.clients.Device("d"), "fresh")
	time.Sleep(2 * watchPause)
	s.wantList("d/fresh")
	fresh.Close()
}

// The log is renamed, by the driver, by somebody else, with and without the
// driver there, and truncated; Mosquitto is restarted. The list stays true.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	device := s.clients.Device("d")
	log := filepath.Join(s.dir, logFile)
	first := s.mustConnect(device, "first")
	s.wantList("d/first")
	ids := s.ids()
	rename := func(to string) {
		t.Helper()
		if err := os.Rename(log, log+to); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() {
		t.Helper()
		if err := s.command.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond)
	}
	rename(".1")
	second := s.mustConnect(device, "second") // still in the old file
	s.wantList("d/first", "d/second")
	reopen()
	s.wantList("d/first", "d/second") // there may be no new file yet
	third := s.mustConnect(device, "third")
	s.wantList("d/first", "d/second", "d/third")
	if now := s.ids(); !slices.Equal(now[:1], ids) {
		t.Errorf("%v became %v", ids, now)
	}

	s.Close()
	first.Close()
	rename(".2")
	second.Close()
	reopen()
	third.Close()
	s.mustConnect(device, "fourth")
	s.open()
	s.wantList("d/fourth")

	data, err := os.ReadFile(filepath.Join(s.dir, ".sessions.json"))
	var kept notes
	if err != nil || json.Unmarshal(data, &kept) != nil || !kept.Known.sound() {
		t.Errorf("notes: %v %s", err, data)
	}
	if err := os.Truncate(log, 0); err != nil {
		t.Fatal(err)
	}
	s.mustConnect(device, "fifth")
	s.wantList("d/fifth", "d/fourth")
	if _, whole := s.Driver.log.sessions(); whole {
		t.Error("nobody knows what was cut off")
	}
	if closed, err := s.Disconnect(t.Context(), "d"); closed != 2 || err != nil {
		t.Errorf("closed %d: %v", closed, err)
	}

	s.mustConnect(device, "sixth")
	s.end(syscall.SIGTERM)
	s.wantList()
	s.start()
	s.mustConnect(device, "seventh")
	s.wantList("d/seventh")
	s.kill()
	s.start()
	s.wantList()
}

// A log that has grown large is renamed at a reload, and followed.
func TestLargeLog(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	device := s.clients.Device("d")
	s.mustConnect(device, "before")
	s.wantList("d/before")
	file, err := os.OpenFile(filepath.Join(s.dir, logFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	filler := strings.Repeat(strings.Repeat("x", 99)+"\n", maxLog/100)
	if _, err := file.WriteString(filler); err != nil {
		t.Fatal(err)
	}
	file.Close()
	s.revoke()
	s.mustConnect(device, "after")
	s.wantList("d/after", "d/before")
	info, err := os.Stat(filepath.Join(s.dir, logFile))
	if err != nil || info.Size() > 10_000 {
		t.Errorf("the log has %d bytes: %v", info.Size(), err)
	}
	s.Close()
	s.open()
	s.wantList("d/after", "d/before")
}

// Without a certificate, and with one that Mosquitto refuses, the error says so.
func TestNoControl(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustConnect(s.clients.Device("d"), "d")
	good := s.control.Load()
	s.setControl(s.clients.Device("somebody"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Disconnect(ctx, "d"); err == nil {
		t.Error("anybody may close sessions")
	}
	s.setControl(*good)
	s.revoke(*good)
	if _, err := s.Disconnect(t.Context(), "d"); err == nil || !strings.Contains(err.Error(), "revoked certificate") {
		t.Errorf("revoked: %v", err)
	}
	s.Close()
	d, err := Open(s.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Disconnect(t.Context(), "d"); err == nil || !strings.Contains(err.Error(), "without a certificate") {
		t.Errorf("none: %v", err)
	}
	if !slices.Contains(s.list(), "d/d") {
		t.Error("closed all the same")
	}
}

// The verifier passes with a canary's topic, and with its own below
// fleetca/verify/ when it has the name of the client.
func TestVerify(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, topic := range []string{"devices/fleetca-canary/x", mqtts.TopicPrefix + "me"} {
		target := mqtts.Target{
			URL: "mqtts://" + s.address, ServerName: "localhost", Roots: certificates(s.servers), Certificate: s.control.Load(),
			ClientID: "me", Topic: topic,
		}
		if report := mqtts.Verify(t.Context(), target); report.Verdict != mqtts.VerdictPass {
			t.Errorf("%s: %+v", topic, report.Diagnosis)
		}
	}
}
