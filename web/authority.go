package web

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// authorityRoutes are the issuers, what they publish, and the forecast.
func authorityRoutes() []route {
	return []route{
		{Method: get, Pattern: "/authority", Permission: enroll.MayLook, live: true, handle: getAuthority},
		{Method: get, Pattern: "/authority/trust-bundle.pem", Permission: enroll.MayLook, handle: getTrustBundle},
		{Method: get, Pattern: "/authority/issuers/{id}/{file}", Permission: enroll.MayLook, handle: getIssuerFile},
	}
}

// An authorityPage is the whole certification authority.
type authorityPage struct {
	Tree     []issuerNode // roots
	Makers   []makerRow
	Profiles []profileRow
	Trust    *trustFacts
	Rollover []enroll.Rollover // to roots that came later
	Forecast forecastView
}

// trustFacts are what clients verify brokers and devices with.
type trustFacts struct {
	Generation int64
	Roots      []rootFact
}

// A rootFact is a root of the trust bundle.
type rootFact struct{ Subject, SHA256 string }

func (v *visit) trustFacts() (*trustFacts, error) {
	bundle, err := v.site.service.TrustBundle(v.ctx())
	if err != nil {
		return nil, err
	}
	t := &trustFacts{Generation: bundle.Generation}
	for block, rest := pem.Decode([]byte(bundle.PEM)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse the trust bundle: %w", err)
		}
		t.Roots = append(t.Roots, rootFact{c.Subject.String(), ca.FingerprintOf(c)})
	}
	return t, nil
}

// An issuerNode is an issuer, with those that it signed.
type issuerNode struct {
	enroll.IssuerView
	KeyName   string // kind and size
	Permits   string // DNS name below which all its names are; empty for no such limit
	Signature string // algorithm that its certificate is signed with
	Life      life
	CRLs      []crlFacts // the worst first, crlsShown at most
	AllCRLs   int        // how many there are
	Entries   int64      // on all of them
	MoreCDPs  int        // status URLs that are not shown
	Downloads []issuerFile
	Below     []issuerNode
}

// An issuerFile is something to download.
type issuerFile struct{ Name, URL string }

// crlsShown bounds the CRLs and the status URLs of an issuer that are shown.
const crlsShown = 12

// crlFacts are the newest CRL of a shard.
type crlFacts struct {
	Shard                  int
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	Entries                int64
	State                  string // good; stale past half of its life; lapsed
}

// The states of a CRL (I12); tones knows them.
const (
	crlGood   = "good"
	crlStale  = "stale"
	crlLapsed = "lapsed"
)

func crlFactsOf(c *ca.CRL, now time.Time) crlFacts {
	f := crlFacts{Shard: c.Shard, Number: c.Number, ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate, Entries: int64(c.Entries), State: crlGood}
	switch {
	case !now.Before(c.NextUpdate):
		f.State = crlLapsed
	case now.Sub(c.ThisUpdate) > c.NextUpdate.Sub(c.ThisUpdate)/2:
		f.State = crlStale
	}
	return f
}

// A profileRow is a profile in a table.
type profileRow struct {
	*ca.Profile
	URL      string
	Usages   string
	Validity string
	Issuers  string // active ones that sign for it
}

