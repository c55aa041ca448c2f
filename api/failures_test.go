package api

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func TestFailures(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := newFailures(3, 10*time.Second, func() time.Time { return now })
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	for n := range 3 {
		if wait := f.wait(one); wait != 0 {
			t.Errorf("attempt %d waits %v", n, wait)
		}
		f.add(one)
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
	f.add(one)
	if f.wait(one) == 0 {
		t.Error("one attempt came back, and two are let through")
	}
}

func TestFailuresAreBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := newFailures(3, time.Second, func() time.Time { return now })
	for n := range uint32(maxAddresses + 500) {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], n)
		f.add(netip.PrefixFrom(netip.AddrFrom4(ip), 32))
	}
	if len(f.buckets) > maxAddresses {
		t.Errorf("%d addresses are kept", len(f.buckets))
	}
	now = now.Add(time.Minute)
	f.add(netip.MustParsePrefix("198.51.100.1/32"))
	if len(f.buckets) > maxAddresses-15 {
		t.Errorf("%d addresses are kept after all recovered", len(f.buckets))
	}
}
