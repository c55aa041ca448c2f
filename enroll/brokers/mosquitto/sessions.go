package mosquitto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

const (
	closeTimeout = 10 * time.Second // until the log tells that sessions have ended
	watchPause   = time.Second      // between two looks at the log by the driver itself
	watchRetry   = 15 * time.Second // of a session that the driver could not close
)

// Sessions implements [brokers.Driver]: what the log tells; see the package's
// documentation for what it does not. There are none when Mosquitto does not run.
func (d *Driver) Sessions(ctx context.Context) ([]brokers.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.process(ctx); errors.Is(err, errStopped) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	if err := d.log.read(); err != nil {
		return nil, fmt.Errorf("list sessions: %w", d.logError(err))
	}
	live, _ := d.log.sessions()
	sessions := make([]brokers.Session, len(live))
	for i, s := range live {
		sessions[i] = s.Session
	}
	return sessions, nil
}

// Disconnect implements [brokers.Driver]. Sessions whose identity the log does
// not tell are closed, too, when they are of this one, and counted when they
// ended. A connection of the identity that sends CONNECT later is closed by the
// driver in the background, as is what an order that failed left open.
func (d *Driver) Disconnect(ctx context.Context, identity string) (int, error) {
	closed, err := d.disconnect(ctx, identity)
	if err != nil {
		return closed, fmt.Errorf("close the sessions of %q: %w", identity, err)
	}
	return closed, nil
}

func (d *Driver) disconnect(ctx context.Context, identity string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if identity == "" {
		return 0, errors.New("no identity")
	}
	if _, err := d.process(ctx); errors.Is(err, errStopped) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	if err := d.closed.add(identity, time.Now(), d.log.begun()); err != nil {
		return 0, err
	}
	if err := d.log.read(); err != nil {
		return 0, d.logError(err)
	}
	live, whole := d.log.sessions()
	unknown := slices.DeleteFunc(slices.Clone(live), func(s session) bool { return !s.Cut })
	known := slices.DeleteFunc(live, func(s session) bool { return s.Identity != identity })
	if len(known)+len(unknown) == 0 && whole {
		return 0, nil
	}
	limited, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := d.kick(limited, identity); err != nil {
		return 0, err
	}
	left, err := d.untilGone(limited, known)
	if err != nil {
		return len(known) - left, err
	}
	stay, err := d.remaining(unknown)
	return len(known) + len(unknown) - stay, err
}

// untilGone waits until the log tells that these sessions have ended, and
// returns how many have not.
func (d *Driver) untilGone(ctx context.Context, sessions []session) (int, error) {
	for {
		left, err := d.remaining(sessions)
		if err != nil || left == 0 {
			return left, err
		}
		if err := pause(ctx, poll); err != nil {
			return left, fmt.Errorf("%d have not ended: %w", left, err)
		}
	}
}

// remaining returns how many of these sessions are live.
func (d *Driver) remaining(sessions []session) (int, error) {
	if err := d.log.read(); err != nil {
		return len(sessions), d.logError(err)
	}
	live, _ := d.log.sessions()
	left := 0
	for _, s := range sessions {
		if slices.ContainsFunc(live, func(l session) bool { return l.ID == s.ID }) {
			left++
		}
	}
	return left, nil
}

// watch reads the log until the driver is closed, and closes sessions of closed
// identities whose TCP connection is from before the closing.
func (d *Driver) watch(ctx context.Context) {
	tried := map[string]time.Time{} // sessions, when
	for pause(ctx, watchPause) == nil {
		if err := d.log.read(); err != nil {
			continue // said by the next call of a method
		}
		live, _ := d.log.sessions()
		still := map[string]time.Time{}
		for _, s := range live {
			late := d.closed.late(s)
			if len(late) == 0 {
				continue
			}
			last, again := tried[s.ID]
			if again && (s.Cut || time.Since(last) < watchRetry) {
				still[s.ID] = last
				continue
			}
			still[s.ID] = time.Now()
			for _, identity := range late {
				d.closeLate(ctx, identity, s)
			}
		}
		tried = still
	}
}

func (d *Driver) closeLate(ctx context.Context, identity string, s session) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := d.kick(ctx, identity); err != nil {
		d.options.Log.WarnContext(ctx, "a session of a device whose sessions were to be closed lives on",
			"broker", d.settings.ID, "device", identity, "clientId", s.ClientID, "error", err)
		return
	}
	d.options.Log.InfoContext(ctx, "closed a session that began late, or was left open",
		"broker", d.settings.ID, "device", identity, "clientId", s.ClientID)
}

// closings are the identities whose sessions were closed while this Mosquitto
// ran, and when. They are kept on disk.
type closings struct {
	path string
	mu   sync.Mutex
	at   map[string]time.Time
}

func openClosings(path string) (*closings, error) {
	c := &closings{path: path, at: map[string]time.Time{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &c.at); err != nil || c.at == nil {
		return nil, fmt.Errorf("read %s: it is damaged: remove it", path)
	}
	return c, nil
}

// add notes an identity down. Those from before the start of Mosquitto are
// dropped: it has no connections from then.
func (c *closings) add(identity string, at, begun time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for old, when := range c.at {
		if when.Before(begun) {
			delete(c.at, old)
		}
	}
	c.at[identity] = at.UTC().Truncate(time.Second) // as exact as the log
	data, err := json.Marshal(c.at)
	if err != nil {
		return err
	}
	return brokers.WriteFile(c.path, data, 0o600)
}

// late returns the closed identities that a session may be of, if its connection
// is not younger than the closing.
func (c *closings) late(s session) []string {
	opened := s.Opened
	if opened.IsZero() {
		opened = s.ConnectedAt
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.Cut {
		if at, ok := c.at[s.Identity]; ok && !opened.After(at) {
			return []string{s.Identity}
		}
		return nil
	}
	var all []string
	for identity, at := range c.at {
		if !opened.After(at) {
			all = append(all, identity)
		}
	}
	return all
}
