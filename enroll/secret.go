package enroll

import "log/slog"

// A Secret is a token, a password or a passphrase on its way: text that does
// not show when it is printed, logged or marshalled (I23). Whoever needs the
// text itself converts it to a string.
type Secret string

const redacted = "REDACTED"

// String returns a placeholder.
func (Secret) String() string { return redacted }

// GoString returns a placeholder.
func (Secret) GoString() string { return redacted }

// MarshalText returns a placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
