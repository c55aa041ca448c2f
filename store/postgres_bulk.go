package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fleetca/fleetca/enroll"
)

// allFree is Store.allFree in one query. Where EXISTS stood, PostgreSQL might
// read a whole table into a hash.
func (e *postgresEngine) allFree(ctx context.Context, questions []first, now time.Time) ([]bool, error) {
	n := len(questions)
	scopes, keys, public := make([]string, n), make([][]byte, n), make([]string, n)
	devices, orders, tokens := make([]string, n), make([]string, n), make([]string, n)
	for i, f := range questions {
		scopes[i], keys[i], public[i], devices[i], orders[i], tokens[i] = f.scope, f.key, f.public, f.device, f.order, f.token
	}
	free := make([]bool, n)
	for i := range free {
		free[i] = true
	}
	taken, err := collect(ctx, e, func(row scanner) (i int64, err error) {
		err = row.Scan(&i)
		return i, err
	}, `SELECT n FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[])
			WITH ORDINALITY AS c (scope, key, public, device, work_order, token, n)
		WHERE (SELECT 1 FROM idempotency i WHERE i.scope = c.scope AND i.key_sha256 = c.key LIMIT 1) IS NOT NULL
			OR (SELECT 1 FROM keys k WHERE k.sha256 = c.public LIMIT 1) IS NOT NULL
			OR (SELECT 1 FROM devices d WHERE d.id = c.device AND d.status <> 'registered' LIMIT 1) IS NOT NULL
			OR c.work_order <> '' AND (SELECT 1 FROM work_orders o WHERE o.id = c.work_order AND o.state = 'open' AND o.issued < o.quantity LIMIT 1) IS NULL
			OR c.token <> '' AND (SELECT 1 FROM enrollment_tokens t WHERE t.id = c.token AND t.used < t.uses AND t.expires_at > $7
				AND (t.device_id = '' OR t.device_id = c.device) AND t.renews = 0 LIMIT 1) IS NULL`,
		scopes, keys, public, devices, orders, tokens, micros(now))
	for _, i := range taken {
		free[i-1] = false
	}
	return free, err
}

// errNotTogether says that of several issuances not all can be recorded by one
// statement for each table: one is refused, or two are about the same row.
var errNotTogether = errors.New("not all of a batch can be recorded together")

// applyTogether records plain first enrollments by one statement for each
// table, all sent at once. It decides nothing new: each statement is what
// Store.apply runs for one, and unless every row is changed that it would
// change the answer is errNotTogether, with the transaction to be rolled back.
func (s *Store) applyTogether(ctx context.Context, t pgx.Tx, batch []*issuance) error {
	now := micros(s.now())
	b := &togetherBatch{Batch: &pgx.Batch{}}
	b.keys(batch, now)
	b.tokens(batch, now)
	b.publicKeys(batch)
	b.devices(batch, now)
	b.orders(batch, now)
	b.certificates(batch, now)
	b.events(batch)
	results := t.SendBatch(ctx, b.Batch)
	var err error
	for _, want := range b.want {
		var tag pgconn.CommandTag
		if tag, err = results.Exec(); err != nil {
			break
		}
		if tag.RowsAffected() != want {
			err = errNotTogether
			break
		}
	}
	if closed := results.Close(); err == nil {
		err = closed
	}
	if own, ok := errors.AsType[*pgconn.PgError](err); ok && (own.Code == "21000" || own.Code[:2] == "23") {
		return errNotTogether // two are about the same row, or a constraint of one: alone it says which
	}
	return err
}

// A togetherBatch is statements with how many rows each must change.
type togetherBatch struct {
	*pgx.Batch
	want []int64
}

func (b *togetherBatch) add(want int, text string, args ...any) {
	if want > 0 {
		b.want = append(b.want, int64(want))
		b.Queue(text, args...)
	}
}

