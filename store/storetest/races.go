package storetest

import (
	"errors"
	"fmt"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const racers = 64

var raceTests = []test{
	{"I6 a quota is never exceeded by racing clients", func(f *fixture) {
		const quantity = 20
		f.order("o1", quantity)
		errs := race(racers, func(n int) error {
			i := f.enrollment(fmt.Sprintf("d%03d", n))
			claimOf(i).Order = "o1"
			return f.commit(i)
		})
		issued := 0
		for _, err := range errs {
			if err == nil {
				issued++
				continue
			}
			f.wantKind(err, enroll.KindQuotaReached)
		}
		devices := every(f, func(p enroll.Page) ([]*enroll.Device, string, error) {
			return f.store.Devices(f.ctx, enroll.DeviceFilter{WorkOrder: "o1"}, p)
		})
		if n := f.orderIssued("o1"); issued != quantity || n != quantity || len(devices) != quantity {
			f.Fatalf("%d succeeded, the order says %d, %d devices; want %d", issued, n, len(devices), quantity)
		}
	}},
	{"I6 a one-time token makes one certificate for racing clients", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1"})
		errs := race(racers, func(n int) error { return f.commit(f.spending(fmt.Sprintf("d%03d", n), "t1")) })
		f.wantOne(errs, func(err error) { f.wantKind(err, enroll.KindTokenUsed) })
		if n := f.tokenUsed("t1"); n != 1 {
			f.Fatalf("used %d times", n)
		}
	}},
	{"I6 a token of many uses is used exactly so often", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", Uses: 10})
		used := 0
		for _, err := range race(racers, func(n int) error { return f.commit(f.spending(fmt.Sprintf("d%03d", n), "t1")) }) {
			if err == nil {
				used++
				continue
			}
			f.wantKind(err, enroll.KindTokenUsed)
		}
		if n := f.tokenUsed("t1"); used != 10 || n != 10 {
			f.Fatalf("%d succeeded, the token says %d; want 10", used, n)
		}
	}},
	{"I5 racing retries under one idempotency key make one certificate", func(f *fixture) {
		all := make([]ca.Issuance, racers)
		for n := range all {
			all[n] = f.enrollment(fmt.Sprintf("d%03d", n))
			claimOf(all[n]).Idempotency = &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("same")}
		}
		errs := race(racers, func(n int) error { return f.commit(all[n]) })
		winner := f.wantOne(errs, func(error) {})
		for n, err := range errs {
			if n != winner {
				f.wantReplay(err, all[winner].Certificate.SerialNumber)
			}
		}
	}},
	{"I5 racing retries of the request that spends a token make one certificate", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", DeviceID: "d1"})
		all := make([]ca.Issuance, racers)
		for n := range all {
			all[n] = f.spending("d1", "t1")
			claimOf(all[n]).Token.RequestHash = sum("same")
		}
		errs := race(racers, func(n int) error { return f.commit(all[n]) })
		winner := f.wantOne(errs, func(error) {})
		for n, err := range errs {
			if n != winner {
				f.wantReplay(err, all[winner].Certificate.SerialNumber)
			}
		}
	}},
	{"one of racing clients gets a key", func(f *fixture) {
		errs := race(racers, func(n int) error {
			i := f.enrollment(fmt.Sprintf("d%03d", n))
			i.Certificate.KeySHA256 = "one key"
			return f.commit(i)
		})
		f.wantOne(errs, func(err error) { f.wantKind(err, enroll.KindDuplicateKey) })
	}},
	{"one of racing clients gets a device id", func(f *fixture) {
		errs := race(racers, func(int) error { return f.commit(f.enrollment("d1")) })
		f.wantOne(errs, func(err error) { f.wantKind(err, enroll.KindDuplicateDevice) })
	}},
	{"a renewal that races a revocation is not good afterwards", func(f *fixture) {
		for n := range 10 {
			device := fmt.Sprintf("d%d", n)
			cert := f.enroll(device)
			errs := race(2, func(n int) error {
				if n == 0 {
					return f.commit(f.renewal(cert))
				}
				_, err := f.store.RevokeDevice(f.ctx, f.revocation(device, ca.ReasonKeyCompromise), f.change("device.revoke", "device:"+device))
				return err
			})
			f.must(errs[1])
			if errs[0] != nil {
				f.wantKind(errs[0], enroll.KindDeviceRevoked)
			}
			d, err := f.store.Device(f.ctx, device)
			f.must(err)
			for _, c := range d.Certificates {
				if c.Status != ca.StatusRevoked {
					f.Fatalf("certificate %s is %s", c.SerialNumber, c.Status)
				}
			}
		}
	}},
	{"I11 racing publishers never share a CRL number", func(f *fixture) {
		f.issuers()
		numbers := make([]int64, racers)
		errs := race(racers, func(n int) error {
			draft, err := f.store.ReserveCRL(f.ctx, ca.CRLScope{IssuerID: "devices"}, ca.CRLKnown{})
			numbers[n] = draft.Number
			return err
		})
		f.must(errors.Join(errs...))
		seen := map[int64]bool{}
		for _, n := range numbers {
			if n <= 1 || seen[n] {
				f.Fatalf("number %d was given twice, or below the first CRL's", n)
			}
			seen[n] = true
		}
	}},
	{"one of racing revocations of a device takes effect", func(f *fixture) {
		f.enroll("d1")
		errs := race(8, func(int) error {
			_, err := f.store.RevokeDevice(f.ctx, f.revocation("d1", ca.ReasonSuperseded), f.change("device.revoke", "device:d1"))
			return err
		})
		f.wantOne(errs, func(err error) { f.wantKind(err, ca.KindRevoked) })
		if n := len(f.events(enroll.EventFilter{Action: "device.revoke"})); n != 1 {
			f.Fatalf("%d events", n)
		}
	}},
	{"one of racing inits makes the authority", func(f *fixture) {
		cert := selfSigned(f.T)
		errs := race(8, func(n int) error {
			return f.store.CreateIssuers(f.ctx, []ca.Issuer{{ID: fmt.Sprint("root", n), Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: cert}},
				nil, f.change("authority.create", "authority"))
		})
		f.wantOne(errs, func(err error) { f.wantKind(err, enroll.KindConflict) })
		all, err := f.store.Issuers(f.ctx)
		f.must(err)
		if len(all) != 1 {
			f.Fatalf("%d issuers", len(all))
		}
	}},
}
