package storetest

import (
	"bytes"
	"errors"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const time1h = time.Hour

var repeatTests = []test{
	{"I5 the same key and request is a replay, of the certificate", func(f *fixture) {
		first := f.enrollment("d1")
		claimOf(first).Idempotency = &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("request")}
		none, err := f.store.Replayed(f.ctx, claimOf(first).Idempotency)
		f.must(err)
		if none != nil {
			f.Fatalf("a free key is a replay: %+v", none)
		}
		f.must(f.commit(first))

		again := f.enrollment("d1")
		claimOf(again).Idempotency = claimOf(first).Idempotency
		f.unchanged(func() {
			f.wantReplay(f.commit(again), first.Certificate.SerialNumber)
			f.wantReplay(f.store.CheckClaim(f.ctx, claimOf(again), again.Certificate.Holder, again.Certificate.KeySHA256), first.Certificate.SerialNumber)
		})
		replay, err := f.store.Replayed(f.ctx, claimOf(first).Idempotency)
		f.must(err)
		f.wantReplay(replay, first.Certificate.SerialNumber)
	}},
	{"I5 the same key with another request is a conflict", func(f *fixture) {
		first := f.enrollment("d1")
		claimOf(first).Idempotency = &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("request")}
		f.must(f.commit(first))
		other := f.enrollment("d2")
		claimOf(other).Idempotency = &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("other request")}
		f.refusal(other, enroll.KindIdempotency)
		_, err := f.store.Replayed(f.ctx, claimOf(other).Idempotency)
		f.wantKind(err, enroll.KindIdempotency)
	}},
	{"I5 a key belongs to its scope", func(f *fixture) {
		for _, scope := range []string{"a", "b"} {
			i := f.enrollment("d" + scope)
			claimOf(i).Idempotency = &enroll.Idempotency{Scope: scope, Key: "k", RequestHash: sum(scope)}
			f.must(f.commit(i))
		}
	}},
	{"I5 a refused call leaves its key free", func(f *fixture) {
		f.enroll("taken")
		key := &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("request")}
		i := f.enrollment("taken")
		claimOf(i).Idempotency = key
		f.refusal(i, enroll.KindDuplicateDevice)
		i = f.enrollment("d1")
		claimOf(i).Idempotency = key
		f.must(f.commit(i))
	}},
	{"I5 an answer is kept and given again, without a second change", func(f *fixture) {
		create := func(answer string) error {
			c := f.change("order.create", "order:o1")
			c.Idempotency = &enroll.Idempotency{Scope: "s", Key: "k", RequestHash: sum("o1"), Answer: []byte(answer)}
			return f.store.CreateWorkOrder(f.ctx, enroll.WorkOrder{ID: "o1", Quantity: 1, State: enroll.OrderOpen, CreatedAt: f.now}, c)
		}
		f.must(create("first"))
		f.unchanged(func() {
			err := create("second")
			f.wantReplay(err, "")
			if replay, ok := errors.AsType[*enroll.Replay](err); !ok || !bytes.Equal(replay.Answer, []byte("first")) {
				f.Fatalf("answer is %q", replay.Answer)
			}
		})
	}},
	{"I5 the request that spent a token is a replay, also when the token expired", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", DeviceID: "d1"})
		first := f.spending("d1", "t1")
		f.must(f.commit(first))
		again := f.enrollment("d1")
		claimOf(again).Token = claimOf(first).Token
		f.unchanged(func() {
			f.wantReplay(f.commit(again), first.Certificate.SerialNumber)
			f.wantReplay(f.store.CheckClaim(f.ctx, claimOf(again), again.Certificate.Holder, again.Certificate.KeySHA256), first.Certificate.SerialNumber)
		})
		f.wantReplay(f.spentBy(claimOf(first).Token), first.Certificate.SerialNumber)
		f.wantKind(f.spentBy(claimOf(f.spending("d2", "t1")).Token), enroll.KindTokenOtherDevice)
	}},
	{"I5 a token of many uses knows every request", func(f *fixture) {
		f.token(enroll.EnrollmentToken{ID: "t1", Uses: 3})
		first := f.spending("d1", "t1")
		f.must(f.commit(first))
		f.must(f.commit(f.spending("d2", "t1")))
		again := f.enrollment("d1")
		claimOf(again).Token = claimOf(first).Token
		f.unchanged(func() { f.wantReplay(f.commit(again), first.Certificate.SerialNumber) })
		if n := f.tokenUsed("t1"); n != 2 {
			f.Fatalf("used %d times", n)
		}
	}},
}

var tokenTests = []test{
	{"an enrollment token reads back by its hash", func(f *fixture) {
		f.order("o1", 3)
		want := enroll.EnrollmentToken{ID: "t1", WorkOrder: "o1", DeviceID: "d1", Uses: 2, ExpiresAt: f.now.Add(time1h)}
		f.token(want)
		got, err := f.store.EnrollmentTokenByHash(f.ctx, sum("t1"))
		f.must(err)
		want.CreatedAt = f.now
		f.sameJSON(got, want)
		_, err = f.store.EnrollmentTokenByHash(f.ctx, sum("none"))
		f.wantKind(err, ca.KindNotFound)
	}},
	{"an enrollment token needs an open work order", func(f *fixture) {
		f.unchanged(func() {
			f.wantKind(f.store.CreateEnrollmentToken(f.ctx, enroll.EnrollmentToken{ID: "t1", Hash: sum("t1"), WorkOrder: "none", Uses: 1, ExpiresAt: f.now, CreatedAt: f.now},
				f.change("token.create", "token:t1")), ca.KindNotFound)
		})
	}},
	{"an API token reads back by its hash", func(f *fixture) {
		want := enroll.APIToken{ID: "a1", Name: "ci", Role: enroll.RoleFactory, Hash: sum("a1"), CreatedAt: f.now, ExpiresAt: f.now.Add(time1h), Disabled: true}
		f.must(f.store.CreateAPIToken(f.ctx, want, f.change("api-token.create", "token:a1")))
		got, err := f.store.APITokenByHash(f.ctx, sum("a1"))
		f.must(err)
		f.sameJSON(got, want)
		_, err = f.store.APITokenByHash(f.ctx, sum("none"))
		f.wantKind(err, ca.KindNotFound)
	}},
	{"I6 a hash is one token's", func(f *fixture) {
		a := enroll.APIToken{ID: "a1", Role: enroll.RoleAdmin, Hash: sum("same"), CreatedAt: f.now, ExpiresAt: f.now}
		f.must(f.store.CreateAPIToken(f.ctx, a, f.change("api-token.create", "token:a1")))
		a.ID = "a2"
		f.unchanged(func() {
			f.wantKind(f.store.CreateAPIToken(f.ctx, a, f.change("api-token.create", "token:a2")), enroll.KindConflict)
		})
	}},
}
