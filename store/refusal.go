package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Each refusal function below reads why a part of a claim would be refused,
// and returns nil when it would not. The guarded updates decide; these explain.

// recalledRefusal refuses a caller whose API token holds no longer, and a profile
// that has a newer version.
func recalledRefusal(ctx context.Context, q querier, c *enroll.Claim, now time.Time) error {
	if c.Caller != "" {
		_, err := value[string](ctx, q, `SELECT id FROM api_tokens WHERE id = $1 AND disabled = 0 AND expires_at > $2`, c.Caller, micros(now))
		switch {
		case errors.Is(err, errNoRows):
			return ca.Errorf(enroll.KindUnauthenticated, "Authorization", "ask an admin for a token", "the API token was disabled, or expired")
		case err != nil:
			return fmt.Errorf("look up API token: %w", err)
		}
	}
	if c.Profile != nil {
		newest, err := value[int64](ctx, q, `SELECT COALESCE(MAX(version), 0) FROM profiles WHERE name = $1`, c.Profile.Name)
		switch {
		case err != nil:
			return fmt.Errorf("look up profile: %w", err)
		case newest != c.Profile.Version:
			return conflict("profile", "try again", "profile %s has another version by now", c.Profile.Name)
		}
	}
	return nil
}

// tokenRefusal explains an enrollment token. A request that the token was
// spent on already is a *enroll.Replay, also after the token expired: nothing
// is issued again (I5, I6).
func tokenRefusal(ctx context.Context, q querier, t *enroll.TokenClaim, now time.Time) error {
	if t == nil {
		return nil
	}
	if err := tokenReplay(ctx, q, t); err != nil {
		return err
	}
	token, err := one(ctx, q, scanEnrollmentToken, selectEnrollmentToken+` WHERE id = $1`, t.ID)
	switch {
	case errors.Is(err, errNoRows):
		return ca.Errorf(enroll.KindTokenUnknown, "token", "ask for a new token", "the token is not known")
	case err != nil:
		return fmt.Errorf("look up token: %w", err)
	case !token.ExpiresAt.After(now):
		return ca.Errorf(enroll.KindTokenExpired, "token", "ask for a new token", "the token expired at %s", token.ExpiresAt.Format(time.RFC3339))
	case token.DeviceID != "" && token.DeviceID != t.DeviceID:
		return ca.Errorf(enroll.KindTokenOtherDevice, "token", "use the token that was made for this device", "the token is for another device")
	case token.Used >= token.Uses:
		return ca.Errorf(enroll.KindTokenUsed, "token", "ask for a new token", "the token was used before")
	}
	return nil
}

