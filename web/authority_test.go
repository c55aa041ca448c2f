package web_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Everybody sees the issuers as they hang on each other, and takes their files.
func TestAuthority(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, role := range enroll.Roles() {
		s.as(role).get("/authority").want(http.StatusOK)
	}
	v := s.as(enroll.RoleAuditor)
	p := v.get("/authority").has("ECDSA P-256, signed with ECDSA-SHA256", "http://status.test/crl/device.crl", "Generation", "fleetca root crl --data DIR --root-key FILE")
	p.count(".tree > li", 3).count(".tree .tree > li", 2).count("#root-crl", 1).count(".issuer .state.warn, .issuer .state.bad, .life:not(.ok)", 0)
	if root := p.Find(".tree > li > .issuer h3").First().Text(); !strings.HasPrefix(root, "root") {
		t.Errorf("the tree begins with %q", root)
	}
	profiles, err := s.service.Profiles(s.ctx)
	s.must(err)
	for _, profile := range profiles {
		p.has(profile.Name)
	}
	trust := v.get("/authority/trust-bundle.pem")
	root := certificates(t, trust.body)[0]
	p.has(ca.FingerprintOf(root))
	for _, i := range s.ca.Issuers() {
		at := "/authority/issuers/" + i.ID + "/"
		if got := certificates(t, v.get(at+"certificate.pem").body); len(got) != 1 || !got[0].Equal(i.Certificate) {
			t.Errorf("%s: other PEM", i.ID)
		}
		if got := v.get(at + "certificate.cer"); got.body != string(i.Certificate.Raw) || got.header.Get("Content-Type") != "application/pkix-cert" {
			t.Errorf("%s: other DER", i.ID)
		}
		chain := certificates(t, v.get(at+"chain.pem").body)
		if !chain[0].Equal(i.Certificate) || !chain[len(chain)-1].Equal(root) {
			t.Errorf("%s: the bundle does not lead to the root", i.ID)
		}
		crl := v.get(at + "crl.crl")
		list, err := x509.ParseRevocationList([]byte(crl.body))
		if err != nil || list.CheckSignatureFrom(i.Certificate) != nil {
			t.Errorf("%s: CRL %v", i.ID, err)
		}
		if block, _ := pem.Decode([]byte(v.get(at + "crl.pem").body)); block == nil || string(block.Bytes) != crl.body {
			t.Errorf("%s: other CRL as PEM", i.ID)
		}
		if name := crl.header.Get("Content-Disposition"); name != `attachment; filename="`+i.ID+`-crl.crl"` {
			t.Errorf("saved as %s", name)
		}
		p.count(`a[href="`+at+`crl.crl"]`, 1)
	}
	for _, path := range []string{"/authority/issuers/none/certificate.pem", "/authority/issuers/none/chain.pem", "/authority/issuers/root/key.pem"} {
		v.get(path).want(http.StatusNotFound)
	}
	s.visitor().get("/authority/trust-bundle.pem").has("Sign in")
}

func certificates(t *testing.T, text string) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		t.Fatalf("no certificate in %.200q", text)
	}
	return all
}

