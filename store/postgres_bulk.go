package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fleetca/fleetca/enroll"
)

// allFree is Store.allFree in one query. Where EXISTS stood, PostgreSQL might
// read a whole table into a hash; where the arrays stood by themselves, it
// planned the query anew each time, for as many rows as they had.
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
	}, `SELECT n FROM unnest((SELECT $1::text[]), (SELECT $2::bytea[]), (SELECT $3::text[]),
			(SELECT $4::text[]), (SELECT $5::text[]), (SELECT $6::text[])) WITH ORDINALITY AS c (scope, key, public, device, work_order, token, n)
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
// statement: one is refused, or two are about the same row.
var errNotTogether = errors.New("not all of a batch can be recorded together")

// recordTogether records plain first enrollments by one statement: one round
// trip, and where runner is no transaction, a transaction. It decides nothing
// new: each part is what Store.apply runs for one, and unless every row is
// changed that it would change nothing is, and the answer is errNotTogether.
func recordTogether(ctx context.Context, runner pgxRunner, batch []*issuance, now int64) error {
	var a togetherArgs
	a.idempotency(batch)
	a.tokens(batch)
	a.publicKeys(batch)
	a.devices(batch)
	a.orders(batch)
	a.certificates(batch)
	a.events(batch)
	_, err := runner.Exec(ctx, togetherText(a.parts), append(a.values, now)...)
	if own, ok := errors.AsType[*pgconn.PgError](err); ok && (own.Code == "22012" || own.Code == "21000" || own.Code[:2] == "23") {
		return errNotTogether // too few rows, two about the same one, or a constraint of one: alone it says which
	}
	return err
}

// togetherParts are the changes of one table each, in the order of Store.apply.
// [type] stands for the next argument, an array, and $now for the last of all.
var togetherParts = [...]struct{ name, text string }{
	{"idempotency", `INSERT INTO idempotency (scope, key_sha256, request_hash, serial, answer, created_at)
		SELECT *, $now FROM unnest([text], [bytea], [bytea], [text], [bytea])`},
	// A token of one device has one use here at most, or the device is twice in the batch, which its own row tells.
	{"tokens", `UPDATE enrollment_tokens t SET used = t.used + c.n FROM unnest([text], [bigint], [text]) AS c (id, n, device)
		WHERE t.id = c.id AND t.used + c.n <= t.uses AND t.expires_at > $now AND (t.device_id = '' OR t.device_id = c.device) AND t.renews = 0`},
	{"uses", `INSERT INTO token_uses (token_id, request_hash, serial)
		SELECT * FROM unnest([text], [bytea], [text])`},
	{"keys", `INSERT INTO keys (sha256, holder_kind, holder_id)
		SELECT * FROM unnest([text], [text], [text])`},
	{"devices", `INSERT INTO devices
			(id, group_name, attributes, work_order, trust_generation, not_after, status, created_at, last_seen_at, enrolled_at)
		SELECT *, 'active', $now, $now, $now FROM unnest([text], [text], [text], [text], [bigint], [bigint])
		ON CONFLICT (id) DO UPDATE SET status = 'active', not_after = excluded.not_after,
			enrolled_at = CASE WHEN devices.enrolled_at = 0 THEN excluded.enrolled_at ELSE devices.enrolled_at END,
			group_name = CASE WHEN excluded.group_name = '' THEN devices.group_name ELSE excluded.group_name END,
			attributes = CASE WHEN excluded.attributes = '' THEN devices.attributes ELSE excluded.attributes END,
			work_order = CASE WHEN excluded.work_order = '' THEN devices.work_order ELSE excluded.work_order END,
			trust_generation = excluded.trust_generation, last_seen_at = excluded.last_seen_at
		WHERE devices.status = 'registered'`},
	{"orders", `UPDATE work_orders o SET issued = o.issued + c.n, full_at = CASE WHEN o.issued + c.n >= o.quantity THEN $now ELSE o.full_at END
		FROM unnest([text], [bigint]) AS c (id, n) WHERE o.id = c.id AND o.state = 'open' AND o.issued + c.n <= o.quantity`},
	{"certificates", `INSERT INTO certificates (serial, sha256, subject, names, issuer_id, profile, holder_kind, holder_id,
			not_before, not_after, key_sha256, cdp, crl_shard, der, profile_version, renew_from, recorded_at, status, reason, revoked_at)
		SELECT *, $now, 'good', '', 0 FROM unnest([text], [text], [text], [text], [text], [text], [text], [text],
			[bigint], [bigint], [text], [text], [bigint], [bytea], [bigint], [bigint])`},
	{"events", `INSERT INTO events (id, at, actor, action, subject, canonical, leaf_hash)
		SELECT * FROM unnest([text], [bigint], [text], [text], [text], [bytea], [bytea])`},
}

// togetherTexts are the statements, by which parts they have.
var togetherTexts sync.Map

// togetherText is the statement of some of the parts, a bit each. It divides by
// zero unless each part changes as many rows as it has to. The arguments are of
// each part its arrays, then how many rows that is. An array stands in a
// sub-select, so that the plan does not depend on its length and is made once.
func togetherText(parts uint) string {
	if text, ok := togetherTexts.Load(parts); ok {
		return text.(string)
	}
	n := 0
	next := func() int { n++; return n }
	array := regexp.MustCompile(`\[(text|bytea|bigint)\]`)
	var changes, counts []string
	for i, part := range togetherParts {
		if parts&(1<<i) == 0 {
			continue
		}
		text := array.ReplaceAllStringFunc(part.text, func(of string) string {
			return fmt.Sprintf("(SELECT $%d::%s[])", next(), of[1:len(of)-1])
		})
		changes = append(changes, fmt.Sprintf("%s_changed AS (%s RETURNING 1)", part.name, text))
		counts = append(counts, fmt.Sprintf("(SELECT count(*) FROM %s_changed) = $%d::bigint", part.name, next()))
	}
	text := "WITH " + strings.Join(changes, ",\n") + "\nSELECT 1 / CASE WHEN " + strings.Join(counts, " AND ") + " THEN 1 ELSE 0 END"
	text = strings.ReplaceAll(text, "$now", fmt.Sprintf("$%d::bigint", next()))
	togetherTexts.Store(parts, text)
	return text
}

// togetherArgs are the parts that have something to change, and their
// arguments.
type togetherArgs struct {
	parts  uint
	added  int
	values []any
}

// add adds the next of togetherParts.
func (a *togetherArgs) add(rows int, arrays ...any) {
	if rows > 0 {
		a.parts |= 1 << a.added
		a.values = append(append(a.values, arrays...), int64(rows))
	}
	a.added++
}

// columnOf returns one value of each element, as an array of PostgreSQL.
func columnOf[T, V any](all []T, of func(T) V) []V {
	values := make([]V, len(all))
	for i, v := range all {
		values[i] = of(v)
	}
	return values
}

func serialOf(is *issuance) string { return string(is.cert.SerialNumber) }

func (a *togetherArgs) idempotency(batch []*issuance) {
	keyed := slices.DeleteFunc(slices.Clone(batch), func(is *issuance) bool { return is.claim.Idempotency == nil })
	a.add(len(keyed),
		columnOf(keyed, func(is *issuance) string { return is.claim.Idempotency.Scope }),
		columnOf(keyed, func(is *issuance) []byte { sum := sha256.Sum256([]byte(is.claim.Idempotency.Key)); return sum[:] }),
		columnOf(keyed, func(is *issuance) []byte { return is.claim.Idempotency.RequestHash }),
		columnOf(keyed, serialOf), columnOf(keyed, func(is *issuance) []byte { return is.claim.Idempotency.Answer }))
}

func (a *togetherArgs) tokens(batch []*issuance) {
	spending := slices.DeleteFunc(slices.Clone(batch), func(is *issuance) bool { return is.claim.Token == nil })
	uses, devices := map[string]int64{}, map[string]string{}
	for _, is := range spending {
		uses[is.claim.Token.ID]++
		devices[is.claim.Token.ID] = is.claim.Token.DeviceID
	}
	ids := slices.Sorted(maps.Keys(uses)) // in this order: no two transactions wait for each other
	a.add(len(ids), ids, columnOf(ids, func(id string) int64 { return uses[id] }), columnOf(ids, func(id string) string { return devices[id] }))
	a.add(len(spending),
		columnOf(spending, func(is *issuance) string { return is.claim.Token.ID }),
		columnOf(spending, func(is *issuance) []byte { return is.claim.Token.RequestHash }), columnOf(spending, serialOf))
}

func (a *togetherArgs) publicKeys(batch []*issuance) {
	a.add(len(batch),
		columnOf(batch, func(is *issuance) string { return is.cert.KeySHA256 }),
		columnOf(batch, func(is *issuance) string { return string(is.cert.Holder.Kind) }),
		columnOf(batch, func(is *issuance) string { return is.cert.Holder.ID }))
}

func (a *togetherArgs) devices(batch []*issuance) {
	device := func(of func(d *enroll.DeviceClaim) string) []string {
		return columnOf(batch, func(is *issuance) string { return of(is.claim.Device) })
	}
	a.add(len(batch),
		device(func(d *enroll.DeviceClaim) string { return d.ID }), device(func(d *enroll.DeviceClaim) string { return d.Group }),
		device(func(d *enroll.DeviceClaim) string { return attributesText(d.Attributes) }),
		columnOf(batch, func(is *issuance) string { return is.claim.Order }),
		columnOf(batch, func(is *issuance) int64 { return is.claim.Device.TrustGeneration }),
		columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotAfter) }))
}

func (a *togetherArgs) orders(batch []*issuance) {
	taken := map[string]int64{}
	for _, is := range batch {
		if takesQuota(is.claim) {
			taken[is.claim.Order]++
		}
	}
	ids := slices.Sorted(maps.Keys(taken))
	a.add(len(ids), ids, columnOf(ids, func(id string) int64 { return taken[id] }))
}

func (a *togetherArgs) certificates(batch []*issuance) {
	text := func(of func(is *issuance) string) []string { return columnOf(batch, of) }
	a.add(len(batch),
		text(serialOf), text(func(is *issuance) string { return is.cert.SHA256 }), text(func(is *issuance) string { return is.cert.Subject }),
		text(func(is *issuance) string { return listText(is.cert.Names) }), text(func(is *issuance) string { return is.cert.IssuerID }),
		text(func(is *issuance) string { return is.cert.Profile }), text(func(is *issuance) string { return string(is.cert.Holder.Kind) }),
		text(func(is *issuance) string { return is.cert.Holder.ID }),
		columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotBefore) }), columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotAfter) }),
		text(func(is *issuance) string { return is.cert.KeySHA256 }), text(func(is *issuance) string { return is.cert.CDP }),
		columnOf(batch, func(is *issuance) int64 { return int64(is.cert.CRLShard) }),
		columnOf(batch, func(is *issuance) []byte { return is.cert.DER }),
		columnOf(batch, func(is *issuance) int64 { return is.cert.ProfileVersion }),
		columnOf(batch, func(is *issuance) int64 { return micros(is.cert.RenewFrom) }))
}

func (a *togetherArgs) events(batch []*issuance) {
	text := func(of func(e enroll.Event) string) []string {
		return columnOf(batch, func(is *issuance) string { return of(is.Event) })
	}
	a.add(len(batch),
		text(func(e enroll.Event) string { return e.ID }), columnOf(batch, func(is *issuance) int64 { return micros(is.Event.At) }),
		text(func(e enroll.Event) string { return e.Actor }), text(func(e enroll.Event) string { return e.Action }), text(func(e enroll.Event) string { return e.Subject }),
		columnOf(batch, func(is *issuance) []byte { return is.canonical }), columnOf(batch, func(is *issuance) []byte { return is.leafHash }))
}
