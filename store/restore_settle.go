package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// actionRestore is the action of a restore's audit event.
const actionRestore = "authority.restore"

// A Keep names something that was usable when the backup was written. Whether
// it was used up or withdrawn since, nobody can know from the backup, so a
// restore makes it unusable unless it is told to keep it (I6, I20).
type Keep string

// What a restore makes unusable.
const (
	// KeepEnrollmentTokens: a token may have been spent since. They expire now.
	// The very request that spent one before the backup still gets its answer.
	KeepEnrollmentTokens Keep = "enrollment-tokens"
	// KeepWorkOrders: devices may have been enrolled since, which the restored
	// quota does not count. Open ones are closed.
	KeepWorkOrders Keep = "work-orders"
	// KeepAPITokens: one may have been withdrawn since. They are disabled.
	KeepAPITokens Keep = "api-tokens"
	// KeepManufacturers: a device may have enrolled since with its certificate of
	// birth, or a line been taken off a manifest. They are disabled.
	KeepManufacturers Keep = "manufacturers"
	// KeepUsers: one may have been disabled since, or got another password.
	// They are disabled, and their sessions end.
	KeepUsers Keep = "users"
)

// voids says how each is made unusable.
var voids = []struct {
	keep Keep
	void func(ctx context.Context, q tx, now int64) (int64, error)
}{
	{KeepEnrollmentTokens, func(ctx context.Context, q tx, now int64) (int64, error) {
		return q.exec(ctx, `UPDATE enrollment_tokens SET expires_at = $1 WHERE expires_at > $1 AND used < uses`, now)
	}},
	{KeepWorkOrders, func(ctx context.Context, q tx, _ int64) (int64, error) {
		return q.exec(ctx, `UPDATE work_orders SET state = 'closed' WHERE state = 'open'`)
	}},
	{KeepAPITokens, func(ctx context.Context, q tx, now int64) (int64, error) {
		return q.exec(ctx, `UPDATE api_tokens SET disabled = 1 WHERE disabled = 0 AND expires_at > $1`, now)
	}},
	{KeepManufacturers, func(ctx context.Context, q tx, _ int64) (int64, error) {
		return q.exec(ctx, `UPDATE manufacturers SET state = 'disabled' WHERE state = 'active'`)
	}},
	{KeepUsers, func(ctx context.Context, q tx, now int64) (int64, error) {
		if _, err := q.exec(ctx, `DELETE FROM sessions`); err != nil {
			return 0, err
		}
		return q.exec(ctx, `UPDATE users SET disabled = 1, changed_at = $1 WHERE disabled = 0`, now)
	}},
}

// Keeps lists everything that can be kept.
func Keeps() []Keep {
	var all []Keep
	for _, v := range voids {
		all = append(all, v.keep)
	}
	return all
}

func checkKeep(keep []Keep) error {
	for _, k := range keep {
		if !slices.Contains(Keeps(), k) {
			var names []string
			for _, known := range Keeps() {
				names = append(names, string(known))
			}
			return ca.Errorf(ca.KindMalformed, "keep", "any of "+strings.Join(names, ", "), "%.40q is nothing that can be kept", k)
		}
	}
	return nil
}

// settle makes restored rows safe to go on from, and records the restore.
//
// Serial numbers are random and need nothing (I4). CRLs do: brokers may hold
// some that were published after the backup, under numbers that the restored
// rows know nothing of (I11). So numbers go on from the time in microseconds,
// which is beyond whatever was published, as long as that were fewer than a
// million a second. Unlike a fixed gap it also is when one backup is restored
// twice. It fits the column, and a JSON number, until the year 2255.
//
// The CRLs in the backup are left out where the key to sign the next one is
// here: none of them may be served again, and without one the next is due at
// once. A root's CRL, which is signed elsewhere, stays.
//
// Which server drives a broker is forgotten: those that run on the restored
// database say so when they start, and work must not wait for one of before.
func (s *Store) settle(ctx context.Context, q tx, b *Backup, c RestoreConfig, jobs []enroll.Job) (*Restored, error) {
	now := s.now()
	r := &Restored{
		BackupSHA256: b.SHA256(), BackupAt: b.At, Program: b.Program, Engine: b.Engine, Schema: b.Schema, Rows: b.Rows,
		Voided: map[Keep]int64{}, Kept: append([]Keep{}, c.Keep...),
	}
	at, err := value[int64](ctx, q, `SELECT at FROM events ORDER BY at DESC, id DESC LIMIT 1`)
	if err != nil && !errors.Is(err, errNoRows) {
		return nil, fmt.Errorf("read the newest audit event: %w", err)
	}
	r.LastEvent = fromMicros(at)
	if err := b.checkClock(now, r.LastEvent); err != nil {
		return nil, err
	}
	if _, err := q.exec(ctx, `DELETE FROM broker_drivers`); err != nil {
		return nil, fmt.Errorf("forget the servers of before: %w", err)
	}
	for _, v := range voids {
		if slices.Contains(c.Keep, v.keep) {
			continue
		}
		if r.Voided[v.keep], err = v.void(ctx, q, micros(now)); err != nil {
			return nil, fmt.Errorf("void %s: %w", v.keep, err)
		}
	}
	carried, err := carryCRLs(ctx, q, c.CRLs)
	if err != nil {
		return nil, err
	}
	r.CRLs, r.Revoked, r.Unknown = len(c.CRLs), carried.revoked, carried.unknown
	if r.CRLNumber, err = raiseCRLNumbers(ctx, q, now, b.At, carried.number); err != nil {
		return nil, err
	}
	return r, recordRestore(ctx, q, r, c, jobs, now)
}

// raiseCRLNumbers makes every CRL to come follow every one there ever was, and
// returns the number that the next one follows. Should the numbers of the
// backup be beyond the time already, because a clock was wrong once, the time
// since the backup bounds how many were taken since. seen is the highest that
// was met elsewhere.
func raiseCRLNumbers(ctx context.Context, q tx, now, backupAt time.Time, seen int64) (int64, error) {
	highest, err := value[int64](ctx, q, `SELECT COALESCE(MAX(number), 0) FROM crl_numbers`)
	if err != nil {
		return 0, fmt.Errorf("read CRL numbers: %w", err)
	}
	number := max(micros(now), seen, highest+max(now.Sub(backupAt), 0).Microseconds())
	if _, err := q.exec(ctx, `UPDATE crl_numbers SET number = $1`, number); err != nil {
		return 0, fmt.Errorf("raise CRL numbers: %w", err)
	}
	if _, err := q.exec(ctx, `DELETE FROM crls WHERE issuer_id IN (SELECT id FROM issuers WHERE key_uri <> '')`); err != nil {
		return 0, fmt.Errorf("leave out the CRLs of before: %w", err)
	}
	return number, nil
}

// recordRestore records the audit event, with the jobs that waited.
func recordRestore(ctx context.Context, q tx, r *Restored, c RestoreConfig, jobs []enroll.Job, now time.Time) error {
	detail, err := json.Marshal(r)
	if err != nil {
		return err
	}
	change, err := prepare(enroll.Change{Jobs: jobs, Event: enroll.Event{
		ID: c.ID, At: now, Actor: c.Actor, Action: actionRestore, Subject: "authority", Detail: detail,
	}}, nil)
	if err != nil {
		return err
	}
	return change.record(ctx, q)
}
