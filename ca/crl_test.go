package ca_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// read parses a CRL, and checks what holds for every one.
func (f *fixture) read(crl *ca.CRL) *x509.RevocationList {
	f.Helper()
	list, err := x509.ParseRevocationList(crl.DER)
	f.must(err)
	issuer, err := f.ca.Issuer(crl.IssuerID)
	f.must(err)
	if err := list.CheckSignatureFrom(issuer.Certificate); err != nil {
		f.Errorf("CRL %d: %v", crl.Number, err)
	}
	if list.Number.Int64() != crl.Number || !list.ThisUpdate.Equal(crl.ThisUpdate) || !list.NextUpdate.Equal(crl.NextUpdate) ||
		len(list.RevokedCertificateEntries) != crl.Entries || !bytes.Equal(list.AuthorityKeyId, issuer.Certificate.SubjectKeyId) {
		f.Errorf("CRL %d is not what its record says: %+v", crl.Number, crl)
	}
	if block, rest := pem.Decode(crl.PEM()); block == nil || block.Type != "X509 CRL" || !bytes.Equal(block.Bytes, crl.DER) || len(rest) > 0 {
		f.Errorf("CRL %d: PEM %s", crl.Number, crl.PEM())
	}
	return list
}

// entry returns a certificate's entry on a CRL, or nil.
func (f *fixture) entry(crl *ca.CRL, serial ca.SerialNumber) *x509.RevocationListEntry {
	f.Helper()
	for _, e := range f.read(crl).RevokedCertificateEntries {
		if e.SerialNumber.Cmp(serial.Int()) == 0 {
			return &e
		}
	}
	return nil
}

// TestI10ARevokedCertificateStaysUntilOneScheduledCRLAfterItsEnd walks through
// a certificate's end.
func TestI10ARevokedCertificateStaysUntilOneScheduledCRLAfterItsEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cert := f.issue(f.order("canary"))
	if f.entry(f.publish("device", true), cert.SerialNumber) != nil {
		t.Fatal("a good certificate is listed")
	}
	f.ledger.setStatus(cert.SerialNumber, ca.ReasonKeyCompromise, f.clock.now())
	for _, step := range []struct {
		name      string
		at        time.Duration // thisUpdate, after notAfter
		scheduled bool
		listed    bool
	}{
		{"revoked", -20 * time.Minute, false, true},
		{"revoked, scheduled", -10 * time.Minute, true, true},
		{"in its last second", 0, true, true},
		{"just expired, not scheduled", time.Second, false, true},
		{"just expired, not scheduled, again", 2 * time.Second, false, true},
		{"the scheduled one after its end", 3 * time.Second, true, true},
		{"the next", 4 * time.Second, false, false},
		{"and on", time.Hour, true, false},
	} {
		f.clock.set(cert.NotAfter.Add(step.at + 5*time.Minute)) // thisUpdate lies 5 minutes back
		e := f.entry(f.publish("device", step.scheduled), cert.SerialNumber)
		if (e != nil) != step.listed {
			t.Errorf("%s: listed %t, want %t", step.name, e != nil, step.listed)
		}
		if e != nil && e.ReasonCode != 1 {
			t.Errorf("%s: reason %d", step.name, e.ReasonCode)
		}
	}
}

func TestI10HoldAndRelease(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	serial := f.issue(f.order("device")).SerialNumber
	for _, step := range []struct {
		reason ca.Reason // empty: release
		code   int       // -1: not listed
	}{{ca.ReasonCertificateHold, 6}, {"", -1}, {ca.ReasonCertificateHold, 6}, {ca.ReasonSuperseded, 4}} {
		f.ledger.setStatus(serial, step.reason, f.clock.now())
		f.clock.advance(time.Second)
		code := -1
		if e := f.entry(f.publish("device", false), serial); e != nil {
			code = e.ReasonCode
		}
		if code != step.code {
			t.Errorf("after %q: reason %d on the CRL, want %d", step.reason, code, step.code)
		}
	}
	f.ledger.setStatus(serial, "", f.clock.now()) // nothing leads out of revoked
	_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, true)
	wantKind(t, err, ca.KindRefusedCRL, "")
}

func TestI10ACRLThatDropsAnEntryIsRefused(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]bool{"the entry": false, "and its certificate": true} {
		f := newFixture(t)
		serial := f.issue(f.order("device")).SerialNumber
		f.ledger.setStatus(serial, ca.ReasonKeyCompromise, f.clock.now())
		last := f.publish("device", true)
		f.ledger.drop(serial, lose)
		for _, scheduled := range []bool{true, false} {
			_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, scheduled)
			if wantKind(t, err, ca.KindRefusedCRL, ""); !strings.Contains(err.Error(), string(serial)) {
				t.Errorf("%s: the error says %q", name, err)
			}
		}
		if latest, err := f.ledger.LatestCRL(f.ctx, ca.CRLScope{IssuerID: "device"}); err != nil || latest.Number != last.Number {
			t.Errorf("%s: CRL %d is in force, %v", name, latest.Number, err)
		}
	}
}

