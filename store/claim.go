package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// An issuance is a ca.Issuance with its claim, on its way into a transaction.
type issuance struct {
	*recordable
	cert     *ca.Certificate
	claim    *enroll.Claim
	keyKnown bool // its public key had this holder before; set as it is applied
}

// Commit implements ca.Recorder.
func (s *Store) Commit(ctx context.Context, batch []ca.Issuance) []error {
	errs := make([]error, len(batch))
	changes := make([]*pending, 0, len(batch))
	index := make([]int, 0, len(batch))
	for i := range batch {
		is, err := s.prepareIssuance(&batch[i])
		if err != nil {
			errs[i] = err
			continue
		}
		index = append(index, i)
		change := &pending{do: func(ctx context.Context, q tx) error { return s.apply(ctx, q, is) }}
		if (isFirst(is.claim) || isRenewal(is.claim)) && len(is.Jobs) == 0 {
			change.plain = is
		}
		changes = append(changes, change)
	}
	for n, err := range s.writes.submit(ctx, changes...) {
		errs[index[n]] = s.explain("record certificate", err)
	}
	return errs
}

// prepareIssuance checks what the caller handed in.
func (s *Store) prepareIssuance(i *ca.Issuance) (*issuance, error) {
	claim, ok := i.Claim.(*enroll.Claim)
	if !ok || claim == nil {
		return nil, fmt.Errorf("certificate %s comes without a claim, and so without its audit event", i.Certificate.SerialNumber)
	}
	if i.Certificate.Status != ca.StatusGood || i.Certificate.SerialNumber == "" || len(i.Certificate.DER) == 0 {
		return nil, fmt.Errorf("certificate %q is not a new one", i.Certificate.SerialNumber)
	}
	r, err := prepare(claim.Change, s.onEvent)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", i.Certificate.SerialNumber, err)
	}
	return &issuance{recordable: r, cert: &i.Certificate, claim: claim}, nil
}

// apply spends what the claim spends, in the order that enroll.Claim gives,
// and stores the certificate and its audit event.
func (s *Store) apply(ctx context.Context, q tx, is *issuance) error {
	now := s.now()
	if err := recalledRefusal(ctx, q, is.claim, now); err != nil {
		return err
	}
	if err := s.claimKey(ctx, q, is.claim.Idempotency, is.cert.SerialNumber); err != nil {
		return err
	}
	for _, step := range []func(context.Context, tx, *issuance, time.Time) error{
		spendToken, spendIDevID, claimPublicKey, claimDevice, claimReplaced, limitActive, takeQuota, refuseBlocked, insertCertificate,
	} {
		if err := step(ctx, q, is, now); err != nil {
			return err
		}
	}
	return is.record(ctx, q)
}

// spendToken takes one use of the token.
func spendToken(ctx context.Context, q tx, is *issuance, now time.Time) error {
	t := is.claim.Token
	if t == nil {
		return nil
	}
	n, err := q.exec(ctx, `UPDATE enrollment_tokens SET used = used + 1
		WHERE id = $1 AND used < uses AND expires_at > $2 AND (device_id = '' OR device_id = $3) AND renews = $4`,
		t.ID, micros(now), t.DeviceID, bit(is.claim.Device != nil && is.claim.Device.Supersedes))
	if err != nil {
		return fmt.Errorf("spend token: %w", err)
	}
	if n == 0 {
		return refused(tokenRefusal(ctx, q, t, now))
	}
	n, err = q.exec(ctx, `INSERT INTO token_uses (token_id, request_hash, serial) VALUES ($1, $2, $3)
		ON CONFLICT (token_id, request_hash) DO NOTHING`, t.ID, t.RequestHash, is.cert.SerialNumber)
	if err != nil {
		return fmt.Errorf("record token use: %w", err)
	}
	if n == 0 {
		return refused(tokenRefusal(ctx, q, t, now))
	}
	return nil
}

