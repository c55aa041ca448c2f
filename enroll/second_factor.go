package enroll

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"github.com/fleetca/fleetca/ca"
)

// Codes of the second factor (RFC 6238): six digits by HMAC-SHA-1 every 30 s,
// which is what authenticator apps agree on. One step to either side is taken,
// for clocks that differ.
const (
	codePeriod         = 30 // seconds
	codeSkew           = 1  // steps
	secretLength       = 20 // bytes (RFC 4226, section 4, R6)
	sealKeyLength      = 32
	secondFactorIssuer = "fleetca"
)

var codeOptions = totp.ValidateOpts{Period: codePeriod, Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}

var (
	errCode = ca.Errorf(KindUnauthenticated, "code", "wait for the next code of the app, and check the clock of the device it runs on",
		"the code is wrong, too old, or was used before")
	errNoCode = ca.Errorf(KindSecondFactor, "code", "give the six digits that the authenticator app shows", "this user signs in with a code, too")
)

// A SecondFactorOffer is a new secret for an authenticator app. Nothing is
// stored until a code made with it comes back.
type SecondFactorOffer struct {
	Secret string // base32
	URI    string // otpauth://, for a QR code
}

// OfferSecondFactor makes a secret for the user.
func (s *Service) OfferSecondFactor(user string) *SecondFactorOffer {
	var raw [secretLength]byte
	rand.Read(raw[:])
	return secondFactorOffer(user, base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw[:]))
}

// RepeatSecondFactorOffer is the offer of a secret that was offered before.
func (s *Service) RepeatSecondFactorOffer(user, secret string) (*SecondFactorOffer, error) {
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil || len(raw) != secretLength {
		return nil, ca.Errorf(ca.KindMalformed, "secret", "begin again", "is no secret that was offered")
	}
	return secondFactorOffer(user, secret), nil
}

func secondFactorOffer(user, secret string) *SecondFactorOffer {
	query := url.Values{"secret": {secret}, "issuer": {secondFactorIssuer}}
	uri := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + secondFactorIssuer + ":" + user, RawQuery: query.Encode()}
	return &SecondFactorOffer{Secret: secret, URI: uri.String()}
}

// A SecondFactorRequest sets up a second factor.
type SecondFactorRequest struct {
	Secret   Secret // as offered
	Code     Secret // made with it
	Password Secret
}

// EnrollSecondFactor gives the calling user a second factor, or another one.
func (s *Service) EnrollSecondFactor(ctx context.Context, c Call, r SecondFactorRequest) error {
	if _, err := s.RepeatSecondFactorOffer("", string(r.Secret)); err != nil {
		return err
	}
	step, ok := matchCode(string(r.Secret), r.Code, s.now(), 0)
	if !ok {
		return errCode
	}
	user, err := s.confirm(ctx, c, r.Password)
	if err != nil {
		return err
	}
	sealed, err := sealWith(ctx, r.Password, []byte(r.Secret))
	if err != nil {
		return err
	}
	now := s.now()
	return s.store.SetSecondFactor(ctx, NewSecondFactor{User: user.Name, Checked: user.PasswordHash, Sealed: sealed, Step: step, At: now},
		Change{Event: newEvent(now, c.Principal.Name, "user.second-factor", "user:"+user.Name, nil)})
}

// RemoveSecondFactor takes the calling user's second factor off.
func (s *Service) RemoveSecondFactor(ctx context.Context, c Call, password Secret) error {
	user, err := s.confirm(ctx, c, password)
	if err != nil {
		return err
	}
	now := s.now()
	return s.store.SetSecondFactor(ctx, NewSecondFactor{User: user.Name, Checked: user.PasswordHash, Step: user.SecondFactorStep, At: now},
		Change{Event: newEvent(now, c.Principal.Name, "user.no-second-factor", "user:"+user.Name, nil)})
}