// TestI10AnEntryThatIsHeldAgainMeanwhile was released when the entries were read,
// and is held again when the CRL is looked at: by then it is for the next one.
func TestI10AnEntryThatIsHeldAgainMeanwhile(t *testing.T) {
	t.Parallel()
	for _, again := range []time.Duration{-time.Millisecond, time.Millisecond} { // before the entries were read, and after
		f := newFixture(t)
		serial := f.issue(f.order("device")).SerialNumber
		f.ledger.setStatus(serial, ca.ReasonCertificateHold, f.clock.now())
		f.publish("device", true)
		f.ledger.setStatus(serial, ca.ReasonCertificateHold, f.clock.now().Add(again))
		f.ledger.drop(serial, false)
		_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, true)
		if refused := errors.Is(err, ca.IsKind(ca.KindRefusedCRL)); refused != (again < 0) {
			t.Errorf("held again %v after: %v", again, err)
		}
	}
}

// TestI10AnExpiredEntryIsOnOneScheduledCRLFirst (RFC 5280, 3.3).
func TestI10AnExpiredEntryIsOnOneScheduledCRLFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cert := f.issue(f.order("canary"))
	f.ledger.setStatus(cert.SerialNumber, ca.ReasonKeyCompromise, f.clock.now())
	f.clock.set(cert.NotAfter.Add(-time.Minute))
	f.publish("device", true)
	f.ledger.drop(cert.SerialNumber, false)
	f.clock.set(cert.NotAfter.Add(time.Minute))
	_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, true)
	wantKind(t, err, ca.KindRefusedCRL, "")
}

// TestI12AnEarlierThisUpdateUnderAHigherNumberHeals: a publisher that was slow
// gives the latest CRL a thisUpdate before that of a scheduled one. An entry
// that expired in between is then gone for good, and rightly.
func TestI12AnEarlierThisUpdateUnderAHigherNumberHeals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cert := f.issue(f.order("canary"))
	f.ledger.setStatus(cert.SerialNumber, ca.ReasonKeyCompromise, f.clock.now())
	f.clock.set(cert.NotAfter.Add(5*time.Minute - time.Second)) // thisUpdate lies 5 minutes back
	slow := f.publish("device", false)
	f.clock.advance(2 * time.Second)
	scheduled := f.publish("device", true)
	f.ledger.mu.Lock()
	slow.Number, f.ledger.numbers["device"] = scheduled.Number+1, scheduled.Number+1
	f.ledger.crls["device"] = append(f.ledger.crls["device"], *slow)
	f.ledger.mu.Unlock()
	f.clock.advance(time.Minute)
	if next := f.publish("device", false); next.Entries != 0 || next.Number != slow.Number+1 {
		t.Errorf("published %+v", next)
	}
}

func TestI11CRLNumbersGrowWithRacingPublishers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other, err := ca.Open(f.ctx, ca.Config{Issuers: made().issuers, Ledger: f.ledger, Now: f.clock.now}) // another replica
	f.must(err)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for range 8 {
				if _, err := []*ca.Authority{f.ca, other}[n%2].PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, n%3 == 0); err != nil {
					t.Error(err)
				}
				f.clock.advance(100 * time.Millisecond)
			}
		})
	}
	all.Wait()
	numbers := map[int64]bool{}
	for _, crl := range f.ledger.crls["device"] {
		numbers[f.read(&crl).Number.Int64()] = true
	}
	if len(numbers) != 65 || !numbers[65] {
		t.Errorf("%d numbers up to %d", len(numbers), slices.Max(slices.Collect(maps.Keys(numbers))))
	}
}

func TestI11ANumberThatDoesNotGrowIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("device", true)
	f.ledger.mu.Lock()
	f.ledger.numbers["device"] = 1 // as after a restore
	f.ledger.mu.Unlock()
	_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: "device"}, true)
	wantKind(t, err, ca.KindRefusedCRL, "")
}

func TestThisUpdateDoesNotGoBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.publish("device", true)
	f.clock.advance(-4 * time.Second) // within the tolerance
	if second := f.publish("device", true); second.ThisUpdate.Before(first.ThisUpdate) {
		t.Errorf("thisUpdate %v after %v", second.ThisUpdate, first.ThisUpdate)
	}
}