// columnOf returns one value of each element, as an array of PostgreSQL.
func columnOf[T, V any](all []T, of func(T) V) []V {
	values := make([]V, len(all))
	for i, v := range all {
		values[i] = of(v)
	}
	return values
}

func (b *togetherBatch) keys(batch []*issuance, now int64) {
	keyed := slices.DeleteFunc(slices.Clone(batch), func(is *issuance) bool { return is.claim.Idempotency == nil })
	b.add(len(keyed), `INSERT INTO idempotency (scope, key_sha256, request_hash, serial, answer, created_at)
		SELECT *, $6::bigint FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[], $5::bytea[]) ON CONFLICT (scope, key_sha256) DO NOTHING`,
		columnOf(keyed, func(is *issuance) string { return is.claim.Idempotency.Scope }),
		columnOf(keyed, func(is *issuance) []byte { sum := sha256.Sum256([]byte(is.claim.Idempotency.Key)); return sum[:] }),
		columnOf(keyed, func(is *issuance) []byte { return is.claim.Idempotency.RequestHash }),
		columnOf(keyed, serialOf), columnOf(keyed, func(is *issuance) []byte { return is.claim.Idempotency.Answer }), now)
}

func serialOf(is *issuance) string { return string(is.cert.SerialNumber) }

func (b *togetherBatch) tokens(batch []*issuance, now int64) {
	spending := slices.DeleteFunc(slices.Clone(batch), func(is *issuance) bool { return is.claim.Token == nil })
	uses, devices := map[string]int64{}, map[string]string{}
	for _, is := range spending {
		uses[is.claim.Token.ID]++
		devices[is.claim.Token.ID] = is.claim.Token.DeviceID
	}
	ids := slices.Sorted(maps.Keys(uses)) // in this order: no two transactions wait for each other
	// A token of one device has one use here at most, or the device is twice in
	// the batch, which its own row tells.
	b.add(len(ids), `UPDATE enrollment_tokens t SET used = t.used + c.n
		FROM unnest($1::text[], $2::bigint[], $3::text[]) AS c (id, n, device)
		WHERE t.id = c.id AND t.used + c.n <= t.uses AND t.expires_at > $4 AND (t.device_id = '' OR t.device_id = c.device) AND t.renews = 0`,
		ids, columnOf(ids, func(id string) int64 { return uses[id] }), columnOf(ids, func(id string) string { return devices[id] }), now)
	b.add(len(spending), `INSERT INTO token_uses (token_id, request_hash, serial)
		SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[]) ON CONFLICT (token_id, request_hash) DO NOTHING`,
		columnOf(spending, func(is *issuance) string { return is.claim.Token.ID }),
		columnOf(spending, func(is *issuance) []byte { return is.claim.Token.RequestHash }), columnOf(spending, serialOf))
}

func (b *togetherBatch) publicKeys(batch []*issuance) {
	b.add(len(batch), `INSERT INTO keys (sha256, holder_kind, holder_id)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT (sha256) DO NOTHING`,
		columnOf(batch, func(is *issuance) string { return is.cert.KeySHA256 }),
		columnOf(batch, func(is *issuance) string { return string(is.cert.Holder.Kind) }),
		columnOf(batch, func(is *issuance) string { return is.cert.Holder.ID }))
}

