package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// results returns the checks of a report by name, as "result code".
func results(r *mqtts.Report) map[mqtts.CheckName]string {
	all := map[mqtts.CheckName]string{}
	for _, c := range r.Checks {
		all[c.Name] = string(c.Result)
		for _, d := range c.Diagnosis {
			all[c.Name] += " " + string(d.Code)
		}
	}
	return all
}

// wantResults ends the test unless the checks ended so; "pass" where nothing is
// said.
func (s *site) wantResults(r *mqtts.Report, verdict mqtts.Verdict, others map[mqtts.CheckName]string) {
	s.Helper()
	want := map[mqtts.CheckName]string{}
	for _, name := range []mqtts.CheckName{
		mqtts.CheckNoClientCertificate, mqtts.CheckForeignCA, mqtts.CheckSameNameRogueCA, mqtts.CheckExpired, mqtts.CheckNotYetValid,
		mqtts.CheckWrongUsage, mqtts.CheckRevoked, mqtts.CheckPlaintext, mqtts.CheckOldTLS, mqtts.CheckResumeAfterRevocation,
	} {
		want[name] = "pass"
	}
	maps.Copy(want, others)
	if got := results(r); r.Verdict != verdict || !maps.Equal(got, want) {
		var text strings.Builder
		_ = r.WriteText(&text, false)
		s.Fatalf("verdict %s, want %s\n got %v\nwant %v\n%s", r.Verdict, verdict, got, want, text.String())
	}
}

// A negative verification tries certificates that are on record before they are
// used and became what they are honestly: the expired one by the clock, the
// revoked one on a CRL. Nothing is signed for the future.
func TestNegativeVerification_I1_I7_I25(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("b")
	negative := func() *mqtts.Report { return must(s.VerifyBroker(s.ctx, as("op", ""), "b", true)) }
	s.wantResults(negative(), mqtts.VerdictPass, map[mqtts.CheckName]string{
		mqtts.CheckExpired: "skipped", mqtts.CheckNotYetValid: "skipped",
	})
	s.clock.forward(3 * time.Minute) // the brief canary has expired
	report := negative()
	s.wantResults(report, mqtts.VerdictPass, map[mqtts.CheckName]string{mqtts.CheckNotYetValid: "skipped"})
	for name, alert := range map[mqtts.CheckName]int{mqtts.CheckExpired: 45, mqtts.CheckRevoked: 42} { // crypto/tls has no word for what a hook finds
		if seen := report.Check(name).Observed; seen == nil || seen.Alert == nil || *seen.Alert != alert || !seen.CertificateSent {
			t.Errorf("%s: %+v", name, seen)
		}
	}
	certs, _, err := s.Certificates(s.ctx, enroll.CertificateFilter{}, enroll.Page{Limit: 100})
	s.must(err)
	statuses := map[string][]ca.Status{}
	for _, c := range certs {
		if c.Holder.Kind == ca.HolderCanary {
			statuses[c.Profile] = append(statuses[c.Profile], c.Status)
		}
	}
	want := map[string][]ca.Status{"canary": {ca.StatusGood}, "canary-brief": {ca.StatusGood}, "canary-kept": {ca.StatusRevoked}, "canary-server": {ca.StatusGood}}
	if !maps.EqualFunc(statuses, want, slices.Equal) {
		t.Errorf("canaries on record: %v", statuses)
	}
	v := must(s.Broker(s.ctx, "b")).LastVerification
	if !v.Negative || v.Scheduled || v.Looks != 1 || len(v.Report.Checks) != 10 {
		t.Errorf("kept: %+v", v)
	}
	s.clock.forward(25 * time.Hour) // the canaries of yesterday are followed by others
	s.must(s.PublishScheduledCRLs(s.ctx))
	s.wantResults(negative(), mqtts.VerdictPass, map[mqtts.CheckName]string{mqtts.CheckNotYetValid: "skipped"})
	s.clock.forward(3 * time.Minute)
	s.wantResults(negative(), mqtts.VerdictPass, map[mqtts.CheckName]string{mqtts.CheckNotYetValid: "skipped"})
}

