package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// scrapeTimeout bounds what one scrape asks of the store.
const scrapeTimeout = 5 * time.Second

// A fleetCollector shows, as it is when scraped, what alerts are written on:
// expiry of issuers and of brokers' certificates, brokers that fail, and
// revocations without proof.
type fleetCollector struct {
	service *enroll.Service
	log     *slog.Logger
}

var (
	issuerNotAfter = prometheus.NewDesc("fleetca_issuer_not_after_timestamp_seconds", "notAfter of an issuer's certificate.", []string{"issuer"}, nil)
	issuerUsable   = prometheus.NewDesc("fleetca_issuer_usable", "Whether the key of an issuer that signs here can be used.", []string{"issuer"}, nil)
	brokerNotAfter = prometheus.NewDesc("fleetca_broker_not_after_timestamp_seconds", "notAfter of the newest certificate issued to a broker.", []string{"broker"}, nil)
	brokerVerified = prometheus.NewDesc("fleetca_broker_verified", "Whether the last verification of a broker passed.", []string{"broker"}, nil)
	unproven       = prometheus.NewDesc("fleetca_revocations_unproven", "Revocations whose refusal was not seen at every broker, among those this server works on.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{issuerNotAfter, issuerUsable, brokerNotAfter, brokerVerified, unproven} {
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
	unusable := c.service.UnusableIssuers()
	for _, i := range issuers {
		gauge(issuerNotAfter, float64(i.NotAfter.Unix()), i.ID)
		if i.Purpose == ca.PurposeRoot {
			continue // its key is not here
		}
		usable := 1.0
		if slices.Contains(unusable, i.ID) {
			usable = 0
		}
		gauge(issuerUsable, usable, i.ID)
	}
	brokers, _, err := c.service.Brokers(ctx, enroll.Page{Limit: 500})
	if err != nil {
		c.log.Error("metrics of brokers", "err", err)
	}
	for _, listed := range brokers {
		b, err := c.service.Broker(ctx, listed.ID)
		if err != nil {
			c.log.Error("metrics of brokers", "broker", listed.ID, "err", err)
			continue
		}
		verified := 0.0
		if b.Status == enroll.BrokerVerified {
			verified = 1
		}
		gauge(brokerVerified, verified, b.ID)
		if b.Certificate != nil {
			gauge(brokerNotAfter, float64(b.Certificate.NotAfter.Unix()), b.ID)
		}
	}
}
