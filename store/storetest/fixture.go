package storetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A fixture is a store under test and the means to fill it.
type fixture struct {
	*testing.T
	ctx   context.Context
	store enroll.Store
	now   time.Time // of the test's start, as databases keep it
}

func newFixture(t *testing.T, store enroll.Store) *fixture {
	return &fixture{T: t, ctx: t.Context(), store: store, now: time.Now().UTC().Truncate(time.Microsecond)}
}

// change returns a Change with an audit event.
func (f *fixture) change(action, subject string) enroll.Change {
	return enroll.Change{Event: enroll.Event{
		ID: uuid.Must(uuid.NewV7()).String(), At: time.Now(), Actor: "test:storetest", Action: action, Subject: subject,
		Detail: json.RawMessage(`{"by":"storetest"}`),
	}}
}

// must ends the test on an error.
func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wantKind ends the test unless err is an Error of the kind.
func (f *fixture) wantKind(err error, kind ca.Kind) {
	f.Helper()
	if !errors.Is(err, ca.IsKind(kind)) {
		f.Fatalf("error is %v (%T), want kind %s", err, err, kind)
	}
}

// wantReplay ends the test unless err is a Replay of the serial number.
func (f *fixture) wantReplay(err error, serial ca.SerialNumber) {
	f.Helper()
	replay, ok := errors.AsType[*enroll.Replay](err)
	if !ok || replay.SerialNumber != serial {
		f.Fatalf("error is %v (%T), want a replay of %s", err, err, serial)
	}
}

// spentBy says what stands against a first enrollment by a use of a token: a
// replay when that very use was made before.
func (f *fixture) spentBy(t *enroll.TokenClaim) error {
	claim := &enroll.Claim{Device: &enroll.DeviceClaim{ID: t.DeviceID}, Token: t}
	return f.store.CheckClaim(f.ctx, claim, ca.Holder{Kind: ca.HolderDevice, ID: t.DeviceID}, "a key that nobody has")
}

// unchanged runs do, and ends the test if it changed anything.
func (f *fixture) unchanged(do func()) {
	f.Helper()
	before := f.everything()
	do()
	if after := f.everything(); before != after {
		f.Fatalf("a refused call changed the store\nbefore: %s\nafter:  %s", before, after)
	}
}

// everything returns all that the store lists, as text.
func (f *fixture) everything() string {
	f.Helper()
	profiles, err := f.store.Profiles(f.ctx)
	f.must(err)
	all := map[string]any{
		"profiles": profiles,
		"certificates": every(f, func(p enroll.Page) ([]*ca.Certificate, string, error) {
			return f.store.Certificates(f.ctx, enroll.CertificateFilter{}, p)
		}),
		"devices": every(f, func(p enroll.Page) ([]*enroll.Device, string, error) {
			return f.store.Devices(f.ctx, enroll.DeviceFilter{}, p)
		}),
		"brokers": every(f, func(p enroll.Page) ([]*enroll.Broker, string, error) { return f.store.Brokers(f.ctx, p) }),
		"orders":  every(f, func(p enroll.Page) ([]*enroll.WorkOrder, string, error) { return f.store.WorkOrders(f.ctx, p) }),
		"revocations": every(f, func(p enroll.Page) ([]*enroll.Revocation, string, error) {
			return f.store.Revocations(f.ctx, "", p)
		}),
		"rotations": every(f, func(p enroll.Page) ([]*enroll.Rotation, string, error) { return f.store.Rotations(f.ctx, "", p) }),
		"users":     every(f, func(p enroll.Page) ([]*enroll.User, string, error) { return f.store.Users(f.ctx, p) }),
		"sessions": every(f, func(p enroll.Page) ([]*enroll.Session, string, error) {
			return f.store.Sessions(f.ctx, "", f.now.Add(-time1h), p)
		}),
		"tokens":        every(f, func(p enroll.Page) ([]*enroll.APIToken, string, error) { return f.store.APITokens(f.ctx, p) }),
		"manufacturers": every(f, func(p enroll.Page) ([]*enroll.Manufacturer, string, error) { return f.store.Manufacturers(f.ctx, p) }),
		"manifest": every(f, func(p enroll.Page) ([]*enroll.ManifestEntry, string, error) {
			return f.store.Manifest(f.ctx, "maker", p)
		}),
		"events": every(f, func(p enroll.Page) ([]*enroll.Event, string, error) {
			return f.store.Events(f.ctx, enroll.EventFilter{}, p)
		}),
	}
	b, err := json.Marshal(all)
	f.must(err)
	return string(b)
}

// every reads a whole listing, page by page.
func every[T any](f *fixture, page func(enroll.Page) ([]T, string, error)) []T {
	f.Helper()
	var all []T
	for cursor := ""; ; {
		items, next, err := page(enroll.Page{Limit: 100, Cursor: cursor})
		f.must(err)
		all = append(all, items...)
		if next == "" {
			return all
		}
		cursor = next
	}
}

// events returns the audit trail, newest first.
func (f *fixture) events(filter enroll.EventFilter) []*enroll.Event {
	f.Helper()
	return every(f, func(p enroll.Page) ([]*enroll.Event, string, error) { return f.store.Events(f.ctx, filter, p) })
}

// sum returns a SHA-256, for keys and requests.
func sum(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:]
}

