package store

import (
	"context"
	"testing"
	"time"

	"github.com/fleetca/fleetca/enroll"
)

// firstSchema makes sure of the first migration, and no other.
func firstSchema(t *testing.T, s *Store) {
	t.Helper()
	steps, err := s.db.migrations()
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.SchemaVersion(t.Context())
	if err == nil && v == 0 {
		err = s.db.migrate(t.Context(), func(q tx) error { return s.applyMigrations(t.Context(), q, steps[:1]) })
	}
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.SchemaVersion(t.Context()); v != 1 || err != nil {
		t.Fatalf("version %d, %v", v, err)
	}
}

// upgraded opens an empty database with the first migration alone, fills it as
// a program of that time did, and migrates it to the last.
func upgraded(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	firstSchema(t, s)
	expires := micros(time.Now().Add(time.Hour))
	for _, row := range []struct {
		text string
		args []any
	}{
		{`INSERT INTO api_tokens (id, name, role, hash, created_at, expires_at, disabled) VALUES ('a1', 'ci', 'factory', $1, 1, $2, 0)`, []any{[]byte("api"), expires}},
		{`INSERT INTO work_orders (id, product, quantity, issued, profile, state, created_at) VALUES ('o1', 'pump', 2, 1, 'device', 'open', 1)`, nil},
		{`INSERT INTO enrollment_tokens (id, hash, work_order, device_id, uses, used, expires_at, created_at) VALUES ('e1', $1, 'o1', '', 2, 1, $2, 1)`, []any{[]byte("token"), expires}},
		{`INSERT INTO devices (id, status, group_name, attributes, work_order, trust_generation, created_at, last_seen_at) VALUES ('d1', 'registered', '', '{}', 'o1', 1, 1, 0)`, nil},
		{`INSERT INTO brokers (id, url, names, kind, status, created_at) VALUES ('b1', 'mqtts://b1.test:8883', '["b1.test"]', 'nats', 'failing', 1)`, nil},
		{`INSERT INTO verifications (id, broker, at, report) VALUES ('v1', 'b1', 1, '{"verdict": "fail", "steps": [{"name": "tcp", "result": "pass"}, {"name": "verify", "result": "fail"}, {"name": "connack", "result": "fail"}]}')`, nil},
		{`INSERT INTO verifications (id, broker, at, report) VALUES ('v2', 'b1', 2, '{"verdict": "pass", "steps": null}')`, nil},
	} {
		err := s.write(t.Context(), func(ctx context.Context, q tx) error {
			_, err := q.exec(ctx, row.text, row.args...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// A database that the first migration made keeps what it holds, and works with
// all that came later.
func testUpgrade(t *testing.T, url string) {
	s := upgraded(t, url)
	ctx := t.Context()
	all, err := s.db.migrations()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.SchemaVersion(ctx); v != len(all) || err != nil {
		t.Fatalf("version %d of %d, %v", v, len(all), err)
	}
	old, err := s.APITokenByHash(ctx, []byte("api"))
	if err != nil || old.ID != "a1" || old.Role != enroll.RoleFactory || old.Owner != "" || old.WorkOrder != "" || old.LastUsedAt != nil || old.Disabled {
		t.Fatalf("the API token of before is %#v, %v", old, err)
	}
	if o, err := s.WorkOrder(ctx, "o1"); err != nil || o.Issued != 1 {
		t.Fatalf("%+v, %v", o, err)
	}
	if e, err := s.EnrollmentTokenByHash(ctx, []byte("token")); err != nil || e.Used != 1 {
		t.Fatalf("%+v, %v", e, err)
	}
	if d, err := s.Device(ctx, "d1"); err != nil || d.Status != enroll.DeviceRegistered {
		t.Fatalf("%+v, %v", d, err)
	}
	marks, _, err := s.VerificationMarks(ctx, "b1", enroll.Page{})
	if err != nil || len(marks) != 2 || marks[0].Verdict != "pass" || marks[0].Failed != "" || marks[1].Verdict != "fail" || marks[1].Failed != "verify" {
		t.Fatalf("%+v, %v", marks, err)
	}
	if b, err := s.Broker(ctx, "b1"); err != nil || !b.LastVerification.Since.Equal(b.LastVerification.At) || b.LastVerification.Looks != 1 || b.LastVerification.Scheduled {
		t.Fatalf("the verification of before is %+v, %v", b.LastVerification, err)
	}
	if err := s.DisableAPIToken(ctx, "a1", someChange()); err != nil {
		t.Error(err)
	}
	now := s.now()
	if err := s.CreateUser(ctx, enroll.User{Name: "eve", Role: enroll.RoleAdmin, PasswordHash: "h", CreatedAt: now, ChangedAt: now}, someChange()); err != nil {
		t.Error(err)
	}
	login := enroll.UserLogin{User: "eve", Role: enroll.RoleAdmin, At: now, Checked: "h", Hash: "h", Token: &enroll.APIToken{ID: "l1", Name: "login", Owner: "eve", Role: enroll.RoleAdmin, Hash: []byte("login"), CreatedAt: now, ExpiresAt: now.Add(time.Hour)}}
	if err := s.Login(ctx, login, someChange()); err != nil {
		t.Error(err)
	}
}

func TestSQLiteUpgrade(t *testing.T) {
	t.Parallel()
	testUpgrade(t, t.TempDir()+"/fleetca.db")
}
