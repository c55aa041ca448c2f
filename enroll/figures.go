package enroll

import (
	"context"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// Figures are counts of what there is. They are made in the background: nobody
// waits while a million rows are counted.
type Figures struct {
	AsOf         time.Time              `json:"asOf"`         // when they were counted; zero while they never were
	Devices      map[DeviceStatus]int64 `json:"devices"`      // every status is there
	Certificates map[ca.Status]int64    `json:"certificates"` // good (expired ones too), held, revoked
	Brokers      map[BrokerStatus]int64 `json:"brokers"`      // every status is there
	IssuedToday  int64                  `json:"issuedToday"`  // certificates since midnight UTC
}

// Figures returns the newest counts.
func (s *Service) Figures(ctx context.Context) (*Figures, error) { return s.store.Figures(ctx) }

// ForecastWeeks is how many weeks a forecast looks ahead: 24 months.
const ForecastWeeks = 105

// A Forecast says when certificates expire, by week. Of each holder the last
// good certificate to expire counts: one that was renewed is no worry. It is
// made in the background.
type Forecast struct {
	AsOf    time.Time        `json:"asOf"`    // when it was made; zero while it never was
	Holders []ca.HolderKind  `json:"holders"` // device, broker, server, agent: the series, in this order
	Weeks   []ForecastWeek   `json:"weeks"`   // ForecastWeeks of them, the present one first
	Overdue map[string]int64 `json:"overdue"` // by holder: expired before the first week
	Later   map[string]int64 `json:"later"`   // by holder: after the last week
}

// A ForecastWeek is one ISO 8601 week, Monday 00:00 UTC to the next.
type ForecastWeek struct {
	Week     string           `json:"week"`     // 2026-W48
	From     time.Time        `json:"from"`     // its Monday
	Expiring map[string]int64 `json:"expiring"` // by holder; none are left out
}

// Forecast returns the newest forecast.
func (s *Service) Forecast(ctx context.Context) (*Forecast, error) { return s.store.Forecast(ctx) }

// ForecastHolders are the kinds of holders that a forecast shows.
func ForecastHolders() []ca.HolderKind {
	return []ca.HolderKind{ca.HolderDevice, ca.HolderBroker, ca.HolderServer, ca.HolderAgent}
}

// countFleet handles JobCount.
func (s *Service) countFleet(ctx context.Context, _ string) error {
	return s.store.CountFleet(ctx, s.now())
}

// NewForecast returns a forecast as of a time without any expiry.
func NewForecast(asOf time.Time) *Forecast {
	f := &Forecast{AsOf: asOf, Holders: ForecastHolders(), Overdue: map[string]int64{}, Later: map[string]int64{}}
	today := asOf.UTC().Truncate(24 * time.Hour)
	monday := today.AddDate(0, 0, -(int(today.Weekday())+6)%7)
	for n := range ForecastWeeks {
		from := monday.AddDate(0, 0, 7*n)
		year, week := from.ISOWeek()
		f.Weeks = append(f.Weeks, ForecastWeek{Week: fmt.Sprintf("%d-W%02d", year, week), From: from, Expiring: map[string]int64{}})
	}
	return f
}

// Add adds holders that lose their last good certificate at a time.
func (f *Forecast) Add(kind ca.HolderKind, at time.Time, n int64) {
	if n == 0 {
		return
	}
	first := f.Weeks[0].From
	week := int(at.Sub(first) / (7 * 24 * time.Hour))
	switch {
	case at.Before(first):
		f.Overdue[string(kind)] += n
	case week >= len(f.Weeks):
		f.Later[string(kind)] += n
	default:
		f.Weeks[week].Expiring[string(kind)] += n
	}
}
