package web

import (
	"bytes"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/enroll"
)

// An answer is what a handler returns; it is rendered whole before a byte of
// it is written.
type answer interface {
	write(v *visit) error
}

// A page is a template with its data.
type page struct {
	name   string // of the template's file, without .html
	title  string
	data   any
	status int // 200 when zero
}

// A redirect sends the visitor on, after a form was taken.
type redirect struct{ to string }

// A download is a file that is kept, whole in memory.
type download struct {
	name      string // suggested; empty to show it
	mediaType string
	body      []byte
}

// A stream is a file that is written as it is made.
type stream struct {
	name      string
	mediaType string
	copy      func(w io.Writer) error
}

// A layout is what every page has around it.
type layout struct {
	Title     string
	Page      any // the page's own struct
	Principal enroll.Principal
	Nav       []navItem
	Path      string // of the request
	Note      string // of what was just done
	Live      string // URL of the page's stream; empty for none
	Now       time.Time
	RequestID string

	streamKey string // empty when the page is not watched
}

// May reports whether the visitor has a permission.
func (l layout) May(p string) bool { return l.Principal.Role.May(enroll.Permission(p)) }

// User returns the name of the user who is signed in; empty for nobody.
func (l layout) User() string { return strings.TrimPrefix(l.Principal.Name, "user:") }

// Key returns what makes a form that is sent twice take effect once. It is the
// same for all that one stream sends: a page whose forms alone differ has not
// changed.
func (l layout) Key() string {
	if l.streamKey != "" {
		return l.streamKey
	}
	return uuid.NewString()
}

// KeyFor is Key for a form of a page that is watched: the same for as long as
// what the form is about is the same.
func (l layout) KeyFor(about ...string) string {
	parts := append([]string{l.Principal.Session.ID}, about...)
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(strings.Join(parts, "\x00"))).String()
}

// A navItem is an entry of the navigation.
type navItem struct {
	Name, Path string
	Permission enroll.Permission
	Key        string // pressed after g
	Also       string // path that is reached from this one; empty for none
	Here       bool
}

// leadsTo reports whether a page belongs to the section.
func (i navItem) leadsTo(path string) bool {
	for _, base := range []string{i.Path, i.Also} {
		if path == base || len(base) > 1 && strings.HasPrefix(path, base+"/") {
			return true
		}
	}
	return false
}

// navigation lists the sections.
var navigation = []navItem{
	{Name: "Now", Path: "/", Permission: enroll.MayLook, Key: "n"},
	{Name: "Devices", Path: "/devices", Permission: enroll.MayLook, Key: "d"},
	{Name: "Revocations", Path: "/revocations", Permission: enroll.MayLook, Key: "r"},
	{Name: "Brokers", Path: "/brokers", Permission: enroll.MayLook, Key: "b", Also: "/rotations"},
	{Name: "Orders", Path: "/work-orders", Permission: enroll.MaySeeOrders, Key: "w"},
	{Name: "Authority", Path: "/authority", Permission: enroll.MayLook, Key: "c"},
	{Name: "Audit", Path: "/audit", Permission: enroll.MayAudit, Key: "a"},
	{Name: "Access", Path: "/access", Permission: enroll.MayAdminister, Key: "u"},
}

// layoutOf returns what stands around a page of this visit.
func (v *visit) layoutOf(title string, data any) layout {
	l := layout{Title: title, Page: data, Principal: v.principal, Path: v.r.URL.Path, Note: notes[v.query("note")],
		Now: v.site.now().UTC(), RequestID: v.w.Header().Get("X-Request-Id"), streamKey: v.streamKey}
	if v.rt != nil && v.rt.live {
		l.Live = liveURL(v.r.URL)
	}
	if v.principal.Session == nil || v.principal.Session.MustEnrollSecondFactor {
		return l
	}
	for _, item := range navigation {
		if v.may(item.Permission) {
			item.Here = item.leadsTo(l.Path)
			l.Nav = append(l.Nav, item)
		}
	}
	return l
}

// A parsed page is its templates.
type parsed struct{ *template.Template }

// parsePages parses every page with the parts that pages share.
func parsePages(s *Site) map[string]*parsed {
	shared := template.Must(template.New("").Funcs(s.functions()).ParseFS(files, "templates/shared/*.html"))
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err)
	}
	pages := map[string]*parsed{}
	for _, name := range names {
		t := template.Must(template.Must(shared.Clone()).ParseFS(files, name))
		pages[strings.TrimSuffix(path.Base(name), ".html")] = &parsed{t}
	}
	return pages
}

// render returns one of a page's templates as text: "page", or "main" for the
// part that changes while it is watched.
func (p page) render(v *visit, part string) ([]byte, error) {
	t, ok := v.site.pages[p.name]
	if !ok {
		return nil, fmt.Errorf("there is no page %q", p.name)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, part, v.layoutOf(p.title, p.data)); err != nil {
		return nil, fmt.Errorf("render page %s: %w", p.name, err)
	}
	return b.Bytes(), nil
}

func (p page) write(v *visit) error {
	body, err := p.render(v, "page")
	if err != nil {
		return err
	}
	if p.status == 0 {
		p.status = http.StatusOK
	}
	v.send(p.status, "text/html; charset=utf-8", body)
	return nil
}

func (r redirect) write(v *visit) error {
	v.w.Header().Set("Location", r.to)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}

func (d download) write(v *visit) error {
	v.nameFile(d.name)
	v.send(http.StatusOK, d.mediaType, d.body)
	return nil
}

func (s stream) write(v *visit) error {
	v.nameFile(s.name)
	v.w.Header().Set("Content-Type", s.mediaType)
	if v.r.Method == http.MethodHead {
		return nil
	}
	counted := &countedWriter{w: v.w}
	err := s.copy(counted)
	if err != nil && counted.n > 0 { // an error page would be taken for the end of the file
		v.site.log.ErrorContext(v.ctx(), "file broken off", "path", v.r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

// A countedWriter counts what was written.
type countedWriter struct {
	w io.Writer
	n int64
}

func (c *countedWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// nameFile suggests a file name; it must be plain ASCII.
func (v *visit) nameFile(name string) {
	if name != "" {
		v.w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	}
}

// send writes a whole answer.
func (v *visit) send(status int, mediaType string, body []byte) {
	h := v.w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(body) // the client is gone: nobody is left to tell
	}
}
