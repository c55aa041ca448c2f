//go:build !linux

package store

import (
	"syscall"
	"time"
)

// boundUnanswered does nothing where there is no TCP_USER_TIMEOUT: keepalive and
// deadlines notice it later.
func boundUnanswered(syscall.RawConn, time.Duration) error { return nil }
