package enroll

import (
	"context"
	"strings"
	"testing"
)

// WeakHash returns a hash that costs less than new ones do.
func WeakHash(password string) string {
	h := &passwordHash{cost: hashCost{memory: 64, passes: 1, threads: 1}, salt: []byte("somesaltsomesalt")}
	var err error
	if h.tag, err = h.compute(context.Background(), Secret(password), tagLength); err != nil {
		panic(err)
	}
	return h.String()
}

// The reference implementation's own test vector, of argon2id version 0x13:
// hashtest(version, 2, 16, 1, "password", "somesalt").
func TestPasswordHashVector(t *testing.T) {
	const vector = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	h, err := parsePasswordHash(vector)
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[Secret]bool{"password": true, "Password": false, "": false} {
		if got, err := h.matches(t.Context(), password); got != want || err != nil {
			t.Errorf("%q: %v, %v", string(password), got, err)
		}
	}
}

func FuzzParsePasswordHash(f *testing.F) {
	f.Add(WeakHash("x"))
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$$")
	f.Add("$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZXNhbHQ")
	f.Add("$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parsePasswordHash(text)
		if err != nil {
			if len(text) > 0 && strings.Contains(err.Error(), text) {
				t.Error("the error repeats the hash")
			}
			return
		}
		if h.String() != text || h.cost.memory > maxMemory || h.cost.passes > maxPasses {
			t.Errorf("%q became %q", text, h)
		}
	})
}

// More logins at once than wait for their turn are sent away.
func TestHashingIsShed_I28(t *testing.T) {
	waiting.Add(maxHashing + maxWaiting)
	defer waiting.Add(-maxHashing - maxWaiting)
	_, err := newPasswordHash(t.Context(), "x")
	if !isKind(err, KindRateLimited) {
		t.Errorf("error is %v", err)
	}
}
