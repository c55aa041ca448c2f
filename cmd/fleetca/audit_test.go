package main

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The audit finds nothing in what a server issued, and what a hand in the
// database changed.
func TestAuditCertificates(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	args := s.clientArgs(t, s.people, "operator")
	out := t.TempDir()
	for _, id := range []string{"audited-1", "audited-2"} {
		mustRun(t, append([]string{"device", "enroll", id, "--out", filepath.Join(out, id)}, args...)...)
	}
	audit := append([]string{"audit", "certificates", "--json"}, s.clientArgs(t, s.people, "auditor")...)
	var report auditReport
	if err := json.Unmarshal([]byte(mustRun(t, audit...)), &report); err != nil || report.Looked < 4 || report.Found != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "fleetca.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, change := range []string{
		`UPDATE certificates SET subject = 'CN=somebody' WHERE holder_id = 'audited-1'`,
		`UPDATE certificates SET profile = 'none', not_after = not_after + 1000000 WHERE holder_id = 'audited-2'`,
	} {
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
	looked := report.Looked
	text, stderr, code := fleetca(t, audit...)
	report = auditReport{}
	if err := json.Unmarshal([]byte(text), &report); err != nil || code != exitFail || report.Looked < looked {
		t.Fatalf("%d, %+v, %v, %s", code, report, err, stderr)
	}
	want := map[string]int64{"ledger": 2, "validity": 1} // validity: its profile is not known
	for rule, n := range want {
		if report.Rules[rule] != n {
			t.Errorf("%s: %d findings, want %d", rule, report.Rules[rule], n)
		}
	}
	if report.Found != 3 || len(report.Findings) != 3 {
		t.Errorf("%d findings: %+v", report.Found, report.Findings)
	}

	// More than a table lists.
	if _, err := db.Exec(`INSERT INTO certificates (serial, recorded_at, sha256, subject, names, issuer_id, profile, holder_kind, holder_id, status, reason, revoked_at, not_before, not_after, key_sha256, cdp, der)
		WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
		SELECT printf('%032x', n), recorded_at, sha256, subject, names, issuer_id, profile, holder_kind, holder_id, status, reason, revoked_at, not_before, not_after, key_sha256, cdp, der
		FROM n, certificates WHERE holder_id = 'audited-1'`, maxFindingsShown); err != nil {
		t.Fatal(err)
	}
	text, _, _ = fleetca(t, audit...)
	report = auditReport{}
	if err := json.Unmarshal([]byte(text), &report); err != nil || report.Found <= maxFindingsShown || int64(len(report.Findings)) != report.Found {
		t.Errorf("--json has %d of %d findings, %v", len(report.Findings), report.Found, err)
	}
	audit[slices.Index(audit, "--json")] = "--csv"
	text, _, _ = fleetca(t, audit...)
	if lines := int64(strings.Count(text, "\n")); lines != report.Found+1 {
		t.Errorf("--csv has %d lines for %d findings", lines, report.Found)
	}
	text, _, _ = fleetca(t, slices.DeleteFunc(audit, func(arg string) bool { return arg == "--csv" })...)
	if lines := int64(strings.Count(text, "\n")); lines > maxFindingsShown+10 || !strings.Contains(text, "not listed") {
		t.Errorf("the table has %d lines", lines)
	}
}
