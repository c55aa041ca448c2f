package brokers_test

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/brokers/brokertest"
)

// Each bad bundle is refused with its own problem, and the file with the last
// good one is as it was.
func TestGuardRefuses(t *testing.T) {
	a, b := brokertest.NewCA(t, "a"), brokertest.NewCA(t, "b")
	namesake := brokertest.NewCA(t, "a") // same name, other key
	previous := a.CRL(brokertest.List{Number: 10})
	good := a.CRL(brokertest.List{Number: 11})
	scopes := func(cas ...*brokertest.CA) []brokers.Scope {
		var scopes []brokers.Scope
		for _, ca := range cas {
			scopes = append(scopes, ca.Scope())
		}
		return scopes
	}
	moved := brokers.Scope{Issuer: a.Certificate, DistributionPoints: []string{a.URL, "http://old.test/a.crl"}}
	critical := func(id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{2, 1, 1}}}
	}
	flag := func(tag, value byte) []byte {
		idp := brokertest.IDP(a.URL)
		idp = append(idp, tag, 1, value)
		idp[1] += 3
		return idp
	}
	shard := *a // another list of the same issuer
	shard.URL = "http://crl.test/a/1.crl"
	garbled := slices.Clone(good)
	garbled[len(garbled)/2] ^= 1

	for _, test := range []struct {
		name    string
		pem     []byte
		scopes  []brokers.Scope
		problem brokers.Problem
	}{
		{"nothing", nil, scopes(a), brokers.ProblemEmpty},
		{"white space", []byte(" \n\n"), scopes(a), brokers.ProblemEmpty},
		{"garbage", []byte("garbage"), scopes(a), brokers.ProblemMalformed},
		{"garbage before", join([]byte("x\n"), good), scopes(a), brokers.ProblemMalformed},
		{"garbage after", join(good, []byte("x\n")), scopes(a), brokers.ProblemMalformed},
		{"garbage between", join(good, []byte("# b\n"), b.CRL(brokertest.List{})), scopes(a, b), brokers.ProblemMalformed},
		{"cut off", good[:len(good)-30], scopes(a), brokers.ProblemMalformed},
		{"cut off, then whole", join(good[:len(good)-30], []byte("\n"), good), scopes(a), brokers.ProblemMalformed},
		{"a bit changed", garbled, scopes(a), ""},
		{"a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw}), scopes(a), brokers.ProblemMalformed},
		{"PEM headers", []byte(strings.Replace(string(good), "-----\n", "-----\nA: b\n\n", 1)), scopes(a), brokers.ProblemMalformed},
		{"data after the list", trailing(good), scopes(a), brokers.ProblemMalformed},
		{"no scope", good, nil, brokers.ProblemUnknownIssuer},
		{"unknown issuer", join(good, b.CRL(brokertest.List{})), scopes(a), brokers.ProblemUnknownIssuer},
		{"missing", good, scopes(a, b), brokers.ProblemMissing},
		{"twice", join(good, a.CRL(brokertest.List{Number: 12})), scopes(a), brokers.ProblemDuplicate},
		{"a shard missing", good, scopes(a, &shard), brokers.ProblemMissing},
		{"a shard twice", join(shard.CRL(brokertest.List{Number: 12}), good, shard.CRL(brokertest.List{Number: 11})), scopes(a, &shard), brokers.ProblemDuplicate},
		{"a list for two shards", join(good, shard.CRL(brokertest.List{Number: 12, IDP: brokertest.IDP(a.URL, shard.URL)})), scopes(a, &shard), brokers.ProblemScope},
		{"a list for no shard", join(good, shard.CRL(brokertest.List{Number: 12, IDP: brokertest.IDP("http://crl.test/a/2.crl")})), scopes(a, &shard), brokers.ProblemUncovered},
		{"a shard's list without IDP", join(good, shard.CRL(brokertest.List{Number: 12, NoIDP: true})), scopes(a, &shard), brokers.ProblemScope},
		{"an older list of one shard", join(shard.CRL(brokertest.List{Number: 12}), a.CRL(brokertest.List{Number: 9})), scopes(a, &shard), brokers.ProblemNumber},
		{"wrong signature", namesake.CRL(brokertest.List{Number: 11}), scopes(a), brokers.ProblemSignature},
		{"expired", a.CRL(brokertest.List{Number: 11, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(-time.Second)}), scopes(a), brokers.ProblemExpired},
		{"from the future", a.CRL(brokertest.List{Number: 11, ThisUpdate: time.Now().Add(10 * time.Minute)}), scopes(a), brokers.ProblemNotYetValid},
		{"no IDP", a.CRL(brokertest.List{Number: 11, NoIDP: true}), scopes(a), brokers.ProblemScope},
		{"IDP without URI", a.CRL(brokertest.List{Number: 11, IDP: []byte{0x30, 0}}), scopes(a), brokers.ProblemScope},
		{"IDP malformed", a.CRL(brokertest.List{Number: 11, IDP: []byte("x")}), scopes(a), brokers.ProblemScope},
		{"IDP not critical", a.CRL(brokertest.List{Number: 11, NoIDP: true, Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Value: brokertest.IDP(a.URL)}}}), scopes(a), brokers.ProblemScope},
		{"only users", a.CRL(brokertest.List{Number: 11, IDP: flag(0x81, 0xff)}), scopes(a), brokers.ProblemScope},
		{"only CAs", a.CRL(brokertest.List{Number: 11, IDP: flag(0x82, 0xff)}), scopes(a), brokers.ProblemScope},
		{"indirect", a.CRL(brokertest.List{Number: 11, IDP: flag(0x84, 0xff)}), scopes(a), brokers.ProblemScope},
		{"false written out", a.CRL(brokertest.List{Number: 11, IDP: flag(0x84, 0)}), scopes(a), brokers.ProblemScope},
		{"delta", a.CRL(brokertest.List{Number: 11, Extra: critical(2, 5, 29, 27)}), scopes(a), brokers.ProblemScope},
		{"uncovered", good, []brokers.Scope{moved}, brokers.ProblemUncovered},
		{"covered by a prefix only", a.CRL(brokertest.List{Number: 11, IDP: brokertest.IDP(a.URL + "x")}), scopes(a), brokers.ProblemUncovered},
		{"older", a.CRL(brokertest.List{Number: 9}), scopes(a), brokers.ProblemNumber},
		{"same number, other list", a.CRL(brokertest.List{Number: 10}), scopes(a), brokers.ProblemNumber},
		{"larger than the limit", join(good, bytes.Repeat([]byte("\n"), 1<<20)), scopes(a), brokers.ProblemOversized},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := must(brokers.ParseBundle(previous))(t)
			file := brokers.CRLFile(filepath.Join(t.TempDir(), "crl.pem"))
			if err := file.Store(before); err != nil {
				t.Fatal(err)
			}
			guard := brokers.Guard{MaxBytes: 1 << 20}
			lists, err := guard.Check(brokers.Bundle{PEM: test.pem, Scopes: test.scopes}, before)
			refusal, ok := errors.AsType[*brokers.GuardError](err)
			if !ok || lists != nil {
				t.Fatalf("got %v, %v", lists, err)
			}
			if test.problem != "" && refusal.Problem != test.problem {
				t.Errorf("problem %q, want %q: %v", refusal.Problem, test.problem, err)
			}
			if refusal.Unwrap() == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("text: %v", err)
			}
			if now := must(os.ReadFile(string(file)))(t); !bytes.Equal(now, previous) {
				t.Error("the last good bundle changed")
			}
		})
	}
}