// Every shard of an issuer is looked at, and the worst of them are shown.
func TestAuthorityShowsShards_I12(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.service.SetCRLShards(s.ctx, admin(), "device", enroll.ShardsRequest{Shards: 20})
	s.must(err)
	const shards = ".issuer:has(.crls) .crls li"
	p := s.as(enroll.RoleAuditor).get("/authority").has("20, with 0 entries", "these are the first to lapse", "and 8 more").count(shards, 12).count(shards+" .state.ok", 12)
	if text := p.Find(shards).First().Text(); !strings.Contains(text, "shard 0") {
		t.Errorf("the first is %q", text)
	}
	if n := strings.Count(s.as(enroll.RoleAuditor).get("/authority/issuers/device/crl.pem").body, "BEGIN X509 CRL"); n != 20 {
		t.Errorf("%d CRLs in the file of all", n)
	}
	p.has("CRL of shard 0", "All CRLs as PEM")
	// All but one are published again, as of ten days later: the clock is the ledger's alone.
	keys, err := authority()
	s.must(err)
	later, err := ca.Open(s.ctx, ca.Config{Issuers: s.ca.Issuers(), Keys: keys, Ledger: s.store, Now: func() time.Time { return time.Now().Add(10 * 24 * time.Hour) }})
	s.must(err)
	for shard := range 20 {
		if shard != 19 {
			_, err := later.PublishCRL(s.ctx, ca.CRLScope{IssuerID: "device", Shard: shard}, true)
			s.must(err)
		}
	}
	s.forward(4 * 24 * time.Hour)
	s.must(s.service.RefreshStatus(s.ctx))
	p = s.as(enroll.RoleAuditor).get("/authority").count(shards, 12).count(shards+" .state.warn", 1)
	if text := p.Find(shards).First().Text(); !strings.Contains(text, "stale") || !strings.Contains(text, "shard 19") {
		t.Errorf("the worst is %q", text)
	}
}

// An exactStore counts how often the fleet is counted while somebody waits.
type exactStore struct {
	enroll.Store
	counted *atomic.Int64
}

func (s exactStore) TrustCounts(ctx context.Context, generation int64, limit int) (enroll.TrustCounts, error) {
	s.counted.Add(1)
	return s.Store.TrustCounts(ctx, generation, limit)
}

// A root that came later is shown with who has not confirmed it; what an issuer
// signs for, and that its key is missing, stands on its card.
func TestAuthorityShowsRollOvers(t *testing.T) {
	t.Parallel()
	var exact atomic.Int64
	s := newSite(t, func(c *enroll.Config) { c.Store = exactStore{c.Store, &exact} })
	v := s.as(enroll.RoleAuditor)
	v.get("/authority").count(".rollover", 0)
	s.enroll("behind-1")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	root := ca.CAPlan{ID: "root-2", Purpose: ca.PurposeRoot, CommonName: "Root 2"}
	cert, err := ca.SignRoot(root, key, time.Now())
	s.must(err)
	pumps := ca.CAPlan{ID: "pumps", Purpose: ca.PurposeDevice, CommonName: "Pumps", Product: "pump", Site: "hall-2", Domain: "fleet.example"}
	under, err := ca.SignIssuer(pumps, key.Public(), cert, key, time.Now())
	s.must(err)
	issuers := []ca.Issuer{root.Issuer(cert, "root-2", ""), pumps.Issuer(under, "root-2", "softkms:path=keys/none.pem")}
	var crls []*ca.CRL
	for _, i := range issuers {
		crl, err := ca.FirstCRL(s.ctx, i, key, 1, time.Now())
		s.must(err)
		crls = append(crls, crl)
	}
	s.must(s.store.AddIssuers(s.ctx, issuers, crls, nil, enroll.Change{Event: enroll.IssuerEvent(time.Now(), "local:test", "issuer.create", issuers[0])}))
	s.must(s.service.AdoptIssuers(s.ctx))
	counted := func(text string) {
		t.Helper()
		s.eventually(text, func() (bool, error) { // one that was begun before may be written after
			err := s.store.CountFleet(s.ctx, s.now().UTC())
			return strings.Contains(v.get("/authority").Find(".rollover").Text(), text), err
		})
	}
	counted("1 of 1 have not confirmed")
	p := v.get("/authority").has("Roll-over to root-2", "counted at", "1 of 1 have not confirmed trust bundle 2", "product pump", "site hall-2", "pump.hall-2.fleet.example").
		count(".rollover", 1).count(`.rollover a[href="/devices/behind-1"]`, 1).count(".rollover .state.wait", 1).count(".tree > li", 5)
	if text := p.Find(".issuer .state.bad").Text(); !strings.Contains(text, "unusable") {
		t.Errorf("the key that is missing: %q", text)
	}
	s.must(s.service.AcknowledgeTrust(s.ctx, admin(), ca.Holder{Kind: ca.HolderDevice, ID: "behind-1"}, 2))
	counted("0 of 1 have not confirmed")
	v.get("/authority").count(".rollover .state.ok", 1)
	if n := exact.Load(); n != 0 {
		t.Errorf("for pages the fleet was counted %d times", n)
	}
}