func getAuthority(v *visit) (answer, error) {
	views, err := v.site.service.Issuers(v.ctx())
	if err != nil {
		return nil, err
	}
	var p authorityPage
	if p.Tree, err = v.issuerTree(views); err != nil {
		return nil, err
	}
	if p.Trust, err = v.trustFacts(); err != nil {
		return nil, err
	}
	if p.Rollover, err = v.site.service.Rollovers(v.ctx()); err != nil {
		return nil, err
	}
	if p.Makers, err = v.makers(); err != nil {
		return nil, err
	}
	profiles, err := v.site.service.Profiles(v.ctx())
	if err != nil {
		return nil, err
	}
	for _, profile := range profiles {
		row := profileRow{Profile: profile, URL: profileURL(profile.Name), Validity: spanText(profile.Validity)}
		var usages, signers []string
		for _, u := range profile.ExtKeyUsage {
			usages = append(usages, usageNames[u])
		}
		for _, i := range views {
			if i.Purpose == profile.Purpose && i.State == ca.IssuerActive && (profile.IssuerID == "" || profile.IssuerID == i.ID) {
				signers = append(signers, i.ID)
			}
		}
		row.Usages, row.Issuers = strings.Join(usages, ", "), strings.Join(signers, ", ")
		p.Profiles = append(p.Profiles, row)
	}
	forecast, err := v.site.service.Forecast(v.ctx())
	if err != nil {
		return nil, err
	}
	p.Forecast = forecastOf(forecast)
	return page{name: "authority", title: "Authority", data: p}, nil
}

// A makerRow is a manufacturer in a table.
type makerRow struct {
	*enroll.Manufacturer
	Life life
}

// makersShown bounds the manufacturers on the page.
const makersShown = 100

func (v *visit) makerRow(m *enroll.Manufacturer) makerRow {
	return makerRow{m, lifeOf(m.Certificate.NotBefore, m.NotAfter, v.site.now())}
}

func (v *visit) makers() ([]makerRow, error) {
	all, _, err := v.site.service.Manufacturers(v.ctx(), enroll.Page{Limit: makersShown})
	var rows []makerRow
	for _, m := range all {
		rows = append(rows, v.makerRow(m))
	}
	return rows, err
}

var usageNames = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageClientAuth: "client", x509.ExtKeyUsageServerAuth: "server"}

// issuerTree returns the roots, with what hangs on each.
func (v *visit) issuerTree(views []enroll.IssuerView) ([]issuerNode, error) {
	below := map[string][]issuerNode{} // by parent
	var roots []issuerNode
	for _, view := range views { // roots come last
		node, err := v.issuerNode(view)
		if err != nil {
			return nil, err
		}
		if view.Parent == view.ID {
			roots = append(roots, node)
		} else {
			below[view.Parent] = append(below[view.Parent], node)
		}
	}
	var hang func(*issuerNode)
	hang = func(n *issuerNode) {
		n.Below = below[n.ID]
		for i := range n.Below {
			hang(&n.Below[i])
		}
	}
	for i := range roots {
		hang(&roots[i])
	}
	return roots, nil
}

func (v *visit) issuerNode(view enroll.IssuerView) (issuerNode, error) {
	cert, err := v.site.service.IssuerCertificate(v.ctx(), view.ID)
	if err != nil {
		return issuerNode{}, err
	}
	n := issuerNode{
		IssuerView: view, KeyName: keyName(cert), Permits: ca.NameConstraint(view.Product, view.Site, view.Domain), Signature: cert.SignatureAlgorithm.String(),
		Life: lifeOf(view.NotBefore, view.NotAfter, v.site.now()),
	}
	for _, f := range issuerFiles {
		n.Downloads = append(n.Downloads, issuerFile{f.label, "/authority/issuers/" + url.PathEscape(view.ID) + "/" + f.file})
	}
	n.MoreCDPs = max(len(n.CDPs)-crlsShown, 0)
	n.CDPs = n.CDPs[:len(n.CDPs)-n.MoreCDPs]
	crls, err := v.site.service.IssuerCRLs(v.ctx(), view.ID)
	if err != nil {
		return issuerNode{}, err
	}
	if n.AllCRLs = len(crls); n.AllCRLs > 1 {
		for i := range n.Downloads {
			if label, many := manyCRLs[n.Downloads[i].Name]; many {
				n.Downloads[i].Name = label
			}
		}
	}
	for _, crl := range crls {
		n.CRLs = append(n.CRLs, crlFactsOf(crl.CRL, v.site.now()))
		n.Entries += int64(crl.Entries)
	}
	// What lapses first is the worst there is; of those alike the first shard.
	slices.SortStableFunc(n.CRLs, func(a, b crlFacts) int {
		return cmp.Or(cmp.Compare(crlOrder[a.State], crlOrder[b.State]), a.NextUpdate.Compare(b.NextUpdate))
	})
	n.CRLs = n.CRLs[:min(len(n.CRLs), crlsShown)]
	return n, nil
}

