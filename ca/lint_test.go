package ca_test

import (
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/fleetca/fleetca/ca"
)

// accepted are findings of zlint that stay, with the reason. All are rules for
// the public web (CA/Browser Forum, browsers); none is an RFC's.
var accepted = map[string]string{
	"e_ca_country_name_missing":                                     "a fleet's authority is not of a country",
	"e_sub_ca_certificate_policies_missing":                         "there is no policy document to name",
	"e_sub_cert_certificate_policies_missing":                       "there is no policy document to name",
	"e_sub_cert_cert_policy_empty":                                  "there is no policy document to name",
	"e_sub_ca_crl_distribution_points_missing":                      "made before a status URL is known; brokers are handed the root's CRL",
	"w_sub_ca_aia_missing":                                          "made before a status URL is known; chains are sent whole",
	"w_sub_ca_aia_does_not_contain_issuing_ca_url":                  "made before a status URL is known; chains are sent whole",
	"n_ca_digital_signature_not_set":                                "a CA signs certificates and CRLs alone",
	"w_root_ca_basic_constraints_path_len_constraint_field_present": "one level of issuers is all there shall be",
	"w_ct_sct_policy_count_unsatisfied":                             "a fleet's names do not belong in public logs",
	"e_dnsname_not_valid_tld":                                       "a fleet's hosts have private names",
	"w_sub_cert_aia_contains_internal_names":                        "a fleet's status server has a private name",
	"w_subject_common_name_included":                                "old MQTT clients read it",
}

// found notes a finding, unless it is accepted, and fails when fewer than least
// lints had something to look at.
func found(t testing.TB, what string, results *zlint.ResultSet, least int, seen map[string]bool) {
	t.Helper()
	passed := 0
	for name, r := range results.Results {
		if r.Status == lint.Pass {
			passed++
		}
		if r.Status < lint.Notice {
			continue
		}
		seen[name] = true
		if accepted[name] == "" {
			t.Errorf("%s: %s: %s %s", what, name, r.Status, r.Details)
		}
	}
	if passed < least {
		t.Errorf("%s: zlint passed %d things, fewer than %d", what, passed, least)
	}
}

func TestZlintFindsNothingUnexpected(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	seen := map[string]bool{}
	certificates := map[string][]byte{}
	for _, i := range made().Issuers {
		certificates["CA "+i.ID] = i.Certificate.Raw
	}
	for _, p := range ca.Profiles() {
		certificates["profile "+p.Name] = f.issue(f.order(p.Name)).DER
	}
	long := f.order("broker")
	long.CommonName = "a-host-name-that-is-longer-than-the-64-octets-of-a-common-name.mqtt.test"
	long.DNSNames = []string{long.CommonName}
	certificates["an empty subject"] = f.issue(long).DER
	for what, der := range certificates {
		c, err := zx509.ParseCertificate(der)
		f.must(err)
		found(t, what, zlint.LintCertificate(c), 40, seen)
	}
	for name := range accepted {
		if !seen[name] {
			t.Errorf("%s is accepted, and zlint does not find it", name)
		}
	}
	serial := f.issue(f.order("device")).SerialNumber
	f.ledger.setStatus(serial, ca.ReasonKeyCompromise, f.clock.now())
	for what, der := range map[string][]byte{"first CRL": made().CRLs[1].DER, "CRL": f.publish("device", true).DER} {
		crl, err := zx509.ParseRevocationList(der)
		f.must(err)
		found(t, what, zlint.LintRevocationList(crl), 1, seen)
	}
}
