package enroll_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// told reports whether a watch is told of a change within a time.
func told(c <-chan struct{}, limit time.Duration) bool {
	select {
	case <-c:
		return true
	case <-time.After(limit):
		return false
	}
}

// A watch is told of what other replicas change, and of nothing else.
func TestWatch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll("d")
	other := s.server(s.openStore())
	ctx, cancel := context.WithCancel(s.ctx)
	device, err := s.Watch(ctx, "device:d", "broker:b")
	s.must(err)
	all, err := s.Watch(ctx, "*")
	s.must(err)
	if !told(device, 10*time.Second) || !told(all, 10*time.Second) {
		t.Fatal("the first token did not come")
	}
	for range 3 {
		must(other.HoldDevice(s.ctx, as("op", ""), "d"))
		if !told(device, 10*time.Second) || !told(all, 10*time.Second) {
			t.Fatal("not told of a hold")
		}
		must(other.ReleaseDevice(s.ctx, as("op", ""), "d"))
		if !told(device, 10*time.Second) || !told(all, 10*time.Second) {
			t.Fatal("not told of a release")
		}
	}
	s.enroll("e")
	if !told(all, 10*time.Second) {
		t.Error("not told of another device")
	}
	if told(device, time.Second) {
		t.Error("told of another device's change")
	}
	cancel()
	s.eventually(10*time.Second, "channel closed", func() bool {
		_, open := <-device
		return !open
	})
	again, err := s.Watch(s.ctx, "device:d") // the goroutine starts anew
	s.must(err)
	if !told(again, 10*time.Second) {
		t.Error("not told after all had ended")
	}
}

// A process watches so much and no more.
func TestWatchIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx, cancel := context.WithCancel(s.ctx)
	for _, topics := range [][]string{nil, make([]string, 17)} {
		_, err := s.Watch(ctx, topics...)
		s.wantKind(err, ca.KindMalformed, "topics")
	}
	for range 500 {
		_, err := s.Watch(ctx, "device:d")
		s.must(err)
	}
	_, err := s.Watch(ctx, "device:d")
	s.wantKind(err, enroll.KindRateLimited, "")
	if later, ok := errors.AsType[*enroll.Later](err); !ok || later.After <= 0 {
		t.Errorf("%v does not say for how long", err)
	}
	cancel()
	s.eventually(10*time.Second, "room again", func() bool {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		_, err := s.Watch(ctx, "device:d")
		return err == nil
	})
}

// An export is what the filter finds, in a form that no spreadsheet runs.
func TestExport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for n := range 620 {
		must(s.CreateDevice(s.ctx, as("op", ""), enroll.NewDevice{ID: fmt.Sprintf("d%03d", n), Group: "g"}))
	}
	evil := must(s.CreateDevice(s.ctx, as("op", ""), enroll.NewDevice{ID: "-cmd", Group: "h", Attributes: map[string]string{"x": `=1+"2"`, "y": "a,b"}}))
	var out bytes.Buffer
	s.must(s.ExportDevices(s.ctx, enroll.DeviceFilter{Group: "g"}, &out, enroll.FormatCSV))
	rows, err := csv.NewReader(&out).ReadAll()
	s.must(err)
	if len(rows) != 621 || rows[0][0] != "id" || rows[1][0] != "d000" || rows[620][0] != "d619" || rows[1][1] != "registered" {
		t.Errorf("%d rows, %v", len(rows), rows[:2])
	}
	s.must(s.ExportDevices(s.ctx, enroll.DeviceFilter{Group: "h"}, &out, enroll.FormatCSV))
	if rows, err = csv.NewReader(&out).ReadAll(); err != nil || len(rows) != 2 || rows[1][0] != "'-cmd" || rows[1][8] != `{"x":"=1+\"2\"","y":"a,b"}` {
		t.Errorf("%v, %v", rows, err)
	}
	s.must(s.ExportDevices(s.ctx, enroll.DeviceFilter{}, &out, enroll.FormatJSON))
	var devices []*enroll.Device
	if err := json.Unmarshal(out.Bytes(), &devices); err != nil || len(devices) != 621 || devices[0].ID != evil.ID || devices[0].Attributes["y"] != "a,b" {
		t.Errorf("%d devices, %v", len(devices), err)
	}
	out.Reset()
	s.must(s.ExportDevices(s.ctx, enroll.DeviceFilter{Group: "none"}, &out, enroll.FormatJSON))
	if out.String() != "[]\n" {
		t.Errorf("nothing is %q", out.String())
	}
	out.Reset()
	s.must(s.ExportEvents(s.ctx, enroll.EventFilter{ActionPrefix: "device."}, &out, enroll.FormatCSV))
	if rows, err = csv.NewReader(&out).ReadAll(); err != nil || len(rows) != 622 || rows[1][4] != "device:-cmd" || rows[1][3] != "device.register" {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	s.wantKind(s.ExportDevices(s.ctx, enroll.DeviceFilter{}, &out, "xlsx"), ca.KindMalformed, "format")
	s.wantKind(s.ExportEvents(s.ctx, enroll.EventFilter{ActionPrefix: "a b"}, &out, enroll.FormatCSV), ca.KindMalformed, "actionPrefix")
	for text, want := range map[string]string{"": "", "a=b": "a=b", "=x": "'=x", "+x": "'+x", "-x": "'-x", "@x": "'@x", "\tx": "'\tx", "\rx": "'\rx"} {
		if got := enroll.SpreadsheetText(text); got != want {
			t.Errorf("%q is %q", text, got)
		}
	}
}