func TestGuardAdmits(t *testing.T) {
	a, b := brokertest.NewCA(t, "a"), brokertest.NewCA(t, "b")
	shard := *a // another list of the same issuer
	shard.URL = "http://crl.test/a/1.crl"
	successor := brokertest.NewCA(t, "a") // same name, new key: both in use for a while
	successor.URL = "http://crl.test/a2.crl"
	first := a.CRL(brokertest.List{Number: 10})
	previous := must(brokers.ParseBundle(first))(t)
	old := brokers.Scope{Issuer: a.Certificate, DistributionPoints: []string{a.URL, "http://old.test/a.crl"}}
	both := brokertest.IDP("http://old.test/a.crl", a.URL)
	for _, test := range []struct {
		name   string
		pem    []byte
		scopes []brokers.Scope
	}{
		{"shards, each numbered by itself", join(shard.CRL(brokertest.List{Number: 3}), a.CRL(brokertest.List{Number: 11})), []brokers.Scope{a.Scope(), shard.Scope()}},
		{"the same again", first, []brokers.Scope{a.Scope()}},
		{"a newer one", a.CRL(brokertest.List{Number: 11}), []brokers.Scope{a.Scope()}},
		{"an issuer more, in another order", join([]byte("\n"), b.CRL(brokertest.List{Number: 1}), []byte("\r\n"), first), []brokers.Scope{a.Scope(), b.Scope()}},
		{"a moved URL", a.CRL(brokertest.List{Number: 11, IDP: both}), []brokers.Scope{old}},
		{"two issuers of one name", join(successor.CRL(brokertest.List{Number: 1}), first), []brokers.Scope{a.Scope(), successor.Scope()}},
		{"clock a little behind", a.CRL(brokertest.List{Number: 11, ThisUpdate: time.Now().Add(time.Minute)}), []brokers.Scope{a.Scope()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			lists, err := new(brokers.Guard).Check(brokers.Bundle{PEM: test.pem, Scopes: test.scopes}, previous)
			if err != nil {
				t.Fatal(err)
			}
			for i, scope := range test.scopes {
				if err := lists[i].CheckSignatureFrom(scope.Issuer); err != nil {
					t.Errorf("list %d: %v", i, err)
				}
			}
			if again := must(brokers.ParseBundle(brokers.EncodeBundle(lists)))(t); len(again) != len(lists) {
				t.Errorf("%d lists after encoding %d", len(again), len(lists))
			}
		})
	}
}

