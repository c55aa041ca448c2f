package ca_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/fleetca/fleetca/ca"
)

func TestSerialNumbersReadAsOpenSSLPrintsThem(t *testing.T) {
	t.Parallel()
	const twenty = "4a0102030405060708090a0b0c0d0e0f10111213"
	for text, want := range map[string]ca.SerialNumber{
		twenty: twenty, strings.ToUpper(twenty): twenty, "00" + twenty: twenty, "4a:01": "4a01", "00:C3:01": "c301", "01": "01",
		"": "", "0": "", "00": "", "00:00": "", "4": "", "xy": "", "-1": "", "4a 01": "", twenty + "14": "",
	} {
		got, err := ca.ParseSerialNumber(text)
		if want == "" {
			wantKind(t, err, ca.KindMalformed, "serialNumber")
		} else if err != nil || got != want || ca.SerialNumberOf(got.Int()) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := ca.ParseSerialNumber(strings.Repeat("z", 10_000)); len(err.Error()) > 200 {
		t.Errorf("the error is %d octets long", len(err.Error()))
	}
}

func TestReasonsAndTheStatusesTheyLeadTo(t *testing.T) {
	t.Parallel()
	for _, r := range ca.Reasons() {
		if got, err := ca.ParseReason(string(r)); err != nil || got != r {
			t.Errorf("%s: %s, %v", r, got, err)
		}
		want, from := ca.StatusRevoked, []ca.Status{ca.StatusGood, ca.StatusHeld}
		if r == ca.ReasonCertificateHold {
			want, from = ca.StatusHeld, from[:1]
		}
		if r.StatusAfter() != want || !reflect.DeepEqual(r.RevocableFrom(), from) {
			t.Errorf("%s leads from %v to %s", r, r.RevocableFrom(), r.StatusAfter())
		}
	}
	for _, text := range []string{"", "KeyCompromise", "removeFromCRL", "7", strings.Repeat("x", 10_000)} {
		_, err := ca.ParseReason(text)
		if wantKind(t, err, ca.KindReason, "reason"); len(err.Error()) > 200 {
			t.Errorf("the error is %d octets long", len(err.Error()))
		}
	}
}

func TestCertificatesGoThroughTheirRESTForm(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, profile := range []string{"device", "broker"} {
		cert := f.issue(f.order(profile))
		f.ledger.setStatus(cert.SerialNumber, ca.ReasonCertificateHold, f.clock.now().UTC())
		cert, err := f.ledger.Certificate(f.ctx, cert.SerialNumber)
		f.must(err)
		text, err := json.Marshal(cert)
		f.must(err)
		to, err := jsonv2.Marshal(cert)
		f.must(err)
		if !bytes.Equal(to, text) {
			t.Errorf("%s: an encoder wrote %s", profile, to)
		}
		var read ca.Certificate
		f.must(json.Unmarshal(text, &read))
		want := *cert
		want.KeySHA256, want.CDP = "", "" // not in it
		if want.Names == nil {
			want.Names = []string{}
		}
		if !reflect.DeepEqual(read, want) {
			t.Errorf("%s: wrote %s\nread %+v", profile, text, read)
		}
	}
	var read ca.Certificate
	if err := json.Unmarshal([]byte(`{"serialNumber":"01","pem":"none"}`), &read); err == nil {
		t.Error("read without PEM")
	}
}

func TestStatusAndRenewalByTheClock(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := ca.Certificate{Status: ca.StatusGood, NotBefore: from, NotAfter: from.AddDate(0, 0, 300)}
	if c.StatusAt(c.NotAfter) != ca.StatusGood || c.StatusAt(c.NotAfter.Add(1)) != ca.StatusExpired {
		t.Error("a good certificate expires after its notAfter")
	}
	held := c
	held.Status = ca.StatusHeld
	if held.StatusAt(c.NotAfter.Add(1)) != ca.StatusHeld {
		t.Error("a held certificate stays held")
	}
	times := map[time.Time]bool{}
	for range 100 {
		c.SerialNumber = ca.NewSerialNumber()
		at := c.RenewAfter()
		if at.Before(from.AddDate(0, 0, 185)) || at.After(from.AddDate(0, 0, 200)) {
			t.Fatalf("renewed at %v", at)
		}
		times[at] = true
	}
	if len(times) < 50 {
		t.Errorf("100 certificates renew at %d times", len(times))
	}
}

func TestErrorsShowTheirTextAndHideTheirCause(t *testing.T) {
	t.Parallel()
	err := ca.Errorf(ca.KindKey, "key", "the next step", "key %s does not open: %w", "a.pem", io.ErrUnexpectedEOF)
	if err.Text() != "key: key a.pem does not open" || err.Error() != "key: key a.pem does not open: unexpected EOF" || err.Hint != "the next step" {
		t.Errorf("%q, %q", err.Text(), err.Error())
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, ca.IsKind(ca.KindKey)) || errors.Is(err, ca.IsKind(ca.KindClock)) {
		t.Error("asked for the kind and the cause")
	}
	if plain := ca.Errorf(ca.KindClock, "", "", "late"); plain.Error() != "late" || plain.Unwrap() != nil {
		t.Errorf("%q", plain)
	}
}

func TestProfilesInTheirRESTForm(t *testing.T) {
	t.Parallel()
	p, err := ca.ProfileNamed("profile", "device")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p)
	const want = `{"name":"device","version":1,"issuerPurpose":"device","holder":"device","extendedKeyUsages":["clientAuth"],"validity":"8760h0m0s","backdate":"1h0m0s"}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	_, err = ca.ProfileNamed("asked", "none")
	wantKind(t, err, ca.KindProfile, "asked")
	ca.Profiles()[0].Name = "changed"
	if ca.Profiles()[0].Name == "changed" {
		t.Error("a caller changed the profiles")
	}
}