// What was refused is told by work order: counted, with the last few.
func TestWorkOrderProgress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.order("o", 1, enroll.NewToken{Uses: 100})
	try := func(device string) error {
		_, err := s.EnrollDevice(s.ctx, enroll.Call{}, enroll.EnrollRequest{Token: token.Token, DeviceID: device, CSR: newCSR(t, newKey(t), device)})
		return err
	}
	s.must(try("d"))
	for n := range 30 {
		s.wantKind(try(fmt.Sprint("x", n)), enroll.KindQuotaReached, "workOrder")
	}
	s.wantKind(try("no/id"), ca.KindMalformed, "deviceId")
	_, err := s.EnrollDevice(s.ctx, with(enroll.RoleFactory, ""), enroll.EnrollRequest{DeviceID: "y", WorkOrder: "none", CSR: newCSR(t, newKey(t), "y")})
	s.wantKind(err, ca.KindNotFound, "workOrder") // an order that is not there is told nothing of
	p := must(s.WorkOrderProgress(s.ctx, "o"))
	if p.Order.Issued != 1 || len(p.PerMinute) != 60 || len(p.LastUnits) != 1 || p.LastUnits[0].Device != "d" || len(p.Refusals) != 0 {
		t.Errorf("%+v", p)
	}
	s.unchangedButRefusals(func() { s.must(s.SaveRefusals(s.ctx)) })
	s.unchanged(func() { s.must(s.SaveRefusals(s.ctx)) })
	p = must(s.WorkOrderProgress(s.ctx, "o"))
	if len(p.Refusals) != 1 || p.Refusals[0].Kind != enroll.KindQuotaReached || p.Refusals[0].Count != 30 || len(p.LastRefused) != 20 || p.LastRefused[0].Device != "x29" || p.LastRefused[0].Message == "" {
		t.Errorf("%+v, %+v", p.Refusals, p.LastRefused)
	}
	_, err = s.WorkOrderProgress(s.ctx, "none")
	s.wantKind(err, ca.KindNotFound, "workOrder")
}

// unchangedButRefusals ends the test if do changes anything but what is kept of
// refusals.
func (s *site) unchangedButRefusals(do func()) {
	s.Helper()
	before := s.dump()
	do()
	for table, rows := range s.dump() {
		if changed := before[table] != rows; changed != strings.HasPrefix(table, "order_refus") {
			s.Errorf("%s was changed: %t", table, changed)
		}
	}
}

// A plan tells the device's sessions, which certificates go and where, and
// waits for no broker that hangs.
func TestRevocationPlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b, hanging := s.broker("b"), s.broker("hangs")
	s.deadBroker("undriven")
	hanging.on("Sessions", hang)
	e, key := s.enroll("d")
	b.mustConnect("d", e, key)
	b.fleet(2)
	var p *enroll.RevocationPlan
	began := time.Now()
	s.unchanged(func() { p = must(s.RevocationPlan(s.ctx, "d")) })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if p.Refused != "" || len(p.Certificates) != 1 || p.Certificates[0].SerialNumber != e.Certificate.SerialNumber {
		t.Errorf("%+v", p)
	}
	if crl := must(s.CRL(s.ctx, "device")); len(p.CRLs) != 1 || p.CRLs[0].Issuer != "device" || p.CRLs[0].Number != crl.Number || p.CRLs[0].DistributionPoint != e.Certificate.CDP {
		t.Errorf("%+v", p.CRLs)
	}
	if len(p.Brokers) != 3 {
		t.Fatalf("%+v", p.Brokers)
	}
	if got := p.Brokers[0]; got.Broker != "b" || got.Enforcement != enroll.EnforceCRL || len(got.Sessions) != 1 || got.Sessions[0].Identity != "d" || got.SessionsError != "" {
		t.Errorf("%+v", got)
	}
	if got := p.Brokers[1]; got.Broker != "hangs" || len(got.Sessions) != 0 || !strings.Contains(got.SessionsError, "did not answer") {
		t.Errorf("%+v", got)
	}
	if got := p.Brokers[2]; got.Enforcement != enroll.EnforceNone || got.SessionsError == "" {
		t.Errorf("%+v", got)
	}
	must(s.RevokeDevice(s.ctx, as("sec", ""), "d", enroll.RevokeRequest{Reason: "keyCompromise"}))
	if p = must(s.RevocationPlan(s.ctx, "d")); !strings.Contains(p.Refused, "revoked already") || len(p.Certificates) != 0 {
		t.Errorf("%+v", p)
	}
}
