package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// scrapeTimeout bounds what one scrape asks of the store.
const scrapeTimeout = 5 * time.Second

// A fleetCollector shows, as it is when scraped, what alerts are written on:
// expiry of issuers and of brokers' certificates, brokers that fail or admit
// whom they must refuse, and revocations without proof.
type fleetCollector struct {
	service *enroll.Service
	log     *slog.Logger
}

var (
	issuerNotAfter   = prometheus.NewDesc("fleetca_issuer_not_after_timestamp_seconds", "notAfter of an issuer's certificate.", []string{"issuer"}, nil)
	issuerDue        = prometheus.NewDesc("fleetca_issuer_successor_missing", "1 for an active root or issuer (else 0) without a successor that has at most a third of its life left (chain-expiring), or cannot cover a certificate's full lifetime (issuer-too-short).", []string{"issuer", "kind"}, nil)
	issuerUsable     = prometheus.NewDesc("fleetca_issuer_usable", "Whether the key of an issuer that signs here can be used.", []string{"issuer"}, nil)
	brokerNotAfter   = prometheus.NewDesc("fleetca_broker_not_after_timestamp_seconds", "notAfter of the certificate that a broker should serve, or of what it was last seen to serve if that ends earlier.", []string{"broker"}, nil)
	brokerVerifiedAt = prometheus.NewDesc("fleetca_broker_verified_timestamp_seconds", "When a broker was last verified, whatever came of it.", []string{"broker"}, nil)
	brokerRefuses    = prometheus.NewDesc("fleetca_broker_refuses", "Whether a broker was last seen to refuse what a check of a negative verification tries (revoked, foreign_ca, ...): 1, or 0 when it was accepted.", []string{"broker", "check"}, nil)
	brokerDiagnosed  = prometheus.NewDesc("fleetca_broker_diagnosed", "1 for every cause that the last verification of a broker named.", []string{"broker", "code", "severity"}, nil)
	brokerVerified   = prometheus.NewDesc("fleetca_broker_verified", "Whether the last verification of a broker passed.", []string{"broker"}, nil)
	unproven         = prometheus.NewDesc("fleetca_revocations_unproven", "Revocations whose refusal was not seen at every broker, among those this server works on.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{issuerNotAfter, issuerDue, issuerUsable, brokerNotAfter, brokerVerified, brokerVerifiedAt, brokerRefuses, brokerDiagnosed, unproven} {
		out <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out, so
// that an alert on its absence fires.
func (c *fleetCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(unproven, float64(c.service.Unproven()))
	issuers, err := c.service.Issuers(ctx)
	if err != nil {
		c.log.Error("metrics of issuers", "err", err)
	}
	due, err := c.service.ChainsDue(ctx, time.Now())
	if err != nil {
		c.log.Error("metrics of issuers that need a successor", "err", err)
	}
	unusable := c.service.UnusableIssuers()
	for _, i := range issuers {
		gauge(issuerNotAfter, float64(i.NotAfter.Unix()), i.ID)
		for _, kind := range []enroll.AttentionKind{enroll.AttentionChain, enroll.AttentionCover} {
			gauge(issuerDue, truth(slices.ContainsFunc(due, func(a enroll.Attention) bool { return a.Kind == kind && a.Subject == "issuer:"+i.ID })), i.ID, string(kind))
		}
		if i.Key == enroll.KeyApart {
			continue
		}
		gauge(issuerUsable, truth(!slices.Contains(unusable, i.ID)), i.ID)
	}
	if err := c.collectBrokers(ctx, gauge); err != nil {
		c.log.Error("metrics of brokers", "err", err)
	}
	if err := c.collectChecks(ctx, gauge); err != nil {
		c.log.Error("metrics of what brokers refuse", "err", err)
	}
}

// A gaugeFunc sets a gauge.
type gaugeFunc func(d *prometheus.Desc, v float64, labels ...string)

func (c *fleetCollector) collectBrokers(ctx context.Context, gauge gaugeFunc) error {
	for page := (enroll.Page{Limit: 500}); ; {
		brokers, next, err := c.service.Brokers(ctx, page)
		if err != nil {
			return err
		}
		for _, b := range brokers {
			gauge(brokerVerified, truth(b.Status == enroll.BrokerVerified), b.ID)
			if b.Certificate != nil {
				gauge(brokerNotAfter, float64(firstEnd(b).Unix()), b.ID)
			}
			if v := b.LastVerification; v != nil {
				gauge(brokerVerifiedAt, float64(v.At.Unix()), b.ID)
				diagnosed(gauge, b.ID, v.Report.Diagnosis)
			}
		}
		if page.Cursor = next; next == "" {
			return nil
		}
	}
}

// firstEnd returns when the certificate that a broker should serve ends, or the
// one that its last verification saw if that is earlier.
func firstEnd(b *enroll.Broker) time.Time {
	end := b.Certificate.NotAfter
	if v := b.LastVerification; v != nil && v.Report.ServerCertificate != nil && v.Report.ServerCertificate.NotAfter.Before(end) {
		return v.Report.ServerCertificate.NotAfter
	}
	return end
}

// collectChecks shows the checks of each broker's newest negative verification.
// One that was skipped or not decided is neither refused nor accepted.
func (c *fleetCollector) collectChecks(ctx context.Context, gauge gaugeFunc) error {
	newest, err := c.service.NegativeVerifications(ctx)
	if err != nil {
		return err
	}
	for _, v := range newest {
		for _, check := range v.Report.Checks {
			if check.Result == mqtts.CheckPass || check.Result == mqtts.CheckFail {
				gauge(brokerRefuses, truth(check.Result == mqtts.CheckPass), v.Broker, string(check.Name))
			}
		}
	}
	return nil
}

// diagnosed shows what was diagnosed, each code once.
func diagnosed(gauge gaugeFunc, broker string, all []mqtts.Diagnosis) {
	seen := map[mqtts.Code]bool{}
	for _, d := range all {
		if !seen[d.Code] {
			seen[d.Code] = true
			gauge(brokerDiagnosed, 1, broker, string(d.Code), string(d.Severity))
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