func (b *togetherBatch) devices(batch []*issuance, now int64) {
	device := func(of func(d *enroll.DeviceClaim) string) []string {
		return columnOf(batch, func(is *issuance) string { return of(is.claim.Device) })
	}
	b.add(len(batch), `INSERT INTO devices
			(id, group_name, attributes, work_order, trust_generation, not_after, status, created_at, last_seen_at, enrolled_at)
		SELECT *, 'active', $7::bigint, $7::bigint, $7::bigint FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
		ON CONFLICT (id) DO UPDATE SET status = 'active', not_after = excluded.not_after,
			enrolled_at = CASE WHEN devices.enrolled_at = 0 THEN excluded.enrolled_at ELSE devices.enrolled_at END,
			group_name = CASE WHEN excluded.group_name = '' THEN devices.group_name ELSE excluded.group_name END,
			attributes = CASE WHEN excluded.attributes = '' THEN devices.attributes ELSE excluded.attributes END,
			work_order = CASE WHEN excluded.work_order = '' THEN devices.work_order ELSE excluded.work_order END,
			trust_generation = excluded.trust_generation, last_seen_at = excluded.last_seen_at
		WHERE devices.status = 'registered'`,
		device(func(d *enroll.DeviceClaim) string { return d.ID }), device(func(d *enroll.DeviceClaim) string { return d.Group }),
		device(func(d *enroll.DeviceClaim) string { return attributesText(d.Attributes) }),
		columnOf(batch, func(is *issuance) string { return is.claim.Order }),
		columnOf(batch, func(is *issuance) int64 { return is.claim.Device.TrustGeneration }),
		columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotAfter) }), now)
}

func (b *togetherBatch) orders(batch []*issuance, now int64) {
	taken := map[string]int64{}
	for _, is := range batch {
		if takesQuota(is.claim) {
			taken[is.claim.Order]++
		}
	}
	ids := slices.Sorted(maps.Keys(taken))
	b.add(len(ids), `UPDATE work_orders o SET issued = o.issued + c.n, full_at = CASE WHEN o.issued + c.n >= o.quantity THEN $3 ELSE o.full_at END
		FROM unnest($1::text[], $2::bigint[]) AS c (id, n) WHERE o.id = c.id AND o.state = 'open' AND o.issued + c.n <= o.quantity`,
		ids, columnOf(ids, func(id string) int64 { return taken[id] }), now)
}

func (b *togetherBatch) certificates(batch []*issuance, now int64) {
	text := func(of func(is *issuance) string) []string { return columnOf(batch, of) }
	b.add(len(batch), `INSERT INTO certificates (serial, sha256, subject, names, issuer_id, profile, holder_kind, holder_id,
			not_before, not_after, key_sha256, cdp, crl_shard, der, recorded_at, status, reason, revoked_at)
		SELECT *, $15::bigint, 'good', '', 0 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
			$9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::bigint[], $14::bytea[])
		ON CONFLICT (serial) DO NOTHING`,
		text(serialOf), text(func(is *issuance) string { return is.cert.SHA256 }), text(func(is *issuance) string { return is.cert.Subject }),
		text(func(is *issuance) string { return listText(is.cert.Names) }), text(func(is *issuance) string { return is.cert.IssuerID }),
		text(func(is *issuance) string { return is.cert.Profile }), text(func(is *issuance) string { return string(is.cert.Holder.Kind) }),
		text(func(is *issuance) string { return is.cert.Holder.ID }),
		columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotBefore) }), columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotAfter) }),
		text(func(is *issuance) string { return is.cert.KeySHA256 }), text(func(is *issuance) string { return is.cert.CDP }),
		columnOf(batch, func(is *issuance) int64 { return int64(is.cert.CRLShard) }),
		columnOf(batch, func(is *issuance) []byte { return is.cert.DER }), now)
}

func (b *togetherBatch) events(batch []*issuance) {
	text := func(of func(e enroll.Event) string) []string {
		return columnOf(batch, func(is *issuance) string { return of(is.Event) })
	}
	b.add(len(batch), `INSERT INTO events (id, at, actor, action, subject, canonical, leaf_hash)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])`,
		text(func(e enroll.Event) string { return e.ID }), columnOf(batch, func(is *issuance) int64 { return micros(is.Event.At) }),
		text(func(e enroll.Event) string { return e.Actor }), text(func(e enroll.Event) string { return e.Action }), text(func(e enroll.Event) string { return e.Subject }),
		columnOf(batch, func(is *issuance) []byte { return is.canonical }), columnOf(batch, func(is *issuance) []byte { return is.leafHash }))
}
