package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// metrics are what the API counts.
type metrics struct {
	requests      *prometheus.CounterVec   // listener, route, method, status
	durations     *prometheus.HistogramVec // listener, route, method
	issuances     *prometheus.CounterVec   // operation, result
	revocations   *prometheus.CounterVec   // of, result
	verifications *prometheus.CounterVec   // verdict
	ocsp          map[ca.OCSPStatus]prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "fleetca", Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	m := &metrics{
		requests:      counter("http_requests_total", "Requests answered.", "listener", "route", "method", "status"),
		issuances:     counter("issuances_total", "Certificates asked for over REST, by operation (enroll, renew, broker) and result: issued, replayed, or the problem's name.", "operation", "result"),
		revocations:   counter("revocations_total", "Revocations asked for over REST, by what (device, certificate) and result: revoked, or the problem's name.", "of", "result"),
		verifications: counter("verifications_total", "Verifications of brokers asked for over REST, by verdict.", "verdict"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "fleetca", Name: "http_request_duration_seconds", Help: "Time from request to answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"listener", "route", "method"}),
	}
	registry.MustRegister(m.durations)
	ocsp := counter("ocsp_answers_total", "OCSP requests answered, by what the answer says of the certificate, or why it says nothing.", "status")
	m.ocsp = map[ca.OCSPStatus]prometheus.Counter{}
	for _, status := range ca.OCSPStatuses() {
		m.ocsp[status] = ocsp.WithLabelValues(string(status))
	}
	return m
}

// issued counts a request for a certificate.
func (m *metrics) issued(operation string, e *enroll.Enrollment, err error) {
	result := "issued"
	switch {
	case err != nil:
		result = string(classify(err).Kind)
	case e.Replayed:
		result = "replayed"
	}
	m.issuances.WithLabelValues(operation, result).Inc()
}

// revoked counts a request for a revocation.
func (m *metrics) revoked(of string, err error) {
	result := "revoked"
	if err != nil {
		result = string(classify(err).Kind)
		if _, ok := errors.AsType[*enroll.Replay](err); ok {
			result = "replayed"
		}
	}
	m.revocations.WithLabelValues(of, result).Inc()
}

// getMetrics answers in the text format of Prometheus.
func (a *API) getMetrics(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
}

// scrapeTimeout bounds what one scrape asks of the store.
const scrapeTimeout = 5 * time.Second

// A crlCollector shows each issuer's newest CRL as it is when scraped.
type crlCollector struct {
	crls func(context.Context) ([]*enroll.PublishedCRL, error)
	now  func() time.Time
	log  *slog.Logger
}

func crlDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("fleetca_crl_"+name, help, []string{"issuer", "shard"}, nil)
}

var (
	crlReadable   = prometheus.NewDesc("fleetca_crl_readable", "Whether the CRLs could be read for this scrape.", nil, nil)
	crlAge        = crlDesc("age_seconds", "Time since thisUpdate of the newest CRL.")
	crlNextUpdate = crlDesc("next_update_timestamp_seconds", "nextUpdate of the newest CRL: brokers refuse everybody after it.")
	crlNumber     = crlDesc("number", "CRL number of the newest CRL (RFC 5280, 5.2.3).")
	crlEntries    = crlDesc("entries", "Certificates on the newest CRL.")
)

// Describe implements prometheus.Collector.
func (c *crlCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{crlReadable, crlAge, crlNextUpdate, crlNumber, crlEntries} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *crlCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	crls, err := c.crls(ctx)
	if err != nil {
		c.log.Error("CRLs cannot be read for the metrics", "error", err)
		gauge(crlReadable, 0)
		return
	}
	gauge(crlReadable, 1)
	for _, crl := range crls {
		shard := strconv.Itoa(crl.Shard)
		gauge(crlAge, c.now().Sub(crl.ThisUpdate).Seconds(), crl.IssuerID, shard)
		gauge(crlNextUpdate, float64(crl.NextUpdate.Unix()), crl.IssuerID, shard)
		gauge(crlNumber, float64(crl.Number), crl.IssuerID, shard)
		gauge(crlEntries, float64(crl.Entries), crl.IssuerID, shard)
	}
}

// An ocspCollector shows the OCSP responder as it is when scraped.
type ocspCollector struct{ service *enroll.Service }

var (
	ocspCached   = prometheus.NewDesc("fleetca_ocsp_cached_answers", "OCSP answers that are kept signed.", nil, nil)
	ocspNotAfter = prometheus.NewDesc("fleetca_ocsp_certificate_not_after_timestamp_seconds", "notAfter of the OCSP responder's certificate of an issuer, once it was asked about that.", []string{"issuer"}, nil)
	statusLooked = prometheus.NewDesc("fleetca_status_refreshed_timestamp_seconds", "When what CRLs and OCSP answers are served from was last held against the database.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *ocspCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ocspCached, ocspNotAfter, statusLooked} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *ocspCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(ocspCached, float64(c.service.OCSPCached()))
	for issuer, cert := range c.service.OCSPCertificates() {
		gauge(ocspNotAfter, float64(cert.NotAfter.Unix()), issuer)
	}
	if at := c.service.StatusRefreshed(); !at.IsZero() {
		gauge(statusLooked, float64(at.Unix()))
	}
}
