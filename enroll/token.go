package enroll

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// defaultAPITokenLife is how long an API token is valid unless it is said.
const defaultAPITokenLife = 30 * 24 * time.Hour

// newAPIToken returns a token with its secret in it.
func newAPIToken(now time.Time, name string, role Role, life time.Duration) *APIToken {
	t := &APIToken{ID: newID(), Name: name, Role: role, CreatedAt: now, ExpiresAt: now.Add(life)}
	t.Token, t.Hash = newSecret(apiTokenPrefix)
	return t
}

// created is the audit event of a token that was made.
func (t *APIToken) created(actor string) Event {
	detail := map[string]any{"name": t.Name, "role": t.Role, "expiresAt": t.ExpiresAt}
	if t.WorkOrder != "" {
		detail["workOrder"] = t.WorkOrder
	}
	return newEvent(t.CreatedAt, actor, "token.create", t.String(), detail)
}

// MintAPIToken makes an API token on the server's own machine; the secret is
// returned this once.
func (s *Service) MintAPIToken(ctx context.Context, actor, name string, role Role, lifetime time.Duration) (secret string, t *APIToken, err error) {
	if err := checkRole(role); err != nil {
		return "", nil, err
	}
	t = newAPIToken(s.now(), name, role, lifetime)
	secret, t.Token = t.Token, ""
	if err := s.store.CreateAPIToken(ctx, *t, Change{Event: t.created(actor)}); err != nil {
		return "", nil, err
	}
	return secret, t, nil
}

// NewAPIToken is what an API token is made with.
type NewAPIToken struct {
	Name      string `json:"name"` // what it is for
	Role      Role   `json:"role"`
	ExpiresIn string `json:"expiresIn,omitempty"` // a Go duration, such as 720h; that when missing
	WorkOrder string `json:"workOrder,omitempty"` // the one that a factory token may enroll for; any when missing
}

// CreateAPIToken makes an API token. Its secret is in the answer, this once.
// It belongs to nobody: it stays when the user who asked for it is disabled.
func (s *Service) CreateAPIToken(ctx context.Context, c Call, n NewAPIToken) (*APIToken, error) {
	if err := c.Principal.mayAdminister(); err != nil {
		return nil, err
	}
	life, err := n.check()
	if err != nil {
		return nil, err
	}
	keep, err := c.seal()
	if err != nil {
		return nil, err
	}
	t := newAPIToken(s.now(), n.Name, n.Role, life)
	t.WorkOrder = n.WorkOrder
	err = s.repeatable(ctx, c, "token.create", n, nil, func(i *Idempotency) error {
		if t.WorkOrder != "" {
			if _, err := s.profileFor(ctx, false, t.WorkOrder, ""); err != nil {
				return err
			}
		}
		if i != nil {
			answer, err := json.Marshal(t)
			if err != nil {
				return err
			}
			i.Answer = keep.close(answer)
		}
		return s.store.CreateAPIToken(ctx, *t, Change{Idempotency: i, Event: t.created(c.Principal.Name)})
	})
	if err != nil {
		return nil, keep.openReplay(err)
	}
	return t, nil
}

// check checks what a token is asked for, and returns how long it is to live.
func (n NewAPIToken) check() (time.Duration, error) {
	if err := checkText("name", n.Name, 128); err != nil {
		return 0, err
	}
	if err := checkRole(n.Role); err != nil {
		return 0, err
	}
	if n.WorkOrder != "" && n.Role != RoleFactory {
		return 0, ca.Errorf(ca.KindMalformed, "workOrder", "leave it out, or make the role factory", "binds tokens of the role factory alone")
	}
	if n.ExpiresIn == "" {
		return defaultAPITokenLife, nil
	}
	life, err := time.ParseDuration(n.ExpiresIn)
	if err != nil {
		return 0, ca.Errorf(ca.KindMalformed, "expiresIn", "write a duration such as 720h", "%.40q is not a duration", n.ExpiresIn)
	}
	if life <= 0 || life > maxTokenLife {
		return 0, ca.Errorf(ca.KindMalformed, "expiresIn", "let it expire within a year from now", "must lie ahead, by at most 366 days")
	}
	return life, nil
}

// APIToken returns an API token.
func (s *Service) APIToken(ctx context.Context, id string) (*APIToken, error) {
	return s.store.APIToken(ctx, id)
}

// APITokens lists API tokens, newest first.
func (s *Service) APITokens(ctx context.Context, p Page) ([]*APIToken, string, error) {
	return s.store.APITokens(ctx, p)
}

// RevokeAPIToken ends an API token. One that has ended stays so, and nothing
// changes.
func (s *Service) RevokeAPIToken(ctx context.Context, c Call, id string) (*APIToken, error) {
	if err := c.Principal.mayAdminister(); err != nil {
		return nil, err
	}
	return s.endAPIToken(ctx, c, id, "token.revoke")
}

func (s *Service) endAPIToken(ctx context.Context, c Call, id, action string) (*APIToken, error) {
	t, err := s.store.APIToken(ctx, id)
	if err != nil || t.Disabled {
		return t, err
	}
	err = s.store.DisableAPIToken(ctx, id, Change{Event: newEvent(s.now(), c.Principal.Name, action, t.String(), nil)})
	if err != nil && !isKind(err, KindConflict) { // a conflict: somebody did it meanwhile
		return nil, err
	}
	return s.store.APIToken(ctx, id)
}

// mayServe refuses a principal whose token is for another work order.
func (p Principal) mayServe(order string) error {
	if p.Token == nil || p.Token.WorkOrder == "" || p.Token.WorkOrder == order {
		return nil
	}
	return ca.Errorf(KindForbidden, "workOrder", "name that work order, or use another token", "the API token is for work order %s alone", p.Token.WorkOrder)
}

// How often uses of tokens are written: a token's at most once a minute, all
// of them together.
const (
	tokenUseEvery  = time.Minute
	tokenUseFlush  = 15 * time.Second
	tokenUseWindow = 10 * time.Second // for one write
)

// tokenUses are the uses of tokens that are not written yet. It is safe for
// concurrent use.
type tokenUses struct {
	mu   sync.Mutex
	seen map[string]time.Time // by token ID
}

// note remembers a use, unless one within the minute is stored.
func (u *tokenUses) note(t *APIToken, now time.Time) {
	if t.LastUsedAt != nil && now.Sub(*t.LastUsedAt) < tokenUseEvery {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil {
		u.seen = map[string]time.Time{}
	}
	u.seen[t.ID] = now
}

// take returns what was seen, and forgets it.
func (u *tokenUses) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// SaveTokenUses writes when tokens were last used. What cannot be written is
// dropped: the next use tells again.
func (s *Service) SaveTokenUses(ctx context.Context) error {
	uses := s.uses.take()
	if len(uses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenUseWindow)
	defer cancel()
	return s.store.SaveTokenUses(ctx, uses)
}

// KeepTokenUses writes when tokens were last used, beside the requests, until
// ctx ends.
func (s *Service) KeepTokenUses(ctx context.Context) {
	s.keep(ctx, tokenUseFlush, "keep when tokens were last used", s.SaveTokenUses)
}
