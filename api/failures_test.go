package api

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestFailures(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := testFailures(3, 10*time.Second, &now)
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	for n := range 3 {
		if wait := f.wait(one); wait != 0 {
			t.Errorf("attempt %d waits %v", n, wait)
		}
		fail(t, f, one)
	}
	if wait := f.wait(one); wait <= 9*time.Second || wait > 10*time.Second {
		t.Errorf("wait %v, want about 10 s", wait)
	}
	if wait := f.wait(two); wait != 0 {
		t.Errorf("another address waits %v", wait)
	}
	now = now.Add(10 * time.Second)
	if wait := f.wait(one); wait != 0 {
		t.Errorf("after the wait: %v", wait)
	}
	fail(t, f, one)
	if f.wait(one) == 0 {
		t.Error("one attempt came back, and two are let through")
	}
}

func TestFailuresAreBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := testFailures(3, time.Second, &now)
	for n := range uint32(maxAddresses + 500) {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], n)
		fail(t, f, netip.PrefixFrom(netip.AddrFrom4(ip), 32))
	}
	if len(f.full) > maxAddresses {
		t.Errorf("%d addresses are kept", len(f.full))
	}
	now = now.Add(time.Minute)
	fail(t, f, netip.MustParsePrefix("198.51.100.1/32"))
	if len(f.full) > maxAddresses-15 {
		t.Errorf("%d addresses are kept after all recovered", len(f.full))
	}
}

// testFailures counts without a store.
func testFailures(burst int, refill time.Duration, now *time.Time) *failures {
	return &failures{burst: burst, refill: refill, now: func() time.Time { return *now }, full: map[netip.Prefix]time.Time{},
		charge: func(context.Context, netip.Prefix, time.Duration) (time.Time, error) { return time.Time{}, errNoStore }}
}

var errNoStore = errors.New("the store does not answer")

func fail(t *testing.T, f *failures, address netip.Prefix) {
	t.Helper()
	if err := f.add(t.Context(), address); !errors.Is(err, errNoStore) {
		t.Fatal(err)
	}
}