// claimPublicKey makes the certificate's holder the holder of its key.
func claimPublicKey(ctx context.Context, q tx, is *issuance, _ time.Time) error {
	n, err := q.exec(ctx, `INSERT INTO keys (sha256, holder_kind, holder_id) VALUES ($1, $2, $3)
		ON CONFLICT (sha256) DO NOTHING`, is.cert.KeySHA256, is.cert.Holder.Kind, is.cert.Holder.ID)
	if err != nil {
		return fmt.Errorf("claim public key: %w", err)
	}
	is.keyKnown = n == 0
	if is.keyKnown {
		return publicKeyRefusal(ctx, q, is.claim, is.cert.Holder, is.cert.KeySHA256) // nil when it renews its own
	}
	return nil
}

// claimDevice makes the device active, or keeps it so.
func claimDevice(ctx context.Context, q tx, is *issuance, now time.Time) error {
	d := is.claim.Device
	if d == nil {
		return nil
	}
	var n int64
	var err error
	switch {
	case d.Supersedes:
		return supersede(ctx, q, is, now)
	case is.claim.Replaces == "":
		n, err = q.exec(ctx, `INSERT INTO devices
			(id, status, group_name, attributes, work_order, trust_generation, created_at, last_seen_at, enrolled_at, not_after)
			VALUES ($1, 'active', $2, $3, $4, $5, $6, $6, $6, $8)
			ON CONFLICT (id) DO UPDATE SET status = 'active', not_after = excluded.not_after,
				enrolled_at = CASE WHEN devices.enrolled_at = 0 THEN excluded.enrolled_at ELSE devices.enrolled_at END,
				group_name = CASE WHEN excluded.group_name = '' THEN devices.group_name ELSE excluded.group_name END,
				attributes = CASE WHEN excluded.attributes = '' THEN devices.attributes ELSE excluded.attributes END,
				work_order = CASE WHEN excluded.work_order = '' THEN devices.work_order ELSE excluded.work_order END,
				trust_generation = excluded.trust_generation, last_seen_at = excluded.last_seen_at
			WHERE devices.status = 'registered' OR CAST($7 AS INTEGER) = 1 AND devices.status = 'active' AND NOT EXISTS (
				SELECT 1 FROM certificates WHERE holder_kind = 'device' AND holder_id = devices.id AND status = 'good' AND not_after > $6)`,
			d.ID, d.Group, attributesText(d.Attributes), is.claim.Order, d.TrustGeneration, micros(now), bit(d.Stranded), micros(is.cert.NotAfter))
	default:
		n, err = q.exec(ctx, `UPDATE devices SET trust_generation = $2, last_seen_at = $3,
				not_after = CASE WHEN not_after < $6 THEN $6 ELSE not_after END,
				group_name = CASE WHEN CAST($4 AS TEXT) = '' THEN group_name ELSE $4 END,
				attributes = CASE WHEN CAST($5 AS TEXT) = '' THEN attributes ELSE $5 END
			WHERE id = $1 AND status = 'active'`,
			d.ID, d.TrustGeneration, micros(now), d.Group, attributesText(d.Attributes), micros(is.cert.NotAfter))
	}
	if err != nil {
		return fmt.Errorf("claim device: %w", err)
	}
	if n == 0 {
		return refused(deviceRefusal(ctx, q, is.claim, now))
	}
	return nil
}

// supersede revokes what an active device held before. Its row is locked
// first, so that no renewal slips in between.
func supersede(ctx context.Context, q tx, is *issuance, now time.Time) error {
	d := is.claim.Device
	n, err := q.exec(ctx, `UPDATE devices SET trust_generation = $2, last_seen_at = $3, not_after = $4,
			attributes = CASE WHEN CAST($5 AS TEXT) = '' THEN attributes ELSE $5 END
		WHERE id = $1 AND status = 'active'`,
		d.ID, d.TrustGeneration, micros(now), micros(is.cert.NotAfter), attributesText(d.Attributes))
	if err != nil {
		return fmt.Errorf("claim device: %w", err)
	}
	if n == 0 {
		return refused(deviceRefusal(ctx, q, is.claim, now))
	}
	_, err = setStatus(ctx, q, d.ID, revocableFrom(ca.ReasonSuperseded), ca.StatusRevoked, ca.ReasonSuperseded, now)
	return err
}

