package enroll

import (
	"context"
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
func (s *Service) Figures(ctx context.Context) (*Figures, error) { return nil, errNotYet }

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
func (s *Service) Forecast(ctx context.Context) (*Forecast, error) { return nil, errNotYet }
