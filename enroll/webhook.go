package enroll

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// JobWebhook delivers one audit event; its subject is the event's id.
const JobWebhook JobKind = "webhook"

// webhookTimeout bounds one delivery.
const webhookTimeout = 10 * time.Second

// A Webhook is where audit events are sent: each in a POST with its canonical
// JSON as body. The job is committed with the event, and tried again, with
// growing pauses for days, until the receiver answers 2xx (or 410, which ends
// it). Deliveries may repeat and may come out of order; the event's id tells.
//
// The header Fleetca-Signature is "t=UNIX,v1=HEX": the time of sending, and
// HMAC-SHA256 (RFC 2104) with the shared secret over the time as written, a
// full stop, and the body.
type Webhook struct {
	URL     string
	Secret  []byte   // at least 16 octets
	Actions []string // events whose action begins with one of these; all when empty
	Client  *http.Client
}

// leastWebhookSecret is how long a webhook's secret must be, in octets.
const leastWebhookSecret = 16

// Check refuses what cannot be a webhook: HTTPS is a must but on loopback.
func (w *Webhook) Check() error {
	u, err := url.Parse(w.URL)
	loopback := err == nil && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback())
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback):
		return ca.Errorf(ca.KindMalformed, "webhook", "write https://HOST/PATH", "is not an HTTPS URL without credentials")
	case len(w.Secret) < leastWebhookSecret:
		return ca.Errorf(ca.KindMalformed, "webhook-secret-file", "openssl rand -hex 32 makes one", "the secret is shorter than %d octets", leastWebhookSecret)
	}
	return nil
}

// EventJobs returns what an event asks for beside its own change; package
// store commits it with the event.
func (w *Webhook) EventJobs(e Event) []Job {
	for _, prefix := range w.Actions {
		if strings.HasPrefix(e.Action, prefix) {
			return []Job{{Kind: JobWebhook, Subject: e.ID}}
		}
	}
	if len(w.Actions) == 0 {
		return []Job{{Kind: JobWebhook, Subject: e.ID}}
	}
	return nil
}

// deliver handles JobWebhook. An event that was asked for when there was a
// webhook, and there is none any more, is dropped.
func (s *Service) deliver(ctx context.Context, id string) error {
	w := s.cfg.Webhook
	if w == nil {
		return nil
	}
	e, err := s.store.Event(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	body := e.Canonical()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "fleetca")
	req.Header.Set("Fleetca-Event", e.Action)
	req.Header.Set("Fleetca-Delivery", e.ID)
	req.Header.Set("Fleetca-Signature", w.sign(s.cfg.Now(), body))
	resp, err := w.Client.Do(req)
	if err != nil {
		return fmt.Errorf("deliver event %s: %w", id, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return fmt.Errorf("deliver event %s: %w", id, err)
	}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusGone {
		return fmt.Errorf("deliver event %s: the receiver answers %s", id, resp.Status)
	}
	return nil
}

// sign returns the Fleetca-Signature of a body sent at a time.
func (w *Webhook) sign(at time.Time, body []byte) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, w.Secret)
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
