package enroll

import "time"

// A Later is an error that passes by itself: the same call may be made again
// after a time.
type Later struct {
	Err   error
	After time.Duration
}

func (l *Later) Error() string { return l.Err.Error() }

// Unwrap returns the error itself.
func (l *Later) Unwrap() error { return l.Err }