// Manufacturers are listed, with what became of their manifests.
func TestAuthorityManufacturers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleAuditor)
	v.get("/authority").has("There is no manufacturer.")
	s.maker("deviceId,subjectSerial\na,1\nb,2\n")
	row := v.get("/authority").Find("[data-part=makers] tbody tr")
	if text := row.Text(); row.Length() != 1 || !strings.Contains(text, `CN=\<b\>Acme\</b\>`) || row.Find("td.number").First().Text() != "2" || !strings.Contains(text, "once") {
		t.Errorf("%q", text)
	}
	const at = "/authority/manufacturers/acme"
	p := v.get(at).has("0 of 2 devices", "CN=\\<b\\>Acme", "once", "not yet").count("[data-part=manifest] tbody tr", 2).count("form[action$=manifest], form[action$=removal], form[action$=disabling]", 0)
	if hrefs := v.get("/authority").Find(`a[href="` + at + `"]`); hrefs.Length() != 1 || p.status != http.StatusOK {
		t.Errorf("%d links, %d", hrefs.Length(), p.status)
	}
	// The factory adds lines, by hand; a mistake is shown beside what was typed.
	f := s.as(enroll.RoleFactory)
	f.get(at).count("form[action$=manifest]", 1).count("form[action$=removal]", 2).count("form[action$=disabling]", 0)
	f.post(at+"/manifest", "csv", "deviceId,subjectSerial\nc,1\n").want(http.StatusConflict).has("the certificate of device", "is in the manifest as device", "c,1")
	f.post(at+"/manifest", "csv", "deviceId,subjectSerial\nc,3\nc,4\n").want(http.StatusUnprocessableEntity).has("line 3: device c is on line 2 already")
	f.post(at+"/manifest", "csv", "deviceId,subjectSerial\nc,3\n").noted("The lines are in the manifest").count("[data-part=manifest] tbody tr", 3)
	f.post(at+"/removal", "device", "a").noted("off the manifest").count("[data-part=manifest] tbody tr", 2)
	f.post(at + "/disabling").want(http.StatusForbidden)
	s.as(enroll.RoleSecurity).post(at+"/disabling").noted("The manufacturer is disabled").count("[data-part=title] .state.bad", 1).count("form[action$=enabling]", 0)
	v.get("/authority").count("[data-part=makers] .state.bad", 1)
	s.as(enroll.RoleAdmin).post(at+"/enabling").noted("enabled again").count("[data-part=title] .state.ok", 1)
	v.get("/authority/manufacturers/none").want(http.StatusNotFound)
}

// maker adds the manufacturer acme, with a manifest.
func (s *site) maker(manifest string) {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	der, err := x509.CreateCertificate(rand.Reader, makerTemplate, makerTemplate, key.Public(), key)
	s.must(err)
	cert, err := x509.ParseCertificate(der)
	s.must(err)
	_, err = s.service.AddManufacturer(s.ctx, admin(), enroll.NewManufacturer{ID: "acme", Certificate: ca.EncodeChain(cert)})
	s.must(err)
	_, err = s.service.AddManifest(s.ctx, admin(), "acme", enroll.ManifestRequest{CSV: manifest})
	s.must(err)
}

// makerTemplate is a manufacturer's authority.
var makerTemplate = &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "<b>Acme</b>"}, NotBefore: time.Now().Add(-time.Hour),
	NotAfter: time.Now().AddDate(10, 0, 0), BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}