// ChangePassword gives the calling user another password. Their other sessions
// and the tokens of their logins end; the second factor stays.
func (s *Service) ChangePassword(ctx context.Context, c Call, old, password Secret) error {
	user, err := s.confirm(ctx, c, old)
	if err != nil {
		return err
	}
	if err := checkPassword(user.Name, password); err != nil {
		return err
	}
	hash, err := newPasswordHash(ctx, password)
	if err != nil {
		return err
	}
	n := NewPassword{User: user.Name, Checked: user.PasswordHash, Hash: hash.String(), At: s.now()}
	if c.Principal.Session != nil {
		n.KeepSession = c.Principal.Session.ID
	}
	if user.SecondFactor != "" {
		secret, err := openWith(ctx, old, user.SecondFactor)
		if err != nil {
			return fmt.Errorf("open the second factor of user %s: %w", user.Name, err)
		}
		if n.SecondFactor, err = sealWith(ctx, password, secret); err != nil {
			return err
		}
	}
	return s.store.SetPassword(ctx, n, Change{Event: newEvent(n.At, c.Principal.Name, "user.password", "user:"+user.Name, nil)})
}

// confirm returns the calling user once they gave their password again, for
// what a session left open must not do. Attempts are limited as at logins.
func (s *Service) confirm(ctx context.Context, c Call, password Secret) (*User, error) {
	name, isUser := strings.CutPrefix(c.Principal.Name, "user:")
	if !isUser {
		return nil, ca.Errorf(KindForbidden, "", "sign in with a password", "only a user who signed in may do this")
	}
	if len(password) > maxPassword {
		return nil, ca.Errorf(ca.KindMalformed, "password", "shorten it", "is longer than %d octets", maxPassword)
	}
	charges, err := s.store.ChargeLogin(ctx, []string{"user:" + name}, s.now(), loginLimit)
	if err != nil {
		return nil, err
	}
	user, right, err := s.checkLogin(ctx, LoginRequest{Name: name, Password: password})
	if err == nil && !right {
		return nil, ca.Errorf(KindUnauthenticated, "password", "give the password that you sign in with", "the password is wrong")
	}
	if refundErr := s.store.RefundLogin(context.WithoutCancel(ctx), charges); err == nil {
		err = refundErr
	}
	return user, err
}

// checkCode returns the time step of a user's code: errNoCode when there is
// none, errCode when it is not right.
func (s *Service) checkCode(ctx context.Context, user *User, password, code Secret) (int64, error) {
	if code == "" {
		return 0, errNoCode
	}
	secret, err := openWith(ctx, password, user.SecondFactor)
	if err != nil {
		return 0, fmt.Errorf("open the second factor of user %s: %w", user.Name, err)
	}
	step, ok := matchCode(string(secret), code, s.now(), user.SecondFactorStep)
	if !ok {
		return 0, errCode
	}
	return step, nil
}

// matchCode returns the time step after a used one that a code is right for.
func matchCode(secret string, code Secret, now time.Time, used int64) (step int64, ok bool) {
	given := strings.Join(strings.Fields(string(code)), "") // apps show it in groups
	current := now.Unix() / codePeriod
	for at := current - codeSkew; at <= current+codeSkew; at++ {
		want, err := totp.GenerateCodeCustom(secret, time.Unix(at*codePeriod, 0), codeOptions)
		if err == nil && at > used && subtle.ConstantTimeCompare([]byte(want), []byte(given)) == 1 {
			return at, true
		}
	}
	return 0, false
}

// sealWith encrypts a secret so that the password opens it and nothing else
// does: with a key that argon2id makes of it, under a salt of its own. The text
// is a PHC string whose tag is the ciphertext.
func sealWith(ctx context.Context, password Secret, secret []byte) (string, error) {
	h := &passwordHash{cost: passwordCost, salt: make([]byte, saltLength)}
	rand.Read(h.salt)
	gcm, err := h.cipher(ctx, password)
	if err != nil {
		return "", err
	}
	h.tag = gcm.Seal(nil, nil, secret, nil)
	return h.String(), nil
}

// openWith is the inverse of sealWith.
func openWith(ctx context.Context, password Secret, sealed string) ([]byte, error) {
	h, err := parsePasswordHash(sealed)
	if err != nil {
		return nil, err
	}
	gcm, err := h.cipher(ctx, password)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, nil, h.tag, nil)
}

func (h *passwordHash) cipher(ctx context.Context, password Secret) (cipher.AEAD, error) {
	key, err := h.compute(ctx, password, sealKeyLength)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
