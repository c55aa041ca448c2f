package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// An issuer that was made on the server's machine is published by the server
// that runs, and becomes active once its URLs were fetched over HTTP (I16): its
// CRL, an OCSP answer, its certificate.
func TestI16IssuersBecomeActiveOverHTTP(t *testing.T) {
	ctx := t.Context()
	f, err := newFleet(context.Background(), t.TempDir()) // others count what the shared one has
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if err := errors.Join(f.service.SetStatusURL(ctx, f.status.URL), f.service.PublishScheduledCRLs(ctx)); err != nil {
		t.Fatal(err)
	}
	rootKey, err := f.keys.Open(ctx, "softkms:path="+filepath.Join("root", "key.pem"), f.root.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.CreateKeyFile(ctx, filepath.Join(f.keys.Dir, "keys", "meter-issuer.pem"), f.keys.Passphrase, ca.KeyP256)
	if err != nil {
		t.Fatal(err)
	}
	plan := ca.CAPlan{ID: "meter", Purpose: ca.PurposeDevice, CommonName: "Issuing CA of meters", Product: "meter", Site: "hall-2", Domain: "fleet.example"}
	cert, err := ca.SignIssuer(plan, key.Public(), f.root, rootKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	i := plan.Issuer(cert, "root", "softkms:path=keys/meter-issuer.pem")
	crl, err := ca.FirstCRL(ctx, i, key, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.store.AddIssuers(ctx, []ca.Issuer{i}, []*ca.CRL{crl}, nil, enroll.Change{Event: enroll.IssuerEvent(time.Now(), "local:test", "issuer.create", i)}); err != nil {
		t.Fatal(err)
	}
	if err := f.service.AdoptIssuers(ctx); err != nil {
		t.Fatal(err)
	}
	c := f.client(t, f.people, enroll.RoleAdmin, nil)
	before, err := c.Issuer(ctx, "meter")
	if err != nil || before.State != ca.IssuerPublished || before.Key != enroll.KeyUsable || before.Domain != "fleet.example" {
		t.Fatalf("%+v, %v", before, err)
	}
	wantFetched := func(p *enroll.Publication, err error, kinds string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, fetched := range p.Fetched {
			if !fetched.OK {
				t.Errorf("%+v", fetched)
			}
			got = append(got, fetched.Kind)
		}
		if strings.Join(got, " ") != kinds {
			t.Errorf("fetched %v", got)
		}
	}
	p, err := c.IssuerPublication(ctx, "meter")
	wantFetched(p, err, "crl issuer ocsp")
	p, err = c.ActivateIssuer(ctx, "meter")
	if wantFetched(p, err, "crl issuer ocsp"); p.Issuer.State != ca.IssuerActive {
		t.Errorf("state %s", p.Issuer.State)
	}
	if _, err := c.ActivateIssuer(ctx, "meter"); !problemIs(err, enroll.KindConflict) {
		t.Errorf("active twice: %v", err)
	}
	p, err = c.IssuerPublication(ctx, "root")
	wantFetched(p, err, "crl issuer")

	// A status listener elsewhere is what nobody can fetch.
	dead := httptest.NewServer(nil)
	dead.Close()
	if _, err := c.RetireIssuer(ctx, "meter"); err != nil {
		t.Fatal(err)
	}
	if err := f.service.SetStatusURL(ctx, dead.URL); err != nil {
		t.Fatal(err)
	}
	_, err = c.ActivateIssuer(ctx, "meter")
	if !problemIs(err, enroll.KindNotPublished) || !strings.Contains(err.Error(), dead.URL+"/crl/meter.crl") {
		t.Errorf("activated without its URLs: %v", err)
	}
	for _, id := range []string{"device", "root"} {
		if _, err := c.RetireIssuer(ctx, id); !problemIs(err, enroll.KindConflict) {
			t.Errorf("%s retired: %v", id, err)
		}
	}
}

// A second root joins the trust bundle; a device says by its certificate which
// generation it has, and each generation is served.
func TestTrustBundlesByGeneration(t *testing.T) {
	ctx := t.Context()
	f, err := newFleet(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if err := errors.Join(f.service.SetStatusURL(ctx, f.status.URL), f.service.PublishScheduledCRLs(ctx)); err != nil {
		t.Fatal(err)
	}
	admin := f.client(t, f.people, enroll.RoleAdmin, nil)
	deviceKey, csr, err := request("trusting")
	if err != nil {
		t.Fatal(err)
	}
	e, err := f.service.EnrollDevice(ctx, enroll.Call{Principal: enroll.Principal{Name: "test", Role: enroll.RoleAdmin}}, enroll.EnrollRequest{DeviceID: "trusting", CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	device := &tls.Certificate{Certificate: [][]byte{e.Certificate.DER}, PrivateKey: deviceKey}
	key, err := ca.CreateKeyFile(ctx, filepath.Join(f.keys.Dir, "root", "next.pem"), f.keys.Passphrase, ca.KeyP256)
	if err != nil {
		t.Fatal(err)
	}
	plan := ca.CAPlan{ID: "root-2", Purpose: ca.PurposeRoot, CommonName: "Root 2"}
	cert, err := ca.SignRoot(plan, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	i := plan.Issuer(cert, "root-2", "")
	crl, err := ca.FirstCRL(ctx, i, key, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.store.AddIssuers(ctx, []ca.Issuer{i}, []*ca.CRL{crl}, nil, enroll.Change{Event: enroll.IssuerEvent(time.Now(), "local:test", "issuer.create", i)}); err != nil {
		t.Fatal(err)
	}
	if err := f.service.AdoptIssuers(ctx); err != nil {
		t.Fatal(err)
	}
	newest, err := admin.TrustBundle(ctx)
	if err != nil || newest.Generation != 2 || strings.Count(newest.PEM, "BEGIN") != 2 {
		t.Fatalf("%+v, %v", newest, err)
	}
	first, err := admin.TrustBundleOf(ctx, 1)
	if err != nil || first.PEM != ca.EncodeChain(f.root) {
		t.Errorf("%+v, %v", first, err)
	}
	if _, err := admin.TrustBundleOf(ctx, 3); !problemIs(err, ca.KindNotFound) {
		t.Error(err)
	}
	var generations []int64
	for g, err := range admin.TrustBundles(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		generations = append(generations, g.Generation)
	}
	if !slices.Equal(generations, []int64{2, 1}) {
		t.Errorf("generations %v", generations)
	}
	r, err := admin.Readiness(ctx, "root-2", enroll.StepSwitch)
	if err != nil || r.Ready || r.Behind != 1 || !slices.Equal(r.Stragglers, []string{"trusting"}) {
		t.Fatalf("%+v, %v", r, err)
	}
	self := f.client(t, f.machines, "", device)
	if d, err := self.AcknowledgeTrust(ctx, "trusting", 2); err != nil || d.TrustGeneration != 2 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := self.AcknowledgeTrust(ctx, "another", 2); !problemIs(err, enroll.KindForbidden) {
		t.Errorf("a device spoke for another: %v", err)
	}
	if _, err := self.AcknowledgeTrust(ctx, "trusting", 9); !problemIs(err, ca.KindMalformed) {
		t.Error(err)
	}
	if r, err = admin.Readiness(ctx, "root-2", enroll.StepSwitch); err != nil || !r.Ready {
		t.Errorf("%+v, %v", r, err)
	}
	for b, err := range admin.Brokers(ctx) { // hall-2 is driven from here
		if err != nil || b.TrustGeneration != 2 {
			t.Errorf("%+v, %v", b, err)
		}
		if _, err := admin.AcknowledgeBrokerTrust(ctx, b.ID, 2); err != nil {
			t.Error(err)
		}
	}
	if _, err := admin.DropRoot(ctx, "root"); !problemIs(err, enroll.KindConflict) {
		t.Errorf("the active root dropped: %v", err)
	}
	if a, err := admin.ApproveRollover(ctx, "root-2", enroll.NewApproval{Step: enroll.StepDrop, Reason: "it was a trial"}); err != nil || a.Approval == nil || !a.Ready {
		t.Errorf("%+v, %v", a, err)
	}
	if b, err := admin.DropRoot(ctx, "root-2"); err != nil || b.Generation != 3 || b.PEM != first.PEM {
		t.Errorf("%+v, %v", b, err)
	}
}

// problemIs reports whether an error is a problem of a kind.
func problemIs(err error, kind ca.Kind) bool {
	p, ok := errors.AsType[*client.Problem](err)
	return ok && strings.HasSuffix(p.Type, ":"+string(kind))
}
