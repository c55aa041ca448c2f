package api_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
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
	if err := f.store.AddIssuers(ctx, []ca.Issuer{i}, []*ca.CRL{crl}, enroll.Change{Event: enroll.IssuerEvent(time.Now(), "local:test", "issuer.create", i)}); err != nil {
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

// problemIs reports whether an error is a problem of a kind.
func problemIs(err error, kind ca.Kind) bool {
	p, ok := errors.AsType[*client.Problem](err)
	return ok && strings.HasSuffix(p.Type, ":"+string(kind))
}