// What is about to end is marked, by sign and word: a CRL at half of its life
// (I12), an issuer at a third (I17).
func TestAuthorityAlarms_I12_I17(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	crl, err := s.service.CRL(s.ctx, "root")
	s.must(err)
	root, err := s.service.IssuerCertificate(s.ctx, "root")
	s.must(err)
	device, err := s.service.IssuerCertificate(s.ctx, "device")
	s.must(err)
	at := func(when time.Time) *shown {
		s.offset.Store(int64(time.Until(when)))
		return s.as(enroll.RoleAuditor).get("/authority")
	}
	rootCRL := ".tree > li:first-child > .issuer .facts .state"
	half := crl.ThisUpdate.Add(crl.NextUpdate.Sub(crl.ThisUpdate) / 2)
	for _, c := range []struct {
		when  time.Time
		words string
		tone  string
	}{{half.Add(-time.Hour), "good", "ok"}, {half.Add(time.Hour), "stale", "warn"}, {crl.NextUpdate.Add(time.Hour), "lapsed", "bad"}} {
		if got := at(c.when).Find(rootCRL).First(); got.Text() != c.words || !got.HasClass(c.tone) {
			t.Errorf("at %s the root's CRL is %q (%s)", c.when, got.Text(), got.AttrOr("class", ""))
		}
	}
	third := device.NotAfter.Add(-device.NotAfter.Sub(device.NotBefore) / 3)
	at(third.Add(-time.Hour)).count(".issuer .life.warn", 0)
	at(third.Add(time.Hour)).count(".issuer .life.warn", 2).has("Make its successor.")
	at(device.NotAfter.Add(time.Hour)).count(".issuer .life.bad", 2).has("expired")
	at(root.NotAfter.Add(time.Hour)).count(".issuer .life.bad", 3)
}

// The forecast is drawn, and is the same in numbers.
func TestForecast(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := s.as(enroll.RoleOperator)
	s.must(s.store.CountFleet(s.ctx, s.now().UTC()))
	v.get("/authority").has("Nothing expires in these weeks.").count("#forecast ~ div svg.chart", 0)
	for _, id := range []string{"d1", "d2", "d3"} {
		s.enroll(id)
	}
	s.broker("hall")
	var p *shown
	s.eventually("the forecast knows of them", func() (bool, error) { // one that was begun before may be written after
		err := s.store.CountFleet(s.ctx, s.now().UTC())
		p = v.get("/authority")
		return p.Find("svg.chart .part").Length() == 2, err
	})
	p.has("Made", "device", "broker", "server", "agent").count("svg.chart .cover", enroll.ForecastWeeks)
	sums := map[string]int64{}
	p.Find(`[data-part=forecast] tbody tr`).Each(func(_ int, tr *goquery.Selection) {
		cells := tr.Find("td.number").Map(func(_ int, td *goquery.Selection) string { return td.Text() })
		for i, name := range []string{"device", "broker", "server", "agent", "all"} {
			n, err := strconv.ParseInt(cells[i], 10, 64)
			s.must(err)
			sums[name] += n
		}
		if title := p.Find(`svg.chart title:contains("` + tr.Find("th").Text() + `")`).Text(); !strings.Contains(title, "device") && !strings.Contains(title, "broker") {
			t.Errorf("the chart says %q", title)
		}
	})
	if sums["device"] != 3 || sums["broker"] != 1 || sums["agent"] != 0 || sums["all"] != 4 {
		t.Errorf("numbers %v", sums)
	}
	s.forward(3 * 365 * 24 * time.Hour)
	v = s.as(enroll.RoleOperator)
	s.eventually("the forecast is of the new time", func() (bool, error) {
		err := s.store.CountFleet(s.ctx, s.now().UTC())
		return strings.Contains(v.get("/authority").text(), "4 expired before this week"), err
	})
}
