package enroll

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// Limits of sessions unless Config says otherwise.
const (
	DefaultSessionIdle = 30 * time.Minute
	DefaultSessionLife = 12 * time.Hour
)

// A Session is a person signed in to the dashboard. Only the SHA-256 of its
// secret is stored.
type Session struct {
	ID           string    `json:"id"`
	Secret       string    `json:"-"` // for the cookie; known once, at sign-in
	Hash         []byte    `json:"-"`
	User         string    `json:"user"`
	Role         Role      `json:"role"`         // of the user, as of now
	Address      string    `json:"address"`      // it was made from; empty when unknown
	Agent        string    `json:"agent"`        // User-Agent it was made with, cut short
	SecondFactor bool      `json:"secondFactor"` // a code was given
	CreatedAt    time.Time `json:"createdAt"`
	SeenAt       time.Time `json:"seenAt"`    // last request, to the minute
	ExpiresAt    time.Time `json:"expiresAt"` // at the latest; sooner when it is idle
	// MustEnrollSecondFactor says that the user's role asks for a second factor
	// that the user has not set up: the session may do that, and nothing else.
	MustEnrollSecondFactor bool `json:"-"`
}

// String names the session, without its secret.
func (s Session) String() string { return "session:" + s.ID }

// GoString is String.
func (s Session) GoString() string { return s.String() }

// LogValue returns what may be logged of the session.
func (s Session) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", s.ID), slog.String("user", s.User))
}

const sessionPrefix = "fcs_"

// maxAgent is how many characters of a User-Agent are kept.
const maxAgent = 200

// SignIn makes a session of the dashboard for a user who gives the right
// password, and the right code where the user has a second factor:
// KindSecondFactor when the code is missing. Attempts are limited as with
// Login. Every call makes another session.
func (s *Service) SignIn(ctx context.Context, r LoginRequest, from, agent string) (*Session, error) {
	return attemptLogin(ctx, s, r, from, func(a *acceptedLogin) (*Session, error) {
		now := s.now()
		session := &Session{
			ID: newID(), User: a.user.Name, Role: a.user.Role, Address: from, Agent: cut(strings.ToValidUTF8(agent, "?"), maxAgent),
			SecondFactor: a.user.SecondFactor != "", CreatedAt: now, SeenAt: now, ExpiresAt: now.Add(s.cfg.SessionLife),
			MustEnrollSecondFactor: s.lacksSecondFactor(a.user),
		}
		session.Secret, session.Hash = newSecret(sessionPrefix)
		a.login.Session = session
		return session, s.storeLogin(ctx, a, "user.sign-in", map[string]any{"session": session.ID, "address": from, "expiresAt": session.ExpiresAt})
	})
}

// cut returns at most n characters of text.
func cut(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n])
	}
	return text
}

// AuthenticateSession returns the principal of a session's secret: of a user
// who is not disabled, within the session's limits.
func (s *Service) AuthenticateSession(ctx context.Context, secret string) (*Principal, error) {
	ended := ca.Errorf(KindUnauthenticated, "", "sign in", "the session has ended")
	if !strings.HasPrefix(secret, sessionPrefix) {
		return nil, ended
	}
	session, user, err := s.store.SessionByHash(ctx, hashSecret(secret))
	if isKind(err, ca.KindNotFound) {
		return nil, ended
	}
	if err != nil {
		return nil, err
	}
	now, seen := s.now(), s.sessions.seenAt(session)
	if user.Disabled || !now.Before(session.ExpiresAt) || !now.Before(seen.Add(s.cfg.SessionIdle)) {
		return nil, ended
	}
	session.MustEnrollSecondFactor = s.lacksSecondFactor(user)
	seal := sha256.Sum256([]byte("fleetca seal " + secret))
	return &Principal{Name: "user:" + user.Name, Role: user.Role, Session: session, Seal: seal[:]}, nil
}

// TouchSession notes that a session was used, so that it does not end for
// being idle. Requests that a page makes by itself are no use.
func (s *Service) TouchSession(ctx context.Context, session *Session) error {
	now := s.now()
	if !s.sessions.note(session, now) {
		return nil
	}
	return s.store.TouchSession(ctx, session.ID, now)
}

// RequiresSecondFactor reports whether users of a role must have a second factor.
func (s *Service) RequiresSecondFactor(role Role) bool {
	return slices.Contains(s.cfg.RequireSecondFactor, role)
}

// lacksSecondFactor reports whether the user has to set one up.
func (s *Service) lacksSecondFactor(u *User) bool {
	return u.SecondFactor == "" && s.RequiresSecondFactor(u.Role)
}

// SignOut ends the session that the call was made in.
func (s *Service) SignOut(ctx context.Context, c Call) error {
	if c.Principal.Session == nil {
		return ca.Errorf(KindForbidden, "", "sign in", "there is no session to end")
	}
	return s.endSession(ctx, c, c.Principal.Session, "user.sign-out")
}

// Sessions lists a user's sessions that have not expired, newest first; all
// users' when user is empty. An admin sees everybody's, others their own.
func (s *Service) Sessions(ctx context.Context, c Call, user string, p Page) ([]*Session, string, error) {
	if c.Principal.Name != "user:"+user || user == "" {
		if err := c.Principal.mayAdminister(); err != nil {
			return nil, "", err
		}
	}
	return s.store.Sessions(ctx, user, s.now(), p)
}

// EndSession ends a session: the caller's own, or anybody's for an admin. One
// that has ended is KindNotFound.
func (s *Service) EndSession(ctx context.Context, c Call, id string) error {
	session, err := s.store.Session(ctx, id)
	if err != nil {
		return err
	}
	if c.Principal.Name != "user:"+session.User {
		if err := c.Principal.mayAdminister(); err != nil {
			return err
		}
	}
	return s.endSession(ctx, c, session, "session.end")
}

func (s *Service) endSession(ctx context.Context, c Call, session *Session, action string) error {
	return s.store.EndSession(ctx, session.ID, Change{
		Event: newEvent(s.now(), c.Principal.Name, action, "user:"+session.User, map[string]any{"session": session.ID})})
}

// sessionUses remember when sessions were last used here, so that most
// requests write nothing. It is safe for concurrent use.
type sessionUses struct {
	mu   sync.Mutex
	seen map[string]time.Time // by session ID
}

// Sessions that are remembered, and how exact the store is.
const (
	maxSessionUses  = 4096
	sessionUseEvery = time.Minute
)

// seenAt returns when the session was last used, as far as is known here.
func (u *sessionUses) seenAt(session *Session) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if seen := u.seen[session.ID]; seen.After(session.SeenAt) {
		return seen
	}
	return session.SeenAt
}

// note remembers a use, and reports whether it is to be stored: when what the
// store had, as read with the session, is too old.
func (u *sessionUses) note(session *Session, now time.Time) (store bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil || len(u.seen) >= maxSessionUses {
		u.seen = map[string]time.Time{} // what is forgotten is in the store, to the minute
	}
	u.seen[session.ID] = now
	return now.Sub(session.SeenAt) >= sessionUseEvery
}
