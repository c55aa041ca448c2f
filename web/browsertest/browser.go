// Package browsertest looks at pages in a real Chromium, for tests. Without one
// on the PATH a test is skipped; with FLEETCA_TEST_ALL=1 it fails.
package browsertest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Patience is how long a browser waits for anything that it is asked for.
const Patience = 60 * time.Second

// Width is how wide the window is, in CSS pixels: the least that pages are made for.
const Width = 1024

// A Theme is what the system of the person prefers.
type Theme string

// The themes.
const (
	Light Theme = "light"
	Dark  Theme = "dark"
)

// program finds Chromium, or skips.
func program(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	skip(t, "chromium is not installed (Debian package chromium)")
	return ""
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("FLEETCA_TEST_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// A Browser is one window, with cookies of its own.
type Browser struct {
	testing.TB
	ctx  context.Context
	base string // URL of the site

	mu   sync.Mutex
	said []string // errors of scripts and of the policy, and dialogs
}

// New opens a window on a site. The test fails at its end when a script of the
// page failed, when the page's policy refused something, or when a dialog opened:
// nothing of ours opens one.
func New(t testing.TB, base string, theme Theme) *Browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program(t)), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.WindowSize(Width, 800), chromedp.WSURLReadTimeout(Patience))
	allocator, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	quiet := func(string, ...any) {} // events that are newer than the library
	ctx, closeWindow := chromedp.NewContext(allocator, chromedp.WithErrorf(quiet), chromedp.WithLogf(quiet))
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser has ended
		closeWindow()
		cancel()
	})
	b := &Browser{TB: t, ctx: ctx, base: base}
	chromedp.ListenTarget(ctx, b.listen)
	b.Do(network.Enable(), log.Enable(), runtime.Enable(), page.Enable(),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: string(theme)}}),
		emulation.SetTimezoneOverride("Europe/Berlin"))
	t.Cleanup(func() {
		for _, said := range b.Said() {
			t.Errorf("the browser says: %s", said)
		}
	})
	return b
}

// listen notes what no page of ours may cause.
func (b *Browser) listen(event any) {
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.note("a script failed: " + e.ExceptionDetails.Error())
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError && e.Entry.Source == log.SourceSecurity {
			b.note(e.Entry.Text)
		}
	case *page.EventJavascriptDialogOpening:
		b.note("a dialog opened: " + e.Message)
		go func() { _ = chromedp.Run(b.ctx, page.HandleJavaScriptDialog(true)) }() // else everything waits for it
	}
}

func (b *Browser) note(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, text)
}

// Said returns what the browser complained about so far.
func (b *Browser) Said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.said...)
}

// Do runs actions, and ends the test when one fails.
func (b *Browser) Do(actions ...chromedp.Action) {
	b.Helper()
	if err := b.Try(Patience, actions...); err != nil {
		b.Fatalf("in the browser at %s: %v", b.where(), err)
	}
}

// Try runs actions for so long at most.
func (b *Browser) Try(patience time.Duration, actions ...chromedp.Action) error {
	if err := chromedp.Run(b.ctx); err != nil { // starts the browser, which must not end with the actions' context
		return err
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

func (b *Browser) where() string {
	var at string
	_ = b.Try(5*time.Second, chromedp.Location(&at)) // for the message of a failure alone
	return at
}

// SignIn signs in as a person does.
func (b *Browser) SignIn(name, password string) {
	b.Helper()
	b.Open("/sign-in")
	b.Do(chromedp.SendKeys("input[name=name]", name), chromedp.SendKeys("input[name=password]", password), chromedp.Submit("main form"),
		chromedp.WaitVisible("header nav"))
}

// Open opens a page of the site.
func (b *Browser) Open(path string) {
	b.Helper()
	b.Do(chromedp.Navigate(b.base+path), chromedp.WaitReady("main"))
}

// Press presses one key that types a character, as a keyboard does: a page that
// takes the key keeps the character from being typed.
func (b *Browser) Press(key string) {
	b.Helper()
	b.Do(input.DispatchKeyEvent(input.KeyDown).WithKey(key).WithText(key), input.DispatchKeyEvent(input.KeyUp).WithKey(key))
}

// Path returns the path and query that the window is at.
func (b *Browser) Path() string {
	b.Helper()
	u, err := url.Parse(b.where())
	if err != nil {
		b.Fatal(err)
	}
	return u.RequestURI()
}

// Text returns the words that the selector's first element shows.
func (b *Browser) Text(selector string) string {
	b.Helper()
	var text string
	b.Do(chromedp.Text(selector, &text))
	return strings.Join(strings.Fields(text), " ")
}

// WaitFor waits until the selector's elements show the words.
func (b *Browser) WaitFor(selector, words string) {
	b.Helper()
	expression := fmt.Sprintf(`[...document.querySelectorAll(%q)].some(e => e.innerText.replace(/\s+/g, " ").includes(%q))`, selector, words)
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var found bool
		if err = b.Try(10*time.Second, chromedp.Evaluate(expression, &found)); err == nil && found { // a page that is left answers with an error
			return
		}
	}
	var body string
	_ = b.Try(5*time.Second, chromedp.Text("main", &body)) // for the message alone
	b.Fatalf("%s never shows %q (%v); the page shows:\n%s", selector, words, err, body)
}

// Eval returns what a script's expression gives.
func Eval[T any](b *Browser, expression string) T {
	b.Helper()
	var v T
	b.Do(chromedp.Evaluate(expression, &v, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return v
}

// Screenshot writes the whole page as a PNG.
func (b *Browser) Screenshot(file string) {
	b.Helper()
	var png []byte
	b.Do(chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(file, png, 0o644); err != nil {
		b.Fatal(err)
	}
}