// claimReplaced locks the certificate that a renewal is based on, so that no
// revocation slips in between.
func claimReplaced(ctx context.Context, q tx, is *issuance, _ time.Time) error {
	if is.claim.Replaces == "" {
		return nil
	}
	n, err := q.exec(ctx, `UPDATE certificates SET status = status
		WHERE serial = $1 AND status = 'good' AND holder_kind = $2 AND holder_id = $3`,
		is.claim.Replaces, is.cert.Holder.Kind, is.cert.Holder.ID)
	if err != nil {
		return fmt.Errorf("lock replaced certificate: %w", err)
	}
	if n == 0 {
		return refused(replacedRefusal(ctx, q, is.claim, is.cert.Holder))
	}
	return nil
}

// limitActive refuses a certificate too many. The device's row is locked by
// claimDevice, so that no other renewal counts at the same time.
func limitActive(ctx context.Context, q tx, is *issuance, now time.Time) error {
	return activeRefusal(ctx, q, is.claim, now)
}

// takeQuota takes one of the work order's quantity for a new device.
func takeQuota(ctx context.Context, q tx, is *issuance, now time.Time) error {
	if !takesQuota(is.claim) {
		return nil
	}
	n, err := q.exec(ctx, `UPDATE work_orders SET issued = issued + 1, full_at = CASE WHEN issued + 1 >= quantity THEN $2 ELSE full_at END
		WHERE id = $1 AND state = 'open' AND issued < quantity`, is.claim.Order, micros(now))
	if err != nil {
		return fmt.Errorf("take from work order: %w", err)
	}
	if n == 0 {
		return refused(quotaRefusal(ctx, q, is.claim))
	}
	return nil
}

// takesQuota reports whether a claim enrolls a new device for a work order.
func takesQuota(c *enroll.Claim) bool {
	return c.Order != "" && c.Device != nil && c.Replaces == ""
}

// refuseBlocked refuses a key that was revoked as compromised meanwhile (I8). A
// key that nobody had before cannot have been.
func refuseBlocked(ctx context.Context, q tx, is *issuance, _ time.Time) error {
	if !is.keyKnown {
		return nil
	}
	return blockedRefusal(ctx, q, is.cert.KeySHA256)
}

func insertCertificate(ctx context.Context, q tx, is *issuance, now time.Time) error {
	c := is.cert
	n, err := q.exec(ctx, `INSERT INTO certificates (serial, recorded_at, sha256, subject, names, issuer_id, profile,
			holder_kind, holder_id, status, reason, revoked_at, not_before, not_after, key_sha256, cdp, crl_shard, der, profile_version, renew_from)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'good', '', 0, $10, $11, $12, $13, $14, $15, $16, $17)
		ON CONFLICT (serial) DO NOTHING`,
		c.SerialNumber, micros(now), c.SHA256, c.Subject, listText(c.Names), c.IssuerID, c.Profile,
		c.Holder.Kind, c.Holder.ID, micros(c.NotBefore), micros(c.NotAfter), c.KeySHA256, c.CDP, int64(c.CRLShard), c.DER,
		c.ProfileVersion, micros(c.RenewFrom))
	if err != nil {
		return fmt.Errorf("insert certificate: %w", err)
	}
	if n == 0 {
		return conflict("serialNumber", "issue it again under another serial number", "serial number %s is taken", c.SerialNumber)
	}
	return nil
}

// refused returns why a guarded update changed nothing. Where the reason is
// gone already, somebody else was faster.
func refused(err error) error {
	if err == nil {
		return conflict("", "try again", "this was changed by somebody else at the same time")
	}
	return err
}

