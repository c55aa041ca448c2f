package storetest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// refusal commits an issuance that must be refused with the kind, by
// CheckClaim as well, and leave nothing behind.
func (f *fixture) refusal(i ca.Issuance, kind ca.Kind) {
	f.Helper()
	f.unchanged(func() {
		f.wantKind(f.store.CheckClaim(f.ctx, claimOf(i), i.Certificate.Holder, i.Certificate.KeySHA256), kind)
		f.wantKind(f.commit(i), kind)
	})
}

// refusedAtOnce commits an issuance that must be refused for what CheckClaim does
// not look at, and leave nothing behind.
func (f *fixture) refusedAtOnce(i ca.Issuance, kind ca.Kind) {
	f.Helper()
	f.unchanged(func() { f.wantKind(f.commit(i), kind) })
}

// spending returns a first enrollment that spends a token.
func (f *fixture) spending(device, token string) ca.Issuance {
	i := f.enrollment(device)
	claimOf(i).Token = &enroll.TokenClaim{ID: token, DeviceID: device, RequestHash: sum(device + string(i.Certificate.SerialNumber))}
	return i
}

// renewal returns a renewal of old with the same key.
func (f *fixture) renewal(old ca.Certificate) ca.Issuance {
	i := f.enrollment(old.Holder.ID)
	i.Certificate.KeySHA256 = old.KeySHA256
	claimOf(i).Replaces = old.SerialNumber
	claimOf(i).Device.TrustGeneration = 2
	return i
}

// tokenUsed returns how often a token was used.
func (f *fixture) tokenUsed(id string) int64 {
	f.Helper()
	t, err := f.store.EnrollmentTokenByHash(f.ctx, sum(id))
	f.must(err)
	return t.Used
}

// orderIssued returns how many devices a work order has.
func (f *fixture) orderIssued(id string) int64 {
	f.Helper()
	o, err := f.store.WorkOrder(f.ctx, id)
	f.must(err)
	return o.Issued
}

