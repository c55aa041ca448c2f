package enroll

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/ca"
)

// idempotency returns what makes a call repeatable: nil when it has no key.
// request is what makes two calls the same; answer the first answer, kept.
func (c Call) idempotency(operation string, request, answer any) (*Idempotency, error) {
	if c.IdempotencyKey == "" {
		return nil, nil
	}
	text, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("hash the request: %w", err)
	}
	sum := sha256.Sum256(text)
	i := &Idempotency{Scope: c.Principal.Name + " " + operation, Key: c.IdempotencyKey, RequestHash: sum[:]}
	if answer != nil {
		if i.Answer, err = json.Marshal(answer); err != nil {
			return nil, fmt.Errorf("keep the answer: %w", err)
		}
	}
	return i, nil
}

// replayed returns the *Replay of a call that was made before, as an error.
func (s *Service) replayed(ctx context.Context, i *Idempotency) error {
	if i == nil {
		return nil
	}
	r, err := s.store.Replayed(ctx, i)
	if err != nil {
		return err
	}
	if r != nil {
		return r
	}
	return nil
}

// repeatable is the shape of every call that creates something but a
// certificate: a repeated call is answered as the first (a *Replay), another
// goes to commit.
func (s *Service) repeatable(ctx context.Context, c Call, operation string, request, answer any, commit func(*Idempotency) error) error {
	i, err := c.idempotency(operation, request, answer)
	if err != nil {
		return err
	}
	if err := s.replayed(ctx, i); err != nil {
		return err
	}
	return commit(i)
}

// A seal keeps an answer that holds a secret: readable only with the
// credential and the idempotency key of the call that got it, which the store
// has neither of.
type seal struct{ cipher.AEAD }

func (c Call) seal() (*seal, error) {
	if c.IdempotencyKey != "" && len(c.Principal.Seal) == 0 { // a key alone can be guessed
		return nil, ca.Errorf(ca.KindMalformed, "Idempotency-Key", "leave it out, or call with an API token", "an answer with a secret cannot be kept for this kind of credential")
	}
	key, err := hkdf.Key(sha256.New, append([]byte(c.IdempotencyKey+"\x00"), c.Principal.Seal...), nil, "fleetca kept answer", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	return &seal{gcm}, err
}

func (s *seal) close(plain []byte) []byte { return s.Seal(nil, nil, plain, nil) }

func (s *seal) open(sealed []byte) ([]byte, error) { return s.Open(nil, nil, sealed, nil) }

// openReplay unseals the answer of a *Replay error.
func (s *seal) openReplay(err error) error {
	r, ok := errors.AsType[*Replay](err)
	if !ok {
		return err
	}
	plain, openErr := s.open(r.Answer)
	if openErr != nil { // kept for another credential of the same principal, such as an earlier login
		return &ca.Error{Kind: KindIdempotency, Message: "the answer to this Idempotency-Key can be shown to the credential alone that got it first",
			Hint: "use a new Idempotency-Key for a new request", Err: openErr}
	}
	return &Replay{SerialNumber: r.SerialNumber, Answer: plain}
}