// certificate returns a new certificate of a holder, valid for a day.
func (f *fixture) certificate(holder ca.Holder) ca.Certificate {
	serial := ca.NewSerialNumber()
	der := []byte("certificate " + serial)
	return ca.Certificate{
		SerialNumber: serial, SHA256: hex.EncodeToString(sum(string(der))), Subject: "CN=" + holder.ID, Names: []string{holder.ID + ".example"},
		IssuerID: "devices", Profile: "device", Holder: holder, Status: ca.StatusGood,
		NotBefore: f.now.Add(-time.Minute), NotAfter: f.now.Add(24 * time.Hour),
		KeySHA256: hex.EncodeToString(sum("key of " + string(serial))), CDP: "http://status.example/crl/devices.crl", DER: der,
	}
}

// enrollment returns the first enrollment of a device.
func (f *fixture) enrollment(device string) ca.Issuance {
	return ca.Issuance{
		Certificate: f.certificate(ca.Holder{Kind: ca.HolderDevice, ID: device}),
		Claim:       &enroll.Claim{Change: f.change("device.enroll", "device:"+device), Device: &enroll.DeviceClaim{ID: device, TrustGeneration: 1}},
	}
}

// claimOf returns the claim of an issuance, to be changed.
func claimOf(i ca.Issuance) *enroll.Claim { return i.Claim.(*enroll.Claim) }

// commit records one issuance.
func (f *fixture) commit(i ca.Issuance) error {
	f.Helper()
	return f.store.Commit(f.ctx, []ca.Issuance{i})[0]
}

// enroll records a device's first certificate and returns it.
func (f *fixture) enroll(device string) ca.Certificate {
	f.Helper()
	i := f.enrollment(device)
	f.must(f.commit(i))
	return i.Certificate
}

// order creates an open work order.
func (f *fixture) order(id string, quantity int64) {
	f.Helper()
	f.must(f.store.CreateWorkOrder(f.ctx, enroll.WorkOrder{
		ID: id, Product: "sensor", Quantity: quantity, Profile: "device", State: enroll.OrderOpen, CreatedAt: f.now,
	}, f.change("order.create", "order:"+id)))
}

// token creates an enrollment token, whose hash is sum(id).
func (f *fixture) token(t enroll.EnrollmentToken) {
	f.Helper()
	t.Hash, t.CreatedAt = sum(t.ID), f.now
	if t.Uses == 0 {
		t.Uses = 1
	}
	if t.ExpiresAt.IsZero() {
		t.ExpiresAt = f.now.Add(time.Hour)
	}
	f.must(f.store.CreateEnrollmentToken(f.ctx, t, f.change("token.create", "token:"+t.ID)))
}

// broker creates a broker.
func (f *fixture) broker(id string) {
	f.Helper()
	f.must(f.store.CreateBroker(f.ctx, enroll.Broker{
		ID: id, URL: "mqtts://" + id + ".example:8883", Names: []string{id + ".example"}, Kind: "embedded",
		Status: enroll.BrokerRegistered, CreatedAt: f.now,
	}, f.change("broker.create", "broker:"+id)))
}

// issuers creates a root and the issuer of devices, with a first CRL.
func (f *fixture) issuers() []ca.Issuer {
	f.Helper()
	cert := selfSigned(f.T)
	all := []ca.Issuer{
		{ID: "root", Purpose: ca.PurposeRoot, State: ca.IssuerActive, Certificate: cert, Parent: "root"},
		{ID: "devices", Purpose: ca.PurposeDevice, State: ca.IssuerActive, Certificate: cert, Parent: "root", KeyURI: "file:devices.key",
			StatusURLs: []string{"http://status.example"}},
	}
	f.must(f.store.CreateIssuers(f.ctx, all, []*ca.CRL{f.crl(1, f.now, true)}, f.change("authority.create", "authority")))
	return all
}

// crl returns a CRL of the issuer of devices.
func (f *fixture) crl(number int64, thisUpdate time.Time, scheduled bool) *ca.CRL {
	return &ca.CRL{IssuerID: "devices", Number: number, ThisUpdate: thisUpdate, NextUpdate: thisUpdate.Add(time.Hour), Scheduled: scheduled,
		DER: fmt.Appendf(nil, "crl %d", number)}
}

// selfSigned returns some certificate.
func selfSigned(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "storetest"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// race runs do n times at the same time and returns the errors.
func race(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var start, done sync.WaitGroup
	start.Add(1)
	for i := range n {
		done.Go(func() {
			start.Wait()
			errs[i] = do(i)
		})
	}
	start.Done()
	done.Wait()
	return errs
}

// wantOne ends the test unless exactly one of the errors is nil and all others
// pass check. It returns the index of the nil one.
func (f *fixture) wantOne(errs []error, check func(err error)) int {
	f.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			check(err)
		case winner >= 0:
			f.Fatalf("%d and %d both succeeded", winner, i)
		default:
			winner = i
		}
	}
	if winner < 0 {
		f.Fatal("none succeeded")
	}
	return winner
}

// sameJSON ends the test unless both values are the same as JSON.
func (f *fixture) sameJSON(got, want any) {
	f.Helper()
	a, err := json.Marshal(got)
	f.must(err)
	b, err := json.Marshal(want)
	f.must(err)
	if !bytes.Equal(a, b) {
		f.Fatalf("got  %s\nwant %s", a, b)
	}
}
