package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const livePath = "/live"

// A watched page is made anew when something changed (enroll.Service.Watch), and
// seldom anyway: not all that pages show has an event, such as counts that are
// made in the background. After some time the browser comes again.
const (
	livePause    = 300 * time.Millisecond // between two looks at a page of one thing
	liveAllPause = time.Second            // at one that any change may be on
	liveAnyway   = 5 * time.Second
	liveHere     = 15 * time.Second // keeps what stands between from closing an idle connection
	liveFor      = 10 * time.Minute
	liveTimeout  = 10 * time.Second // for one write
)

// liveURL returns the URL of the stream of a page.
func liveURL(u *url.URL) string { return livePath + "?page=" + url.QueryEscape(u.RequestURI()) }

// getLive is the stream of a page.
func getLive(v *visit) (answer, error) {
	u, err := url.Parse(localPath(v.query("page")))
	if err != nil {
		return nil, ca.Errorf(ca.KindMalformed, "page", "watch a page of this site", "is no path")
	}
	return live{u}, nil
}

// A live answer is a page's stream of server-sent events.
type live struct{ page *url.URL }

func (l live) write(v *visit) error {
	watched, err := v.site.watched(v, l.page)
	if err != nil {
		return err
	}
	select {
	case v.site.watchers <- struct{}{}:
		defer func() { <-v.site.watchers }()
	default:
		return &enroll.Later{After: 30 * time.Second, Err: ca.Errorf(enroll.KindRateLimited, "", "load the page again by hand", "too many pages are being watched")}
	}
	ctx, cancel := context.WithTimeout(v.ctx(), liveFor)
	defer cancel()
	s := &liveStream{v: v, watched: watched, to: http.NewResponseController(v.w), pause: livePause}
	topic := watched.topic()
	if topic == allTopics {
		s.pause = liveAllPause
	}
	if s.changes, err = v.site.service.Watch(ctx, topic); err != nil {
		return err
	}
	v.w.Header().Set("Content-Type", "text/event-stream")
	v.w.WriteHeader(http.StatusOK)
	if err := s.run(ctx); err != nil && ctx.Err() == nil {
		v.site.log.WarnContext(v.ctx(), "live page ended", "path", l.page.Path, "error", err)
	}
	return nil
}

// watched returns a visit of the page that is to be watched, which must be open
// to the visitor and live.
func (s *Site) watched(v *visit, page *url.URL) (*visit, error) {
	path := page.EscapedPath()
	routing := chi.NewRouteContext()
	if !s.mux.Match(routing, http.MethodGet, path) {
		return nil, ca.Errorf(ca.KindNotFound, "page", "", "there is no such page")
	}
	rt := s.routes[get+" "+routing.RoutePattern()]
	if rt == nil || !rt.live {
		return nil, ca.Errorf(ca.KindNotFound, "page", "", "this page cannot be watched")
	}
	r := v.r.Clone(context.WithValue(v.ctx(), chi.RouteCtxKey, routing))
	r.URL = page
	return &visit{w: v.w, r: r, site: s, rt: rt, principal: v.principal, streamKey: uuid.NewString()}, nil
}

// allTopics stands for every change.
const allTopics = "*"

// plainID is an id that audit events have in their subject.
var plainID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// topic returns what changes are told of to who watches the page: of the one
// thing that it shows, where all that changes on it has an event about that.
func (v *visit) topic() string {
	if id := v.param("id"); v.rt.liveAbout != "" && plainID.MatchString(id) {
		return v.rt.liveAbout + ":" + id
	}
	return allTopics
}

// A liveStream sends a page's main part whenever it changed.
type liveStream struct {
	v       *visit
	watched *visit
	changes <-chan struct{} // holds a token when there may be something new
	pause   time.Duration   // between two looks
	to      *http.ResponseController
	last    [sha256.Size]byte
	sent    time.Time // when something was sent last
}

// run looks at the page until ctx ends or the session does.
func (s *liveStream) run(ctx context.Context) error {
	if err := s.send("retry: 2000\n\n"); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, more := <-s.changes: // the first comes at once
			if !more {
				return nil
			}
		case <-time.After(liveAnyway):
		}
		if err := s.look(); err != nil {
			return err
		}
		if time.Since(s.sent) > liveHere {
			if err := s.send(": here\n\n"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.pause): // what changes meanwhile is one token
		}
	}
}

var errSessionEnded = errors.New("the session has ended")

// look sends the main part if it is another than the last.
func (s *liveStream) look() error {
	p, err := s.v.site.visitor(s.v.r)
	if err != nil {
		return err
	}
	if p == nil || s.watched.rt.Permission != "" && !p.Role.May(s.watched.rt.Permission) {
		_ = s.send("event: ended\ndata: {}\n\n") // best effort: the stream ends here
		return errSessionEnded
	}
	s.watched.principal = *p
	a, err := s.watched.rt.handle(s.watched)
	if err != nil {
		return err
	}
	shown, ok := a.(page)
	if !ok {
		return fmt.Errorf("%s answers %T, which cannot be watched", s.watched.rt.Pattern, a)
	}
	main, err := shown.render(s.watched, "main")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(main)
	if sum == s.last {
		return nil
	}
	s.last = sum
	text, err := json.Marshal(string(bytes.TrimSpace(main)))
	if err != nil {
		return err
	}
	return s.send("data: " + string(text) + "\n\n")
}

// send writes an event at once.
func (s *liveStream) send(event string) error {
	if err := s.to.SetWriteDeadline(time.Now().Add(liveTimeout)); err != nil {
		return err
	}
	if _, err := s.v.w.Write([]byte(event)); err != nil {
		return err
	}
	s.sent = time.Now()
	return s.to.Flush()
}
