package mqtts

import (
	"fmt"
	"slices"
)

// Changes says what is different from an earlier report of the same target, one
// line each, for a person; nothing for two runs that saw the same. Durations,
// times and random names do not count.
func (r *Report) Changes(before *Report) []string {
	var lines []string
	changed := func(what, from, to string) {
		if from != to {
			lines = append(lines, fmt.Sprintf("%s: %s, was %s", what, orNone(to), orNone(from)))
		}
	}
	changed("verdict", string(before.Verdict), string(r.Verdict))
	changed("address", before.Target.Address, r.Target.Address)
	for _, s := range r.Steps {
		if was := before.Step(s.Name); was != nil {
			changed(string(s.Name), string(was.Result), string(s.Result))
		}
	}
	for _, is := range r.seen() {
		for _, was := range before.seen() {
			if was.what == is.what {
				changed(is.what, was.value, is.value)
			}
		}
	}
	for _, c := range r.Checks {
		if was := before.Check(c.Name); was != nil {
			changed(string(c.Name), string(was.Result), string(c.Result))
		}
	}
	return append(lines, diagnosisChanges(before.allDiagnoses(), r.allDiagnoses())...)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// A fact is one value of a report that is compared.
type fact struct{ what, value string }

// seen returns what was agreed on and shown, as far as the run came.
func (r *Report) seen() (facts []fact) {
	if t := r.TLS; t != nil {
		facts = append(facts, fact{"TLS version", t.Version}, fact{"cipher suite", t.CipherSuite}, fact{"group", t.Group},
			fact{"ALPN", t.ALPN}, fact{"staple", string(t.Staple)}, fact{"client certificate requested", fmt.Sprint(t.ClientCertificateRequested)})
	}
	if m := r.MQTT; m != nil {
		facts = append(facts, fact{"MQTT version", m.Version}, fact{"CONNACK", m.Reason})
	}
	if c := r.ServerCertificate; c != nil {
		facts = append(facts, fact{"broker's certificate", c.SerialNumber}, fact{"its issuer", c.Issuer}, fact{"its trust anchor", c.TrustAnchor})
	}
	return facts
}

// allDiagnoses returns the codes of the run and of its checks.
func (r *Report) allDiagnoses() []Code {
	var codes []Code
	for _, d := range r.Diagnosis {
		codes = append(codes, d.Code)
	}
	for _, c := range r.Checks {
		for _, d := range c.Diagnosis {
			codes = append(codes, d.Code)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func diagnosisChanges(before, now []Code) (lines []string) {
	for _, c := range now {
		if !slices.Contains(before, c) {
			lines = append(lines, "new: "+string(c))
		}
	}
	for _, c := range before {
		if !slices.Contains(now, c) {
			lines = append(lines, "gone: "+string(c))
		}
	}
	return lines
}