func TestCRLFileAbsent(t *testing.T) {
	lists, err := brokers.CRLFile(filepath.Join(t.TempDir(), "crl.pem")).Load()
	if lists != nil || err != nil {
		t.Fatalf("got %v, %v", lists, err)
	}
}

// FuzzIssuingDistributionPoint: whatever parses is covered by what it lists, and
// nothing crashes.
func FuzzIssuingDistributionPoint(f *testing.F) {
	f.Add(brokertest.IDP("http://crl.test/a.crl", "ldap://b"))
	f.Add(brokertest.IDP())
	f.Add([]byte{0x30, 0})
	f.Add([]byte{0x30, 6, 0x81, 1, 0xff, 0x84, 1, 0xff})
	f.Add([]byte{0x30, 4, 0x83, 2, 1, 2})
	f.Fuzz(func(t *testing.T, der []byte) {
		point, err := brokers.ParseIssuingDistributionPoint(der)
		if err != nil {
			return
		}
		for _, uri := range point.URIs {
			if !point.Covers(uri) || strings.ContainsAny(uri, " \r\n\x00") {
				t.Errorf("URI %q", uri)
			}
		}
		if !point.Partial() && len(point.URIs) > 0 {
			if _, err := brokers.ParseIssuingDistributionPoint(brokertest.IDP(point.URIs...)); err != nil {
				t.Errorf("encoded again: %v", err)
			}
		}
	})
}

// FuzzParseBundle: what is accepted is nothing but lists, so that encoding it
// again loses only white space and line breaks.
func FuzzParseBundle(f *testing.F) {
	ca := brokertest.NewCA(f, "a")
	list := ca.CRL(brokertest.List{Number: 1, Revoked: nil})
	f.Add(list)
	f.Add(join(list, []byte("\n"), list))
	f.Add(join([]byte("x"), list))
	f.Add(list[:len(list)-5])
	f.Fuzz(func(t *testing.T, data []byte) {
		lists, err := brokers.ParseBundle(data)
		if err != nil {
			return
		}
		squeeze := func(b []byte) string { return strings.Join(strings.Fields(string(b)), "") }
		if got, want := squeeze(brokers.EncodeBundle(lists)), squeeze(data); got != want {
			t.Errorf("%q became %q", want, got)
		}
	})
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// trailing puts a byte behind the list, inside the PEM block.
func trailing(list []byte) []byte {
	block, _ := pem.Decode(list)
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: append(slices.Clone(block.Bytes), 0)})
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