// A broker that takes no CRL is found out by the newest revoked canary, or by one
// that it had the CRL of.
func TestRevokedCanaryIsAdmitted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	broken := func(context.Context) error { return errors.New("no") }
	b.on("LoadCRL", broken)
	negative := func() *mqtts.Report { return must(s.VerifyBroker(s.ctx, as("op", ""), "b", true)) }
	found := func(report *mqtts.Report, others map[mqtts.CheckName]string) {
		t.Helper()
		resumed := results(report)[mqtts.CheckResumeAfterRevocation]
		others[mqtts.CheckNotYetValid], others[mqtts.CheckRevoked], others[mqtts.CheckResumeAfterRevocation] = "skipped", "fail revoked_accepted", resumed
		s.wantResults(report, mqtts.VerdictFail, others)
		if !strings.HasPrefix(resumed, "fail revoked_accepted") {
			t.Errorf("resumption: %s", resumed)
		}
		if got := must(s.Broker(s.ctx, "b")); got.Status != enroll.BrokerFailing {
			t.Errorf("status %s", got.Status)
		}
	}
	found(negative(), map[mqtts.CheckName]string{mqtts.CheckExpired: "skipped"})
	b.on("LoadCRL", nil)
	s.wantResults(negative(), mqtts.VerdictPass, map[mqtts.CheckName]string{mqtts.CheckExpired: "skipped", mqtts.CheckNotYetValid: "skipped"})
	b.on("LoadCRL", broken)
	s.clock.forward(25 * time.Hour)
	s.must(s.PublishScheduledCRLs(s.ctx))
	s.wantResults(negative(), mqtts.VerdictPass, map[mqtts.CheckName]string{mqtts.CheckNotYetValid: "skipped"}) // it has the CRL of yesterday's
}

// A negative verification is another request than a positive one (I5).
func TestNegativeVerificationRepeats_I5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker("b")
	must(s.VerifyBroker(s.ctx, as("op", "k"), "b", true))
	_, err := s.VerifyBroker(s.ctx, as("op", "k"), "b", true)
	s.wantReplay(err)
	_, err = s.VerifyBroker(s.ctx, as("op", "k"), "b", false)
	s.wantKind(err, enroll.KindIdempotency, "")
}

// scheduled runs the schedule once.
func (s *site) scheduled(service *enroll.Service) {
	s.Helper()
	s.must(service.Jobs()[enroll.JobVerify](s.ctx, ""))
}

// What the schedule sees again is counted; what is new is a verification of its
// own, with an event.
func TestScheduleKeepsNews_I19(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.broker("b")
	_, err := s.CreateBroker(s.ctx, as("operator", ""), enroll.NewBroker{ID: "dead", URL: "mqtts://127.0.0.1:1"})
	s.must(err)
	history := func(id string) (texts []string) {
		all, _, err := s.Verifications(s.ctx, id, enroll.Page{Limit: 10})
		s.must(err)
		for _, v := range all {
			if v.At.Sub(v.Since) < 0 || v.Looks > 1 != v.At.After(v.Since) || !v.Negative && v.Scheduled {
				t.Errorf("%+v", v)
			}
			texts = append(texts, strings.TrimSpace(string(v.Report.Verdict)+" "+strings.Repeat("*", int(v.Looks))))
		}
		return texts
	}
	want := func(b, dead []string, news int) {
		t.Helper()
		if got := history("b"); !slices.Equal(got, b) {
			t.Fatalf("history of b %q, want %q", got, b)
		}
		if got := history("dead"); !slices.Equal(got, dead) {
			t.Fatalf("history of dead %q, want %q", got, dead)
		}
		events, _, err := s.Events(s.ctx, enroll.EventFilter{Action: "broker.verify"}, enroll.Page{Limit: 100})
		s.must(err)
		if len(events) != news {
			t.Fatalf("%d events, want %d", len(events), news)
		}
	}
	look := func() { s.clock.forward(time.Second); s.scheduled(s.Service) }
	look()
	look()
	look()
	want([]string{"pass ***"}, []string{"fail ***"}, 2)
	s.clock.forward(3 * time.Minute)
	look() // with an expired canary: a check that was skipped passes
	want([]string{"pass *", "pass ***"}, []string{"fail ****"}, 3)
	must(s.VerifyBroker(s.ctx, as("op", ""), "b", false))
	look()
	look()
	want([]string{"pass **", "pass *", "pass *", "pass ***"}, []string{"fail ******"}, 5)
	s.must(b.real.Close())
	look()
	look()
	want([]string{"fail **", "pass **", "pass *", "pass *", "pass ***"}, []string{"fail ********"}, 6)
	if got := must(s.Broker(s.ctx, "b")); got.Status != enroll.BrokerFailing {
		t.Errorf("status %s", got.Status)
	}
	newest := must(s.NegativeVerifications(s.ctx))
	if len(newest) != 2 || newest[0].Broker != "b" || newest[0].Report.Verdict != mqtts.VerdictFail || newest[1].Broker != "dead" {
		t.Errorf("newest %+v", newest)
	}
	s.clock.forward(31 * 24 * time.Hour)
	s.must(s.Jobs()[enroll.JobTidy](s.ctx, ""))
	want([]string{"fail **"}, []string{"fail ********"}, 6)
}

// The schedule is as often as it is configured, and off by default.
func TestScheduleInterval(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if every, on := s.Every()[enroll.JobVerify]; on {
		t.Errorf("every %v", every)
	}
	service := enroll.New(enroll.Config{Authority: s.authority, Store: s.store, Log: slog.New(slog.DiscardHandler), VerifyEvery: 15 * time.Minute})
	if every := service.Every()[enroll.JobVerify]; every != 15*time.Minute {
		t.Errorf("every %v", every)
	}
}
