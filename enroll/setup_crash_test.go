package enroll_test

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// errDead is what a dying store answers; nothing above it gets anything done.
var errDead = errors.New("the server died")

// A dying store is that of a server that dies at its nth change: before the
// change was committed, or after that and before anybody learned of it. Nothing
// is answered from then on.
type dying struct {
	enroll.Store
	n         int64
	committed bool
	count     atomic.Int64
	dead      atomic.Bool
	cancel    context.CancelFunc // of what the server was doing; nil for nothing
}

// change does a change, or dies of it.
func (d *dying) change(do func() error) error {
	switch n := d.count.Add(1); {
	case d.dead.Load():
		return errDead
	case n == d.n:
		if d.committed {
			_ = do()
		}
		d.dead.Store(true)
		if d.cancel != nil {
			d.cancel()
		}
		return errDead
	}
	return do()
}

func (d *dying) Commit(ctx context.Context, batch []ca.Issuance) []error {
	var errs []error
	if err := d.change(func() error { errs = d.Store.Commit(ctx, batch); return nil }); err != nil {
		return []error{err}
	}
	return errs
}

func (d *dying) ReserveCRL(ctx context.Context, scope ca.CRLScope, known ca.CRLKnown) (draft ca.CRLDraft, err error) {
	err = d.change(func() (err error) { draft, err = d.Store.ReserveCRL(ctx, scope, known); return err })
	return draft, err
}

func (d *dying) SaveCRL(ctx context.Context, crl *ca.CRL) error {
	return d.change(func() error { return d.Store.SaveCRL(ctx, crl) })
}

func (d *dying) RevokeCertificate(ctx context.Context, serial ca.SerialNumber, reason ca.Reason, at time.Time, c enroll.Change) (cert *ca.Certificate, err error) {
	err = d.change(func() (err error) {
		cert, err = d.Store.RevokeCertificate(ctx, serial, reason, at, c)
		return err
	})
	return cert, err
}

func (d *dying) SaveRevocation(ctx context.Context, r *enroll.Revocation, c enroll.Change) error {
	return d.change(func() error { return d.Store.SaveRevocation(ctx, r, c) })
}

func (d *dying) SaveRotation(ctx context.Context, r *enroll.Rotation, c enroll.Change) error {
	return d.change(func() error { return d.Store.SaveRotation(ctx, r, c) })
}

// A between store does something after a decision was made and before it is
// committed.
type between struct {
	enroll.Store
	do func()
}

func (b *between) RevokeCertificate(ctx context.Context, serial ca.SerialNumber, reason ca.Reason, at time.Time, c enroll.Change) (*ca.Certificate, error) {
	b.do()
	return b.Store.RevokeCertificate(ctx, serial, reason, at, c)
}

func (b *between) HoldDevice(ctx context.Context, id string, at time.Time, c enroll.Change) error {
	b.do()
	return b.Store.HoldDevice(ctx, id, at, c)
}
