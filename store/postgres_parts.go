package store

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"

	"github.com/fleetca/fleetca/enroll"
)

// A togetherPart changes or locks rows of one table, and returns a row for each.
// unnest([type], ...) stands for the rows of the next arguments, and $now for the
// last of all.
type togetherPart struct {
	name, text string
	more       bool // its rows count with those of the next part
}

// Parts that first enrollments and renewals share.
var (
	callersPart = togetherPart{name: "callers", text: `SELECT 1 FROM unnest([text]) AS c (id)
		WHERE (SELECT 1 FROM api_tokens t WHERE t.id = c.id AND t.disabled = 0 AND t.expires_at > $now LIMIT 1) IS NOT NULL`}
	profilesPart = togetherPart{name: "profiles", text: `SELECT 1 FROM unnest([text], [bigint]) AS c (name, version)
		WHERE COALESCE((SELECT MAX(p.version) FROM profiles p WHERE p.name = c.name), 0) = c.version`}
	idempotencyPart = togetherPart{name: "idempotency", text: `INSERT INTO idempotency (scope, key_sha256, request_hash, serial, answer, created_at)
		SELECT *, $now FROM unnest([text], [bytea], [bytea], [text], [bytea]) AS c RETURNING 1`}
	certificatesPart = togetherPart{name: "certificates", text: `INSERT INTO certificates (serial, sha256, subject, names, issuer_id, profile, holder_kind, holder_id,
			not_before, not_after, key_sha256, cdp, crl_shard, der, profile_version, renew_from, recorded_at, status, reason, revoked_at)
		SELECT *, $now, 'good', '', 0 FROM unnest([text], [text], [text], [text], [text], [text], [text], [text],
			[bigint], [bigint], [text], [text], [bigint], [bytea], [bigint], [bigint]) AS c RETURNING 1`}
	eventsPart = togetherPart{name: "events", text: `INSERT INTO events (id, at, actor, action, subject, canonical, leaf_hash)
		SELECT * FROM unnest([text], [bigint], [text], [text], [text], [bytea], [bytea]) AS c RETURNING 1`}
)

// enrollmentParts are what first enrollments change, in the order of
// Store.apply.
var enrollmentParts = []togetherPart{
	callersPart,
	profilesPart,
	idempotencyPart,
	// A token of one device has one use here at most, or the device is twice in the batch, which its own row tells.
	{name: "tokens", text: `UPDATE enrollment_tokens t SET used = t.used + c.n FROM unnest([text], [bigint], [text]) AS c (id, n, device)
		WHERE t.id = c.id AND t.used + c.n <= t.uses AND t.expires_at > $now AND (t.device_id = '' OR t.device_id = c.device) AND t.renews = 0 RETURNING 1`},
	{name: "uses", text: `INSERT INTO token_uses (token_id, request_hash, serial)
		SELECT * FROM unnest([text], [bytea], [text]) AS c RETURNING 1`},
	{name: "keys", text: `INSERT INTO keys (sha256, holder_kind, holder_id)
		SELECT * FROM unnest([text], [text], [text]) AS c RETURNING 1`},
	{name: "devices", text: `INSERT INTO devices
			(id, group_name, attributes, work_order, trust_generation, not_after, status, created_at, last_seen_at, enrolled_at)
		SELECT *, 'active', $now, $now, $now FROM unnest([text], [text], [text], [text], [bigint], [bigint]) AS c
		ON CONFLICT (id) DO UPDATE SET status = 'active', not_after = excluded.not_after,
			enrolled_at = CASE WHEN devices.enrolled_at = 0 THEN excluded.enrolled_at ELSE devices.enrolled_at END,
			group_name = CASE WHEN excluded.group_name = '' THEN devices.group_name ELSE excluded.group_name END,
			attributes = CASE WHEN excluded.attributes = '' THEN devices.attributes ELSE excluded.attributes END,
			work_order = CASE WHEN excluded.work_order = '' THEN devices.work_order ELSE excluded.work_order END,
			trust_generation = excluded.trust_generation, last_seen_at = excluded.last_seen_at
		WHERE devices.status = 'registered' RETURNING 1`},
	{name: "orders", text: `UPDATE work_orders o SET issued = o.issued + c.n, full_at = CASE WHEN o.issued + c.n >= o.quantity THEN $now ELSE o.full_at END
		FROM unnest([text], [bigint]) AS c (id, n) WHERE o.id = c.id AND o.state = 'open' AND o.issued + c.n <= o.quantity RETURNING 1`},
	certificatesPart,
	eventsPart,
}