// manyCRLs says what the files of an issuer with several CRLs are called.
var manyCRLs = map[string]string{"CRL": "CRL of shard 0", "CRL as PEM": "All CRLs as PEM"}

// crlOrder sorts the states of CRLs, the worst first.
var crlOrder = map[string]int{crlLapsed: 0, crlStale: 1, crlGood: 2}

// keyName returns the kind and size of a certificate's key.
func keyName(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// issuerFiles are the files of an issuer, in the order they are offered in.
var issuerFiles = []struct {
	file, label, mediaType string
	body                   func(ctx context.Context, s *enroll.Service, id string) ([]byte, error)
}{
	{"certificate.pem", "PEM", "application/x-pem-file", func(ctx context.Context, s *enroll.Service, id string) ([]byte, error) {
		return certificateFile(ctx, s, id, func(c *x509.Certificate) []byte { return []byte(ca.EncodeChain(c)) })
	}},
	{"certificate.cer", "DER", "application/pkix-cert", func(ctx context.Context, s *enroll.Service, id string) ([]byte, error) {
		return certificateFile(ctx, s, id, func(c *x509.Certificate) []byte { return c.Raw })
	}},
	{"chain.pem", "Bundle", "application/x-pem-file", issuerChain},
	{"crl.crl", "CRL", "application/pkix-crl", func(ctx context.Context, s *enroll.Service, id string) ([]byte, error) {
		crl, err := s.CRL(ctx, id)
		if err != nil {
			return nil, err
		}
		return crl.DER, nil
	}},
	{"crl.pem", "CRL as PEM", "application/x-pem-file", issuerCRLs},
}

// issuerCRLs returns the newest CRL of each of an issuer's shards, one after the
// other.
func issuerCRLs(ctx context.Context, s *enroll.Service, id string) ([]byte, error) {
	crls, err := s.IssuerCRLs(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(crls) == 0 {
		return nil, errNoFile
	}
	var all []byte
	for _, crl := range crls {
		all = append(all, crl.PEM()...)
	}
	return all, nil
}

func certificateFile(ctx context.Context, s *enroll.Service, id string, encode func(*x509.Certificate) []byte) ([]byte, error) {
	c, err := s.IssuerCertificate(ctx, id)
	if err != nil {
		return nil, err
	}
	return encode(c), nil
}

// issuerChain returns an issuer's certificate and those above it, the root
// last.
func issuerChain(ctx context.Context, s *enroll.Service, id string) ([]byte, error) {
	views, err := s.Issuers(ctx)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for {
		i := slices.IndexFunc(views, func(v enroll.IssuerView) bool { return v.ID == id })
		if i < 0 {
			return nil, errNoFile
		}
		text.WriteString(views[i].PEM)
		if views[i].Parent == id {
			return []byte(text.String()), nil
		}
		id = views[i].Parent
	}
}

var errNoFile = ca.Errorf(ca.KindNotFound, "", "the page Authority has the links", "there is no such file")

func getIssuerFile(v *visit) (answer, error) {
	id, name := v.param("id"), v.param("file")
	for _, f := range issuerFiles {
		if f.file != name {
			continue
		}
		body, err := f.body(v.ctx(), v.site.service, id)
		if err != nil {
			return nil, err
		}
		return download{name: id + "-" + f.file, mediaType: f.mediaType, body: body}, nil
	}
	return nil, errNoFile
}

func getTrustBundle(v *visit) (answer, error) {
	bundle, err := v.site.service.TrustBundle(v.ctx())
	if err != nil {
		return nil, err
	}
	return download{name: "trust-bundle.pem", mediaType: "application/x-pem-file", body: []byte(bundle.PEM)}, nil
}
