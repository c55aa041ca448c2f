package enroll

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/fleetca/fleetca/ca"
)

// Bounds of a password.
const (
	minPassword = 12  // characters
	maxPassword = 256 // octets
)

// A hashCost is what a password hash costs to compute (RFC 9106, section 3.1).
type hashCost struct {
	memory  uint32 // m, in KiB
	passes  uint32 // t
	threads uint8  // p
}

// passwordCost is the cost of new hashes: the first choice of OWASP's Password
// Storage Cheat Sheet. When it rises, each user's hash follows at their next
// login.
var passwordCost = hashCost{memory: 19456, passes: 2, threads: 1}

// Lengths of a salt and of a tag, in bytes (RFC 9106, section 3.1), and the
// most that a stored hash may cost: more is no hash of ours.
const (
	saltLength = 16
	tagLength  = 32
	maxMemory  = 1 << 20 // KiB
	maxPasses  = 64
)

// A passwordHash is an argon2id hash (RFC 9106) with all that it takes to
// compute it again.
type passwordHash struct {
	cost      hashCost
	salt, tag []byte
}

// newPasswordHash hashes a password with a fresh salt.
func newPasswordHash(ctx context.Context, password Secret) (*passwordHash, error) {
	h := &passwordHash{cost: passwordCost, salt: make([]byte, saltLength)}
	rand.Read(h.salt)
	var err error
	h.tag, err = h.compute(ctx, password, tagLength)
	return h, err
}

// matches reports whether the password is the one that was hashed.
func (h *passwordHash) matches(ctx context.Context, password Secret) (bool, error) {
	tag, err := h.compute(ctx, password, uint32(len(h.tag)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(tag, h.tag) == 1, nil
}

// Hashing takes memory, so few passwords are hashed at the same time, few more
// wait for their turn, and the rest is shed (I28).
const (
	maxHashing = 2
	maxWaiting = 32
)

var (
	hashing = make(chan struct{}, maxHashing)
	waiting atomic.Int64
)

// compute returns the tag of a password.
func (h *passwordHash) compute(ctx context.Context, password Secret, length uint32) ([]byte, error) {
	defer waiting.Add(-1)
	if waiting.Add(1) > maxHashing+maxWaiting {
		return nil, &Later{After: time.Second, Err: ca.Errorf(KindRateLimited, "", "try again in a moment", "too many people log in at once")}
	}
	select {
	case hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-hashing }()
	return argon2.IDKey([]byte(password), h.salt, h.cost.passes, h.cost.memory, h.cost.threads, length), nil
}

// String returns the hash in the PHC string format,
// $argon2id$v=19$m=M,t=T,p=P$SALT$TAG.
func (h *passwordHash) String() string {
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.cost.memory, h.cost.passes, h.cost.threads,
		enc.EncodeToString(h.salt), enc.EncodeToString(h.tag))
}

// parsePasswordHash reads what String wrote.
func parsePasswordHash(text string) (*passwordHash, error) {
	bad := errors.New("a stored password hash is none of argon2id")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, bad
	}
	h := &passwordHash{}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.cost.memory, &h.cost.passes, &h.cost.threads); err != nil {
		return nil, bad
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil {
		return nil, bad
	}
	if h.tag, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil {
		return nil, bad
	}
	c := h.cost
	if c.memory < 8 || c.memory > maxMemory || c.passes < 1 || c.passes > maxPasses || c.threads < 1 ||
		len(h.salt) < 8 || len(h.tag) < 16 || h.String() != text {
		return nil, bad
	}
	return h, nil
}

// decoy is what the password of an unknown user is compared with, so that it
// takes as long: a tag that nothing hashes to.
func decoy() *passwordHash {
	return &passwordHash{cost: passwordCost, salt: make([]byte, saltLength), tag: make([]byte, tagLength)}
}

// checkPassword refuses a password that is too short, too long, or the name.
func checkPassword(name string, password Secret) error {
	const hint = "choose 12 characters or more, such as five words"
	text := string(password)
	switch {
	case !utf8.ValidString(text):
		return ca.Errorf(ca.KindMalformed, "password", "write it in UTF-8", "is not UTF-8")
	case len(text) > maxPassword:
		return ca.Errorf(ca.KindMalformed, "password", "shorten it", "is longer than %d octets", maxPassword)
	case utf8.RuneCountInString(text) < minPassword:
		return ca.Errorf(ca.KindMalformed, "password", hint, "is shorter than %d characters", minPassword)
	case strings.EqualFold(text, name):
		return ca.Errorf(ca.KindMalformed, "password", hint, "is the user's name")
	}
	return nil
}