// CheckClaim implements enroll.CertificateStore.
func (s *Store) CheckClaim(ctx context.Context, claim *enroll.Claim, holder ca.Holder, keySHA256 string) error {
	if claim == nil {
		return errors.New("check claim: there is none")
	}
	if isFirst(claim) {
		free, err := s.firsts.get(ctx, firstQuestion(claim, keySHA256))
		if err != nil || free {
			return s.explain("check claim", err)
		}
	}
	now := s.now()
	err := s.db.snapshot(ctx, func(q querier) error {
		if err := keyRefusal(ctx, q, claim.Idempotency); err != nil {
			return err
		}
		if claim.Token != nil {
			if err := tokenReplay(ctx, q, claim.Token); err != nil {
				return err
			}
		}
		if err := blockedRefusal(ctx, q, keySHA256); err != nil {
			return err
		}
		if err := tokenRefusal(ctx, q, claim.Token, now); err != nil {
			return err
		}
		if err := idevidRefusal(ctx, q, claim); err != nil {
			return err
		}
		if err := publicKeyRefusal(ctx, q, claim, holder, keySHA256); err != nil {
			return err
		}
		if err := deviceRefusal(ctx, q, claim, now); err != nil {
			return err
		}
		if err := replacedRefusal(ctx, q, claim, holder); err != nil {
			return err
		}
		if err := activeRefusal(ctx, q, claim, now); err != nil {
			return err
		}
		return quotaRefusal(ctx, q, claim)
	})
	return s.explain("check claim", err)
}

// isFirst reports whether a claim is of the plain kind, a device's first
// enrollment, of which nearly all are granted.
func isFirst(c *enroll.Claim) bool {
	return c.Device != nil && !c.Device.Supersedes && c.Replaces == "" && c.IDevID == nil
}

// isRenewal reports whether a claim is of the plain kind, a device's renewal
// without a limit of good certificates.
func isRenewal(c *enroll.Claim) bool {
	return c.Device != nil && !c.Device.Supersedes && c.Replaces != "" && c.IDevID == nil && c.Token == nil && c.MaxActive == 0
}

// A first is what a first enrollment must find free.
type first struct {
	scope  string // of the idempotency key; no row has an empty one
	key    []byte // SHA-256 of the idempotency key
	public string // SHA-256 of the public key
	device string
	order  string // that must be open and have some left; empty for none
	token  string // that must have uses left; empty for none
}

func firstQuestion(c *enroll.Claim, keySHA256 string) first {
	f := first{key: []byte{}, public: keySHA256, device: c.Device.ID, order: c.Order}
	if i := c.Idempotency; i != nil {
		sum := sha256.Sum256([]byte(i.Key))
		f.scope, f.key = i.Scope, sum[:]
	}
	if c.Token != nil {
		f.token = c.Token.ID
	}
	return f
}

// allFree reports for each of several first enrollments whether nothing that is
// stored stands against it. Where something may, the refusals say what.
func (s *Store) allFree(ctx context.Context, questions []first) ([]bool, error) {
	if p, ok := s.db.(*postgresEngine); ok {
		return p.allFree(ctx, questions, s.now())
	}
	free := make([]bool, len(questions))
	for i, f := range questions {
		n, err := value[int64](ctx, s.db, `SELECT CASE WHEN EXISTS (SELECT 1 FROM idempotency WHERE scope = $1 AND key_sha256 = $2)
				OR EXISTS (SELECT 1 FROM keys WHERE sha256 = $3)
				OR EXISTS (SELECT 1 FROM devices WHERE id = $4 AND status <> 'registered')
				OR $5 <> '' AND NOT EXISTS (SELECT 1 FROM work_orders WHERE id = $5 AND state = 'open' AND issued < quantity)
				OR $6 <> '' AND NOT EXISTS (SELECT 1 FROM enrollment_tokens WHERE id = $6 AND used < uses AND expires_at > $7
					AND (device_id = '' OR device_id = $4) AND renews = 0)
			THEN 0 ELSE 1 END`, f.scope, f.key, f.public, f.device, f.order, f.token, micros(s.now()))
		if err != nil {
			return nil, err
		}
		free[i] = n == 1
	}
	return free, nil
}