// tokenReplay returns a *enroll.Replay when the very request spent the token.
func tokenReplay(ctx context.Context, q querier, t *enroll.TokenClaim) error {
	serial, err := value[ca.SerialNumber](ctx, q, `SELECT serial FROM token_uses WHERE token_id = $1 AND request_hash = $2`, t.ID, t.RequestHash)
	switch {
	case errors.Is(err, errNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up token use: %w", err)
	}
	return &enroll.Replay{SerialNumber: serial}
}

// publicKeyRefusal explains a public key: it may be unknown or the holder's
// own, and must be unknown where it supersedes another.
func publicKeyRefusal(ctx context.Context, q querier, c *enroll.Claim, holder ca.Holder, keySHA256 string) error {
	owner, err := one(ctx, q, func(row scanner) (h ca.Holder, err error) {
		err = row.Scan(&h.Kind, &h.ID)
		return h, err
	}, `SELECT holder_kind, holder_id FROM keys WHERE sha256 = $1`, keySHA256)
	switch {
	case errors.Is(err, errNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up public key: %w", err)
	case owner != holder:
		return ca.Errorf(enroll.KindDuplicateKey, "csr", "make a new key on the device, and check that no two devices share their randomness",
			"another holder has this public key")
	case c.Device != nil && c.Device.Supersedes:
		return ca.Errorf(enroll.KindDuplicateKey, "csr", "make a new key on the device; one that still has its key renews its certificate",
			"the device had this public key before")
	}
	return nil
}

// blockedRefusal explains a key that was revoked as compromised (I8). Every
// certificate's key has a holder, so a key without one is not blocked.
func blockedRefusal(ctx context.Context, q querier, keySHA256 string) error {
	_, err := value[string](ctx, q, blockedKey, keySHA256)
	switch {
	case errors.Is(err, errNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look up blocked key: %w", err)
	}
	return ca.Errorf(ca.KindBlockedKey, "csr", "make a new key", "this key was revoked as compromised")
}

// deviceRefusal explains a device.
func deviceRefusal(ctx context.Context, q querier, c *enroll.Claim, now time.Time) error {
	if c.Device == nil {
		return nil
	}
	status, err := value[enroll.DeviceStatus](ctx, q, `SELECT status FROM devices WHERE id = $1`, c.Device.ID)
	first := c.Replaces == "" && !c.Device.Supersedes
	switch {
	case errors.Is(err, errNoRows) && first:
		return nil
	case errors.Is(err, errNoRows):
		return notFound("deviceId", "device", c.Device.ID)
	case err != nil:
		return fmt.Errorf("look up device: %w", err)
	}
	switch status {
	case enroll.DeviceRevoked, enroll.DeviceRetired:
		return ca.Errorf(enroll.KindDeviceRevoked, "deviceId", "enroll it under another device id", "device %q is %s", c.Device.ID, status)
	case enroll.DeviceHeld:
		return ca.Errorf(enroll.KindDeviceHeld, "deviceId", "release the device first", "device %q is on hold", c.Device.ID)
	case enroll.DeviceActive:
		if first {
			good, err := value[int64](ctx, q, `SELECT CASE WHEN EXISTS (SELECT 1 FROM certificates
				WHERE holder_kind = 'device' AND holder_id = $1 AND status = 'good' AND not_after > $2) THEN 1 ELSE 0 END`, c.Device.ID, micros(now))
			switch {
			case err != nil:
				return fmt.Errorf("look for a good certificate: %w", err)
			case good == 0 && c.Device.Stranded:
				return nil
			case good == 0:
				return ca.Errorf(enroll.KindDuplicateDevice, "deviceId", "let an operator enroll it again", "device %q is enrolled, and holds no good certificate any more", c.Device.ID)
			}
			return ca.Errorf(enroll.KindDuplicateDevice, "deviceId", "renew its certificate; without its key, an operator makes it a renewal link (fleetca device renewal-link)", "device %q is enrolled", c.Device.ID)
		}
	case enroll.DeviceRegistered:
		if !first {
			return conflict("deviceId", "enroll it first", "device %q holds no certificate yet", c.Device.ID)
		}
	}
	return nil
}

// replacedRefusal explains the certificate that a renewal is based on.
func replacedRefusal(ctx context.Context, q querier, c *enroll.Claim, holder ca.Holder) error {
	if c.Replaces == "" {
		return nil
	}
	old, err := one(ctx, q, scanCertificate, selectCertificate+` WHERE serial = $1`, c.Replaces)
	switch {
	case errors.Is(err, errNoRows):
		return notFound("serialNumber", "certificate", string(c.Replaces))
	case err != nil:
		return fmt.Errorf("look up replaced certificate: %w", err)
	case old.Status != ca.StatusGood:
		return ca.Errorf(ca.KindRevoked, "serialNumber", "enroll again with a token", "certificate %s is %s", c.Replaces, old.Status)
	case old.Holder != holder:
		return ca.Errorf(enroll.KindForbidden, "serialNumber", "renew with the holder's own certificate", "certificate %s belongs to another holder", c.Replaces)
	}
	return nil
}

// activeRefusal refuses a renewal of a device that has as many good
// certificates as it may. A first enrollment has none, and one that supersedes
// leaves none.
func activeRefusal(ctx context.Context, q querier, c *enroll.Claim, now time.Time) error {
	if c.MaxActive == 0 || c.Device == nil || c.Replaces == "" {
		return nil
	}
	n, err := value[int64](ctx, q, `SELECT COUNT(*) FROM (SELECT 1 FROM certificates
		WHERE holder_kind = 'device' AND holder_id = $1 AND status = 'good' AND not_after > $2 LIMIT $3) AS found`, c.Device.ID, micros(now), int64(c.MaxActive))
	switch {
	case err != nil:
		return fmt.Errorf("count good certificates: %w", err)
	case n >= int64(c.MaxActive):
		return ca.Errorf(enroll.KindCertificateLimit, "deviceId", "let an old one expire, or let security revoke one: fleetca cert list --status good --device ID",
			"device %q has %d good certificates, as many as its profile allows", c.Device.ID, n)
	}
	return nil
}

// quotaRefusal explains a work order.
func quotaRefusal(ctx context.Context, q querier, c *enroll.Claim) error {
	if !takesQuota(c) {
		return nil
	}
	order, err := one(ctx, q, scanWorkOrder, selectWorkOrder+` WHERE id = $1`, c.Order)
	switch {
	case errors.Is(err, errNoRows):
		return notFound("workOrder", "work order", c.Order)
	case err != nil:
		return fmt.Errorf("look up work order: %w", err)
	case order.State != enroll.OrderOpen:
		return ca.Errorf(enroll.KindOrderClosed, "workOrder", "name an open work order", "work order %q is %s", c.Order, order.State)
	case order.Issued >= order.Quantity:
		return ca.Errorf(enroll.KindQuotaReached, "workOrder", "open another work order, or check for devices that were enrolled twice",
			"all %d devices of work order %q are enrolled", order.Quantity, c.Order)
	}
	return nil
}