// renewalParts are what renewals change. A key is new, or the device's own and
// not one that was revoked as compromised (I8). The certificate that a renewal
// is based on is locked, so that no revocation slips in between. All parts see
// what was there when the statement began: a device whose row somebody else
// changed since, as each revocation does, is left to Store.apply.
var renewalParts = []togetherPart{
	callersPart,
	profilesPart,
	idempotencyPart,
	{name: "keys", more: true, text: `INSERT INTO keys (sha256, holder_kind, holder_id)
		SELECT * FROM unnest([text], [text], [text]) AS c (sha256, kind, id)
		WHERE (SELECT 1 FROM keys WHERE keys.sha256 = c.sha256 LIMIT 1) IS NULL RETURNING 1`},
	{name: "known", text: `SELECT 1 FROM unnest([text], [text], [text]) AS c (sha256, kind, id)
		WHERE (SELECT 1 FROM keys WHERE keys.sha256 = c.sha256 AND keys.holder_kind = c.kind AND keys.holder_id = c.id LIMIT 1) IS NOT NULL
			AND (SELECT 1 FROM certificates b WHERE b.key_sha256 = c.sha256 AND b.reason = 'keyCompromise' LIMIT 1) IS NULL`},
	{name: "devices", text: `UPDATE devices d SET trust_generation = c.generation, last_seen_at = $now,
			not_after = CASE WHEN d.not_after < c.until THEN c.until ELSE d.not_after END,
			group_name = CASE WHEN c.place = '' THEN d.group_name ELSE c.place END,
			attributes = CASE WHEN c.attributes = '' THEN d.attributes ELSE c.attributes END
		FROM unnest([text], [bigint], [bigint], [text], [text]) AS c (id, generation, until, place, attributes), devices seen
		WHERE d.id = c.id AND d.status = 'active' AND seen.id = c.id AND d.ctid = seen.ctid RETURNING 1`},
	{name: "replaced", text: `SELECT 1 FROM unnest([text], [text], [text]) AS c (serial, kind, id), certificates r
		WHERE r.serial = c.serial AND r.status = 'good' AND r.holder_kind = c.kind AND r.holder_id = c.id FOR NO KEY UPDATE OF r`},
	certificatesPart,
	eventsPart,
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

func publicKeyOf(is *issuance) string { return is.cert.KeySHA256 }

// inOrder returns issuances in the order in which every transaction takes the
// rows of a table: of two that take the same rows one waits for the other, and
// not each for the other.
func inOrder(batch []*issuance, of func(*issuance) string) []*issuance {
	sorted := slices.Clone(batch)
	slices.SortFunc(sorted, func(a, b *issuance) int { return cmp.Compare(of(a), of(b)) })
	return sorted
}

func (a *togetherArgs) idempotency(batch []*issuance) {
	keyed := slices.DeleteFunc(slices.Clone(batch), func(is *issuance) bool { return is.claim.Idempotency == nil })
	keyed = inOrder(keyed, func(is *issuance) string { return is.claim.Idempotency.Key })
	a.add(len(keyed),
		columnOf(keyed, func(is *issuance) string { return is.claim.Idempotency.Scope }),
		columnOf(keyed, func(is *issuance) []byte { sum := sha256.Sum256([]byte(is.claim.Idempotency.Key)); return sum[:] }),
		columnOf(keyed, func(is *issuance) []byte { return is.claim.Idempotency.RequestHash }),
		columnOf(keyed, serialOf), columnOf(keyed, func(is *issuance) []byte { return is.claim.Idempotency.Answer }))
}

// recalled are API tokens and versions of profiles, each once.
func (a *togetherArgs) recalled(batch []*issuance) {
	callers, profiles := map[string]bool{}, map[enroll.ProfileClaim]bool{}
	for _, is := range batch {
		if is.claim.Caller != "" {
			callers[is.claim.Caller] = true
		}
		if is.claim.Profile != nil {
			profiles[*is.claim.Profile] = true
		}
	}
	versions := slices.Collect(maps.Keys(profiles))
	a.add(len(callers), slices.Collect(maps.Keys(callers)))
	a.add(len(versions), columnOf(versions, func(p enroll.ProfileClaim) string { return p.Name }),
		columnOf(versions, func(p enroll.ProfileClaim) int64 { return p.Version }))
}

func (a *togetherArgs) tokens(batch []*issuance) {
	spending := slices.DeleteFunc(slices.Clone(batch), func(is *issuance) bool { return is.claim.Token == nil })
	uses, devices := map[string]int64{}, map[string]string{}
	for _, is := range spending {
		uses[is.claim.Token.ID]++
		devices[is.claim.Token.ID] = is.claim.Token.DeviceID
	}
	ids := slices.Sorted(maps.Keys(uses)) // see inOrder
	a.add(len(ids), ids, columnOf(ids, func(id string) int64 { return uses[id] }), columnOf(ids, func(id string) string { return devices[id] }))
	a.add(len(spending),
		columnOf(spending, func(is *issuance) string { return is.claim.Token.ID }),
		columnOf(spending, func(is *issuance) []byte { return is.claim.Token.RequestHash }), columnOf(spending, serialOf))
}

func (a *togetherArgs) publicKeys(batch []*issuance) {
	batch = inOrder(batch, publicKeyOf)
	kinds, ids := holdersOf(batch)
	a.add(len(batch),
		columnOf(batch, publicKeyOf), kinds, ids)
}

func (a *togetherArgs) devices(batch []*issuance) {
	batch = inOrder(batch, func(is *issuance) string { return is.claim.Device.ID })
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

func (a *togetherArgs) knownKeys(batch []*issuance) {
	batch = inOrder(batch, publicKeyOf)
	keys := columnOf(batch, publicKeyOf)
	kinds, ids := holdersOf(batch)
	a.addMore(len(batch), keys, kinds, ids)
	a.add(len(batch), keys, kinds, ids)
}

func holdersOf(batch []*issuance) (kinds, ids []string) {
	return columnOf(batch, func(is *issuance) string { return string(is.cert.Holder.Kind) }),
		columnOf(batch, func(is *issuance) string { return is.cert.Holder.ID })
}

func (a *togetherArgs) renewedDevices(batch []*issuance) {
	a.add(len(batch),
		columnOf(batch, func(is *issuance) string { return is.claim.Device.ID }),
		columnOf(batch, func(is *issuance) int64 { return is.claim.Device.TrustGeneration }),
		columnOf(batch, func(is *issuance) int64 { return micros(is.cert.NotAfter) }),
		columnOf(batch, func(is *issuance) string { return is.claim.Device.Group }),
		columnOf(batch, func(is *issuance) string { return attributesText(is.claim.Device.Attributes) }))
}

func (a *togetherArgs) replaced(batch []*issuance) {
	kinds, ids := holdersOf(batch)
	a.add(len(batch), columnOf(batch, func(is *issuance) string { return string(is.claim.Replaces) }), kinds, ids)
}
