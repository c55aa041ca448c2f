package embedded

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strconv"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// sessions are the connections that passed the handshake, and which of them
// hold which client identifier.
type sessions struct {
	prefix string // of session identifiers; no two brokers, and no two runs, have the same

	mu      sync.Mutex
	last    uint64
	known   map[*conn]*session
	holders map[string]*session // by client identifier
}

// A session begins when a connection is known and becomes live with CONNECT.
type session struct {
	number uint64
	conn   *conn
	done   chan struct{} // closed when the connection is gone

	// Guarded by sessions.mu.
	live      bool
	client    *mqtt.Client
	clientID  string
	connected time.Time
}

// A knownSession is a session as of some moment.
type knownSession struct {
	conn *conn
	done <-chan struct{}
	live bool
}

func newSessions() *sessions {
	return &sessions{prefix: rand.Text()[:12], known: map[*conn]*session{}, holders: map[string]*session{}}
}

// add gives a connection its session identifier.
func (s *sessions) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	c.id = s.prefix + "-" + strconv.FormatUint(s.last, 10)
	s.known[c] = &session{number: s.last, conn: c, done: make(chan struct{})}
}

// claim gives a client identifier to a connection, unless one of another
// identity holds it, or a session without a connection is kept for one. Between
// two of the same identity, the later one wins.
func (s *sessions) claim(c *conn, client *mqtt.Client, keptFor func(clientID string) (identity string, ok bool)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.known[c]
	if holder := s.holders[client.ID]; holder != nil && holder.conn.identity != c.identity {
		return false
	}
	if identity, ok := keptFor(client.ID); ok && identity != c.identity {
		return false
	}
	s.holders[client.ID] = session
	session.client, session.clientID = client, client.ID
	return true
}

// begin makes a session live.
func (s *sessions) begin(c *conn, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[c].live, s.known[c].connected = true, now
}

// remove forgets a connection.
func (s *sessions) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.known[c]
	delete(s.known, c)
	if session.client != nil && s.holders[session.clientID] == session {
		delete(s.holders, session.clientID)
	}
	close(session.done)
}

// client returns the MQTT client of a live session, or nil.
func (s *sessions) client(c *conn) *mqtt.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session := s.known[c]; session != nil && session.live {
		return session.client
	}
	return nil
}

// of returns the connections of an identity, live or not yet.
func (s *sessions) of(identity string) []knownSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []knownSession
	for c, session := range s.known {
		if c.identity == identity {
			found = append(found, knownSession{c, session.done, session.live})
		}
	}
	return found
}

// all returns every connection.
func (s *sessions) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([]*conn, 0, len(s.known))
	for c := range s.known {
		found = append(found, c)
	}
	return found
}

// list returns the live sessions, oldest first.
func (s *sessions) list() []brokers.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var live []*session
	for _, session := range s.known {
		if session.live {
			live = append(live, session)
		}
	}
	slices.SortFunc(live, func(a, b *session) int { return cmp.Compare(a.number, b.number) })
	found := make([]brokers.Session, len(live))
	for i, session := range live {
		found[i] = brokers.Session{
			ID:           session.conn.id,
			ClientID:     session.clientID,
			Identity:     session.conn.identity,
			SerialNumber: session.conn.serial,
			RemoteAddr:   session.conn.raw.RemoteAddr().String(),
			ConnectedAt:  session.connected,
		}
	}
	return found
}