var claimTests = []test{
	{"I6 a token is spent with its certificate", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", DeviceID: "d1"})
		i := f.spending("d1", "t1")
		f.must(f.store.CheckClaim(f.ctx, claimOf(i), i.Certificate.Holder, i.Certificate.KeySHA256))
		f.must(f.commit(i))
		if n := f.tokenUsed("t1"); n != 1 {
			f.Fatalf("used %d times", n)
		}
	}},
	{"a caller's API token must hold", func(f *fixture) {
		for id, token := range map[string]enroll.APIToken{
			"holds": {ExpiresAt: f.now.Add(time.Hour)}, "ended": {ExpiresAt: f.now.Add(-time.Second)}, "gone": {ExpiresAt: f.now.Add(time.Hour)},
		} {
			token.ID, token.Hash, token.Role, token.CreatedAt = id, sum(id), enroll.RoleOperator, f.now
			f.must(f.store.CreateAPIToken(f.ctx, token, f.change("api-token.create", "token:"+id)))
		}
		f.must(f.store.DisableAPIToken(f.ctx, "gone", f.change("api-token.disable", "token:gone")))
		asked := func(device, caller string) ca.Issuance {
			i := f.enrollment(device)
			claimOf(i).Caller = caller
			return i
		}
		for _, caller := range []string{"ended", "gone", "nobody"} {
			f.refusedAtOnce(asked("d", caller), enroll.KindUnauthenticated)
		}
		errs := f.store.Commit(f.ctx, []ca.Issuance{asked("d1", "holds"), asked("d2", "gone"), asked("d3", "holds")})
		f.must(errors.Join(errs[0], errs[2]))
		f.wantKind(errs[1], enroll.KindUnauthenticated)
	}},
	{"a profile must be at the version that was recalled", func(f *fixture) {
		made := func(device, profile string, version int64) ca.Issuance {
			i := f.enrollment(device)
			claimOf(i).Profile = &enroll.ProfileClaim{Name: profile, Version: version}
			return i
		}
		f.must(f.commit(made("d1", "device", 0)))
		f.must(f.profile("device", 2))
		f.refusedAtOnce(made("d2", "device", 0), enroll.KindConflict)
		f.refusedAtOnce(made("d2", "device", 3), enroll.KindConflict)
		errs := f.store.Commit(f.ctx, []ca.Issuance{made("d2", "device", 2), made("d3", "device", 1), made("d4", "pump", 0)})
		f.must(errors.Join(errs[0], errs[2]))
		f.wantKind(errs[1], enroll.KindConflict)
		renewal := f.renewal(f.enroll("d5"))
		claimOf(renewal).Profile = &enroll.ProfileClaim{Name: "device", Version: 1}
		f.refusedAtOnce(renewal, enroll.KindConflict)
		claimOf(renewal).Profile.Version = 2
		f.must(f.commit(renewal))
	}},
	{"I6 an expired token is refused", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", ExpiresAt: f.now.Add(-time.Second)})
		f.refusal(f.spending("d1", "t1"), enroll.KindTokenExpired)
		if n := f.tokenUsed("t1"); n != 0 {
			f.Fatalf("used %d times", n)
		}
	}},
	{"I6 a token of another device is refused", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", DeviceID: "other"})
		f.refusal(f.spending("d1", "t1"), enroll.KindTokenOtherDevice)
	}},
	{"I6 a spent token is refused", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1"})
		f.must(f.commit(f.spending("d1", "t1")))
		f.refusal(f.spending("d2", "t1"), enroll.KindTokenUsed)
		if n := f.tokenUsed("t1"); n != 1 {
			f.Fatalf("used %d times", n)
		}
	}},
	{"I6 a token that does not exist is refused", func(f *fixture) {
		f.refusal(f.spending("d1", "none"), enroll.KindTokenUnknown)
	}},
	{"I6 a token is not spent when something later is refused", func(f *fixture) {
		f.enroll("d1")
		f.token(enroll.EnrollmentToken{ID: "t1"})
		f.refusal(f.spending("d1", "t1"), enroll.KindDuplicateDevice)
		if n := f.tokenUsed("t1"); n != 0 {
			f.Fatalf("used %d times", n)
		}
	}},
	{"a key has one holder", func(f *fixture) {
		first := f.enroll("d1")
		i := f.enrollment("d2")
		i.Certificate.KeySHA256 = first.KeySHA256
		f.refusal(i, enroll.KindDuplicateKey)
	}},
	{"a holder keeps its key when it renews", func(f *fixture) {
		i := f.renewal(f.enroll("d1"))
		f.must(f.store.CheckClaim(f.ctx, claimOf(i), i.Certificate.Holder, i.Certificate.KeySHA256))
		f.must(f.commit(i))
		d, err := f.store.Device(f.ctx, "d1")
		f.must(err)
		if len(d.Certificates) != 2 || d.Certificates[0].SerialNumber != i.Certificate.SerialNumber || d.TrustGeneration != 2 {
			f.Fatalf("device is %+v", d)
		}
	}},
	{"the device of a certificate, with its newest few", func(f *fixture) {
		chains := map[string][]ca.Certificate{}
		for _, id := range []string{"d1", "d2"} {
			chains[id] = append(chains[id], f.enroll(id))
			for n := range 4 {
				f.now = f.now.Add(time.Second)
				i := f.renewal(chains[id][n])
				f.must(f.commit(i))
				chains[id] = append(chains[id], i.Certificate)
			}
		}
		broker := ca.Issuance{Certificate: f.certificate(ca.Holder{Kind: ca.HolderBroker, ID: "d1"}), Claim: &enroll.Claim{Change: f.change("broker.issue", "broker:d1")}}
		f.must(f.commit(broker))
		var asks sync.WaitGroup
		for range 4 { // some of them share a query
			for id, chain := range chains {
				for _, asked := range chain {
					asks.Go(func() {
						d, err := f.store.DeviceToRenew(f.ctx, asked.SerialNumber)
						if err != nil || d.ID != id || d.Status != enroll.DeviceActive || d.TrustGeneration != 2 || len(d.Certificates) < 2 || len(d.Certificates) >= len(chain) {
							f.Errorf("the device of %s is %+v, %v", asked.SerialNumber, d, err)
							return
						}
						for n, c := range d.Certificates {
							if want := chain[len(chain)-1-n]; c.SerialNumber != want.SerialNumber || !bytes.Equal(c.DER, want.DER) {
								f.Errorf("certificate %d of %s is %s", n, id, c.SerialNumber)
							}
						}
					})
				}
			}
			asks.Go(func() {
				for _, serial := range []ca.SerialNumber{broker.Certificate.SerialNumber, "00"} {
					_, err := f.store.DeviceToRenew(f.ctx, serial)
					f.wantKind(err, ca.KindNotFound)
				}
			})
		}
		asks.Wait()
	}},
	{"renewals of a batch are granted or fail each by itself", func(f *fixture) {
		old := map[string]ca.Certificate{}
		for _, id := range []string{"same", "other", "held", "gone", "bad", "theirs"} {
			old[id] = f.enroll(id)
		}
		f.must(f.store.HoldDevice(f.ctx, "held", f.now, f.change("device.hold", "device:held")))
		f.revokeCertificate(old["gone"].SerialNumber, ca.ReasonSuperseded)
		// A device whose key was compromised, and that has another certificate since.
		next := f.renewal(old["bad"])
		next.Certificate.KeySHA256 = hex.EncodeToString(sum("its second key"))
		f.must(f.commit(next))
		f.revokeCertificate(old["bad"].SerialNumber, ca.ReasonKeyCompromise)

		rekey := func(id string, key string) ca.Issuance {
			i := f.renewal(old[id])
			i.Certificate.KeySHA256 = key
			return i
		}
		compromised := f.renewal(next.Certificate)
		compromised.Certificate.KeySHA256 = old["bad"].KeySHA256
		batch := []ca.Issuance{
			f.renewal(old["same"]), rekey("other", hex.EncodeToString(sum("a new key"))), f.enrollment("first"),
			f.renewal(old["held"]), f.renewal(old["gone"]), compromised, rekey("theirs", old["same"].KeySHA256),
		}
		want := []ca.Kind{"", "", "", enroll.KindDeviceHeld, ca.KindRevoked, ca.KindBlockedKey, enroll.KindDuplicateKey}
		for n, err := range f.store.Commit(f.ctx, batch) {
			if want[n] == "" {
				f.must(err)
			} else {
				f.wantKind(err, want[n])
			}
		}
		for n, kind := range want {
			_, err := f.store.Certificate(f.ctx, batch[n].Certificate.SerialNumber)
			if found := err == nil; found != (kind == "") {
				f.Errorf("item %d is recorded: %v", n, found)
			}
		}
		for _, err := range f.store.Commit(f.ctx, []ca.Issuance{f.renewal(batch[0].Certificate), f.renewal(batch[1].Certificate), f.renewal(batch[2].Certificate)}) {
			f.must(err)
		}
	}},
	{"a device enrolls once", func(f *fixture) {
		f.enroll("d1")
		f.refusal(f.enrollment("d1"), enroll.KindDuplicateDevice)
	}},
	{"a registered device becomes active and keeps what is not given", func(f *fixture) {
		f.order("o1", 5)
		f.must(f.store.CreateDevice(f.ctx, enroll.Device{ID: "d1", Status: enroll.DeviceRegistered, Group: "g", WorkOrder: "o1",
			Attributes: map[string]string{"a": "1"}, CreatedAt: f.now}, f.change("device.create", "device:d1")))
		f.enroll("d1")
		d, err := f.store.Device(f.ctx, "d1")
		f.must(err)
		if d.Status != enroll.DeviceActive || d.Group != "g" || d.WorkOrder != "o1" || d.Attributes["a"] != "1" || !d.CreatedAt.Equal(f.now) {
			f.Fatalf("device is %+v", d)
		}
	}},
	{"a revoked device is refused, first and on renewal", func(f *fixture) {
		cert := f.enroll("d1")
		f.revoke("d1", ca.ReasonSuperseded)
		f.refusal(f.enrollment("d1"), enroll.KindDeviceRevoked)
		f.refusal(f.renewal(cert), enroll.KindDeviceRevoked)
	}},
	{"a held device is refused, first and on renewal", func(f *fixture) {
		cert := f.enroll("d1")
		f.must(f.store.HoldDevice(f.ctx, "d1", f.now, f.change("device.hold", "device:d1")))
		f.refusal(f.enrollment("d1"), enroll.KindDeviceHeld)
		f.refusal(f.renewal(cert), enroll.KindDeviceHeld)
	}},
	{"a revoked certificate cannot be renewed", func(f *fixture) {
		cert := f.enroll("d1")
		_, err := f.store.RevokeCertificate(f.ctx, cert.SerialNumber, ca.ReasonSuperseded, f.now, f.change("certificate.revoke", "certificate:x"))
		f.must(err)
		f.refusal(f.renewal(cert), ca.KindRevoked)
	}},
	{"another device's certificate cannot be renewed", func(f *fixture) {
		cert := f.enroll("d1")
		f.enroll("d2")
		i := f.enrollment("d2")
		claimOf(i).Replaces = cert.SerialNumber
		f.refusal(i, enroll.KindForbidden)
	}},
	{"I6 a quota is taken by a first enrollment and by nothing else", func(f *fixture) {
		f.order("o1", 5)
		i := f.enrollment("d1")
		claimOf(i).Order = "o1"
		f.must(f.commit(i))
		again := f.renewal(i.Certificate)
		claimOf(again).Order = "o1"
		f.must(f.commit(again))
		if n := f.orderIssued("o1"); n != 1 {
			f.Fatalf("issued %d", n)
		}
		d, err := f.store.Device(f.ctx, "d1")
		f.must(err)
		if d.WorkOrder != "o1" {
			f.Fatalf("work order is %q", d.WorkOrder)
		}
	}},
	{"I6 a reached quota is refused", func(f *fixture) {
		f.order("o1", 1)
		i := f.enrollment("d1")
		claimOf(i).Order = "o1"
		f.must(f.commit(i))
		i = f.enrollment("d2")
		claimOf(i).Order = "o1"
		f.refusal(i, enroll.KindQuotaReached)
	}},
	{"a closed work order is refused", func(f *fixture) {
		f.must(f.store.CreateWorkOrder(f.ctx, enroll.WorkOrder{ID: "o1", Quantity: 1, State: enroll.OrderClosed, CreatedAt: f.now},
			f.change("order.create", "order:o1")))
		i := f.enrollment("d1")
		claimOf(i).Order = "o1"
		f.refusal(i, enroll.KindOrderClosed)
	}},
	{"an unknown work order is refused", func(f *fixture) {
		i := f.enrollment("d1")
		claimOf(i).Order = "none"
		f.refusal(i, ca.KindNotFound)
	}},
	{"refusals come in the order of the contract", func(f *fixture) {
		f.order("o1", 0)
		taken := f.enroll("taken")
		f.token(enroll.EnrollmentToken{ID: "expired", ExpiresAt: f.now.Add(-time.Second)})
		i := f.spending("taken", "expired") // everything is wrong with it
		i.Certificate.Holder.ID = "someone"
		i.Certificate.KeySHA256 = taken.KeySHA256
		claimOf(i).Order = "o1"
		f.refusal(i, enroll.KindTokenExpired)
		claimOf(i).Token = nil
		f.refusal(i, enroll.KindDuplicateKey)
		i.Certificate.KeySHA256 = "free"
		f.refusal(i, enroll.KindDuplicateDevice)
		claimOf(i).Device.ID = "someone"
		f.refusal(i, enroll.KindQuotaReached)
	}},
}