// TestTheIDPListsEveryStatusURL: OpenSSL refuses good certificates whose CDP
// is not on it (design decision 8).
func TestTheIDPListsEveryStatusURL(t *testing.T) {
	t.Parallel()
	f := newFixture(t, with("broker", func(i *ca.Issuer) { i.StatusURLs = nil }))
	old := f.issue(f.order("device"))
	f.ca.SetStatusURLs("device", []string{"http://status.test", "http://moved.test:8080"})
	f.ca.SetStatusURLs("none", []string{"http://x"})
	moved := f.issue(f.order("device"))
	if old.CDP != "http://status.test/crl/device.crl" || moved.CDP != "http://moved.test:8080/crl/device.crl" || f.parse(moved).CRLDistributionPoints[0] != moved.CDP ||
		f.parse(moved).IssuingCertificateURL[0] != "http://moved.test:8080/issuers/device.cer" {
		t.Errorf("CDPs %s and %s", old.CDP, moved.CDP)
	}
	crl := f.publish("device", true)
	points, err := crl.DistributionPoints()
	f.must(err)
	if want := map[string]bool{old.CDP: true, moved.CDP: true}; !maps.Equal(points, want) {
		t.Errorf("the IDP lists %v", points)
	}
	for _, ext := range f.read(crl).Extensions {
		if ext.Id.String() == "2.5.29.28" && !ext.Critical {
			t.Error("the IDP is not critical (RFC 5280, 5.2.5)")
		}
	}
	bare := f.publish("broker", true)
	if points, err := bare.DistributionPoints(); err != nil || len(points) != 0 {
		t.Errorf("without a status URL: %v, %v", points, err)
	}
	if c := f.parse(f.issue(f.order("broker"))); len(c.CRLDistributionPoints)+len(c.IssuingCertificateURL) != 0 {
		t.Error("a CDP without a status URL")
	}
	if _, err := (&ca.CRL{IssuerID: "device", DER: []byte("garbage")}).DistributionPoints(); err == nil {
		t.Error("read from garbage")
	}
}

func TestCRLEntriesHaveTheirReasons(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, reason := range ca.Reasons() {
		serial := f.issue(f.order("device")).SerialNumber
		at := f.clock.now()
		f.ledger.setStatus(serial, reason, at)
		e := f.entry(f.publish("device", false), serial)
		switch {
		case e == nil || !e.RevocationTime.Equal(at.Truncate(time.Second)):
			t.Errorf("%s: entry %+v", reason, e)
		case e.ReasonCode != reason.Code(), (len(e.Extensions) == 0) != (reason == ca.ReasonUnspecified): // RFC 5280, 5.3.1
			t.Errorf("%s: reason %d, %d extensions", reason, e.ReasonCode, len(e.Extensions))
		}
	}
}

func TestWhoSignsCRLs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, with("device", func(i *ca.Issuer) { i.State = ca.IssuerRetired }))
	_, err := f.ca.Issue(f.ctx, f.order("device"))
	wantKind(t, err, ca.KindIssuerInactive, "profile")
	if crl := f.publish("device", true); crl.Number != 2 || !crl.Scheduled {
		t.Errorf("a retired issuer published %+v", crl)
	}
	for _, id := range []string{"root", "none"} {
		_, err := f.ca.PublishCRL(f.ctx, ca.CRLScope{IssuerID: id}, true)
		wantKind(t, err, ca.KindIssuerInactive, "issuer")
	}
}

func TestI12CRLsAreDueInTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	due := func(id string) bool {
		t.Helper()
		due, err := f.ca.CRLDue(f.ctx, ca.CRLScope{IssuerID: id})
		f.must(err)
		return due
	}
	if !due("device") {
		t.Error("the first CRL does not list the status URL, and no other is due")
	}
	crl := f.publish("device", true)
	if signed := f.clock.now().Truncate(time.Second); crl.NextUpdate.Sub(signed) != 7*24*time.Hour || signed.Sub(crl.ThisUpdate) != 5*time.Minute {
		t.Errorf("signed at %v, valid from %v to %v", signed, crl.ThisUpdate, crl.NextUpdate)
	}
	for _, step := range []struct {
		name string
		do   func()
		due  bool
	}{
		{"fresh", func() {}, false},
		{"59 minutes old", func() { f.clock.set(crl.ThisUpdate.Add(64 * time.Minute)) }, false},
		{"an hour old", func() { f.clock.set(crl.ThisUpdate.Add(65 * time.Minute)) }, true},
		{"published", func() { f.publish("device", true) }, false},
		{"the status URL moved", func() { f.ca.SetStatusURLs("device", []string{"http://status.test", "http://b.test"}) }, true},
		{"published again", func() { f.publish("device", true) }, false},
		{"the clock went back", func() { f.clock.advance(-24 * time.Hour) }, false},
	} {
		if step.do(); due("device") != step.due {
			t.Errorf("%s: due %t", step.name, !step.due)
		}
	}
	f.ledger.crls["broker"] = nil
	if !due("broker") {
		t.Error("an issuer without any CRL has none due")
	}
	if due("root") {
		t.Error("a CRL of the root is due, whose key is not here")
	}
	_, err := f.ca.CRLDue(f.ctx, ca.CRLScope{IssuerID: "none"})
	wantKind(t, err, ca.KindNotFound, "issuer")
}

func TestI12CRLsAreRenewedAtAQuarterOfTheirLife(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(cfg *ca.Config) { cfg.CRLPeriod = time.Hour })
	crl := f.publish("device", true)
	f.clock.set(crl.ThisUpdate.Add(20 * time.Minute)) // a quarter of an hour after its signature
	if due, err := f.ca.CRLDue(f.ctx, ca.CRLScope{IssuerID: "device"}); err != nil || !due {
		t.Errorf("due %t, %v", due, err)
	}
	_, err := openFixture(t, func(cfg *ca.Config) { cfg.CRLPeriod, cfg.CRLRenewal = time.Hour, 16*time.Minute })
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(16*time.Minute)) {
		t.Errorf("a renewal that is too late: %v", err)
	}
}
