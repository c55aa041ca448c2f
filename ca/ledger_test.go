package ca_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A ledger is a ca.Ledger in memory.
type ledger struct {
	mu      sync.Mutex
	refuse  error               // what Commit answers, when set
	gone    error               // what reads of certificates answer, when set
	claims  []any               // committed
	numbers map[string]int64    // last reserved, by issuer
	crls    map[string][]ca.CRL // by issuer, in the order they were saved
	certs   map[ca.SerialNumber]ca.Certificate
	changed []ca.SerialNumber        // statuses, in their order
	dropped map[ca.SerialNumber]bool // entries that ReserveCRL leaves out, though it must not
}

var _ ca.Ledger = (*ledger)(nil)

func newLedger(first []*ca.CRL) *ledger {
	l := &ledger{numbers: map[string]int64{}, crls: map[string][]ca.CRL{}, certs: map[ca.SerialNumber]ca.Certificate{}, dropped: map[ca.SerialNumber]bool{}}
	for _, crl := range first {
		l.numbers[crl.IssuerID] = crl.Number
		l.crls[crl.IssuerID] = []ca.CRL{*crl}
	}
	return l
}

func (l *ledger) Commit(_ context.Context, batch []ca.Issuance) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := make([]error, len(batch))
	for n, i := range batch {
		if errs[n] = l.refuse; l.refuse != nil {
			continue
		}
		if _, ok := l.certs[i.Certificate.SerialNumber]; ok {
			errs[n] = errors.New("a serial number twice")
			continue
		}
		l.certs[i.Certificate.SerialNumber] = i.Certificate
		l.claims = append(l.claims, i.Claim)
	}
	return errs
}

func (l *ledger) Certificate(_ context.Context, serial ca.SerialNumber) (*ca.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone != nil {
		return nil, l.gone
	}
	cert, ok := l.certs[serial]
	if !ok {
		return nil, ca.Errorf(ca.KindNotFound, "serialNumber", "", "there is no certificate %s", serial)
	}
	return &cert, nil
}

func (l *ledger) ChangedSince(_ context.Context, position int64) ([]ca.SerialNumber, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone != nil {
		return nil, 0, l.gone
	}
	if position < 0 || position > int64(len(l.changed)) {
		return nil, int64(len(l.changed)), nil
	}
	return slices.Clone(l.changed[position:]), int64(len(l.changed)), nil
}

func (l *ledger) ReserveCRL(_ context.Context, scope ca.CRLScope, known ca.CRLKnown) (ca.CRLDraft, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbers[scope.IssuerID]++
	draft := ca.CRLDraft{Number: l.numbers[scope.IssuerID], Previous: l.latest(scope), Position: int64(len(l.changed)) + 1, Whole: known.Position == 0}
	if draft.Previous != nil && draft.Previous.Number == known.Number {
		draft.Previous.DER = nil
	}
	var highest int64
	for _, crl := range l.crls[scope.IssuerID] {
		if crl.Shard == scope.Shard && crl.Scheduled && crl.Number > highest {
			draft.Since, highest = crl.ThisUpdate, crl.Number
		}
	}
	var serials []ca.SerialNumber
	if draft.Whole {
		serials = slices.Collect(maps.Keys(l.certs))
	} else {
		serials = slices.Clone(l.changed[known.Position-1:])
	}
	slices.Sort(serials)
	for _, serial := range slices.Compact(serials) {
		c := l.certs[serial]
		if c.CRLScope() == scope && (c.Status != ca.StatusGood && !c.NotAfter.Before(draft.Since) || !draft.Whole) && !l.dropped[serial] {
			draft.Entries = append(draft.Entries, ca.CRLEntry{SerialNumber: serial, Reason: c.Reason, RevokedAt: c.RevokedAt, NotAfter: c.NotAfter})
		}
	}
	return draft, nil
}

func (l *ledger) SaveCRL(_ context.Context, crl *ca.CRL) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if crl.Number > l.numbers[crl.IssuerID] || slices.ContainsFunc(l.crls[crl.IssuerID], func(c ca.CRL) bool { return c.Number == crl.Number }) {
		return errors.New("a CRL number that was not reserved, or is taken")
	}
	l.crls[crl.IssuerID] = append(l.crls[crl.IssuerID], *crl)
	return nil
}

func (l *ledger) LatestCRL(_ context.Context, scope ca.CRLScope) (*ca.CRL, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if crl := l.latest(scope); crl != nil {
		return crl, nil
	}
	return nil, ca.Errorf(ca.KindNotFound, "issuer", "", "issuer %s has no CRL", scope)
}

func (l *ledger) latest(scope ca.CRLScope) *ca.CRL {
	var latest *ca.CRL
	for _, crl := range l.crls[scope.IssuerID] {
		if crl.Shard == scope.Shard && (latest == nil || crl.Number > latest.Number) {
			latest = &crl
		}
	}
	return latest
}

// setStatus revokes, holds, or releases (reason empty) a certificate.
func (l *ledger) setStatus(serial ca.SerialNumber, reason ca.Reason, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.certs[serial]
	c.Status, c.Reason, c.RevokedAt = reason.StatusAfter(), reason, at
	if reason == "" {
		c.Status, c.RevokedAt = ca.StatusGood, time.Time{}
	}
	l.certs[serial] = c
	l.changed = append(l.changed, serial)
}

// putBack makes the ledger one of before a number of changes: what they changed
// is good again.
func (l *ledger) putBack(changes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.changed) - changes
	for _, serial := range l.changed[n:] {
		c := l.certs[serial]
		c.Status, c.Reason, c.RevokedAt = ca.StatusGood, "", time.Time{}
		l.certs[serial] = c
	}
	l.changed = l.changed[:n:n]
}

// refuseCommits makes Commit answer an error, or nil again.
func (l *ledger) refuseCommits(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

// drop leaves an entry out of CRLs; lose forgets its certificate too.
func (l *ledger) drop(serial ca.SerialNumber, lose bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped[serial] = true
	if lose {
		delete(l.certs, serial)
	}
}

// count returns how many certificates and CRLs of an issuer there are.
func (l *ledger) count(issuer string) (certs, crls int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.certs), len(l.crls[issuer])
}

// forgetCRLs drops all but an issuer's newest CRL.
func (l *ledger) forgetCRLs(issuer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.crls[issuer]
	l.crls[issuer] = append([]ca.CRL(nil), all[len(all)-1])
}
