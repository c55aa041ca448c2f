package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Counting a fleet reads indexes from end to end, which takes a second for some
// ten million devices. So it is done in the background, and rests after it for
// longer than it took: it never takes more than a part in restAfterCount of one
// processor. The alternative, counters that every transaction moves, would cost
// each of them a write, and would be wrong for good after one that forgot.
const restAfterCount = 20

// settled is how long after its recorded_at a certificate is certainly
// committed: more than clocks may be apart (I7) and transactions last.
const settled = 10 * time.Minute

// Names of aggregates.
const (
	aggregateFigures  = "figures"
	aggregateForecast = "forecast"
)

// counted is what is kept of figures, with what the next count goes on from:
// certificates are never deleted, so those before Until are counted once.
type counted struct {
	enroll.Figures
	Trust    []enroll.TrustShare `json:"trust"`
	Until    time.Time           `json:"until"`
	Before   int64               `json:"before"`   // certificates recorded before Until
	Canaries int64               `json:"canaries"` // among them
}

// CountFleet implements enroll.OverviewStore.
func (s *Store) CountFleet(ctx context.Context, now time.Time) error {
	var last counted
	took, err := s.aggregate(ctx, aggregateFigures, &last)
	if err != nil {
		return s.explain("look at the last count", err)
	}
	if rested := now.Sub(last.AsOf); rested >= 0 && rested < restAfterCount*took {
		return nil
	}
	began := time.Now()
	next := counted{Until: now.Add(-settled)}
	next.AsOf = now
	var forecast *enroll.Forecast
	err = s.db.snapshot(ctx, func(q querier) (err error) {
		if err := countFigures(ctx, q, &next, last); err != nil {
			return err
		}
		forecast, err = countForecast(ctx, q, now)
		return err
	})
	if err != nil {
		return s.explain("count the fleet", err)
	}
	took = time.Since(began)
	return s.explain("keep the count", s.write(ctx, func(ctx context.Context, q tx) error {
		for name, v := range map[string]any{aggregateFigures: next, aggregateForecast: forecast} {
			_, err := q.exec(ctx, `INSERT INTO aggregates (name, as_of, took, data) VALUES ($1, $2, $3, $4)
				ON CONFLICT (name) DO UPDATE SET as_of = excluded.as_of, took = excluded.took, data = excluded.data
				WHERE aggregates.as_of < excluded.as_of`, name, micros(now), took.Microseconds(), jsonOf(v))
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// aggregate reads what was counted last, and how long that took; it leaves v
// alone when nothing was.
func (s *Store) aggregate(ctx context.Context, name string, v any) (took time.Duration, err error) {
	micros, err := one(ctx, s.db, func(row scanner) (n int64, err error) {
		err = row.Scan(&n, fromJSON{v})
		return n, err
	}, `SELECT took, data FROM aggregates WHERE name = $1`, name)
	if errors.Is(err, errNoRows) {
		return 0, nil
	}
	return time.Duration(micros) * time.Microsecond, err
}

// Figures implements enroll.OverviewStore.
func (s *Store) Figures(ctx context.Context) (*enroll.Figures, error) {
	last := counted{Figures: *emptyFigures()}
	_, err := s.aggregate(ctx, aggregateFigures, &last)
	return &last.Figures, s.explain("read the figures", err)
}

// TrustFigures implements enroll.OverviewStore.
func (s *Store) TrustFigures(ctx context.Context) (*enroll.TrustFigures, error) {
	var last counted
	if _, err := s.aggregate(ctx, aggregateFigures, &last); err != nil {
		return nil, s.explain("read the figures", err)
	}
	if last.Trust == nil { // a program before this one counted
		return &enroll.TrustFigures{}, nil
	}
	return &enroll.TrustFigures{AsOf: last.AsOf, Shares: last.Trust}, nil
}

// Forecast implements enroll.OverviewStore.
func (s *Store) Forecast(ctx context.Context) (*enroll.Forecast, error) {
	f := enroll.NewForecast(s.now())
	f.AsOf = time.Time{}
	_, err := s.aggregate(ctx, aggregateForecast, f)
	return f, s.explain("read the forecast", err)
}

// emptyFigures has every status.
func emptyFigures() *enroll.Figures {
	f := &enroll.Figures{
		Devices: map[enroll.DeviceStatus]int64{}, Brokers: map[enroll.BrokerStatus]int64{},
		Certificates: map[ca.Status]int64{ca.StatusGood: 0, ca.StatusHeld: 0, ca.StatusRevoked: 0},
	}
	for _, status := range enroll.DeviceStatuses() {
		f.Devices[status] = 0
	}
	for _, status := range enroll.BrokerStatuses() {
		f.Brokers[status] = 0
	}
	return f
}

// countFigures counts what there is. Canaries are left out: they come and go
// with verifications.
func countFigures(ctx context.Context, q querier, next *counted, last counted) error {
	asOf := next.AsOf
	next.Figures = *emptyFigures()
	next.AsOf = asOf
	if err := countDevices(ctx, q, next); err != nil {
		return err
	}
	if err := countBy(ctx, q, next.Brokers, `SELECT status, count(*) AS counted FROM brokers GROUP BY status`); err != nil {
		return err
	}
	if err := countBy(ctx, q, next.Certificates, `SELECT status, count(*) AS counted FROM certificates WHERE status <> 'good' GROUP BY status`); err != nil {
		return err
	}
	midnight := asOf.UTC().Truncate(24 * time.Hour)
	var sinceUntil, canariesSince, canariesToday, canariesRevoked int64
	for _, c := range []struct {
		n    *int64
		text string
		args []any
	}{
		{&next.Before, countRecorded, []any{micros(last.Until), micros(next.Until)}},
		{&next.Canaries, countCanaries, []any{enroll.CanaryID, micros(last.Until), micros(next.Until)}},
		{&sinceUntil, countRecorded, []any{micros(next.Until), endOfTime}},
		{&canariesSince, countCanaries, []any{enroll.CanaryID, micros(next.Until), endOfTime}},
		{&next.IssuedToday, countRecorded, []any{micros(midnight), endOfTime}},
		{&canariesToday, countCanaries, []any{enroll.CanaryID, micros(midnight), endOfTime}},
		{&canariesRevoked, `SELECT count(*) AS counted FROM certificates WHERE holder_kind = 'canary' AND holder_id = $1 AND status <> 'good'`, []any{enroll.CanaryID}},
	} {
		var err error
		if *c.n, err = value[int64](ctx, q, c.text, c.args...); err != nil {
			return fmt.Errorf("count certificates: %w", err)
		}
	}
	next.Before += last.Before
	next.Canaries += last.Canaries
	next.IssuedToday -= canariesToday
	next.Certificates[ca.StatusRevoked] -= canariesRevoked
	next.Certificates[ca.StatusGood] = next.Before + sinceUntil - next.Canaries - canariesSince -
		next.Certificates[ca.StatusHeld] - next.Certificates[ca.StatusRevoked]
	return nil
}

const (
	countRecorded = `SELECT count(*) AS counted FROM certificates WHERE recorded_at >= $1 AND recorded_at < $2`
	countCanaries = `SELECT count(*) AS counted FROM certificates WHERE holder_kind = 'canary' AND holder_id = $1 AND recorded_at >= $2 AND recorded_at < $3`
	endOfTime     = int64(1) << 62
)

// countDevices counts devices by their status, and of those that are active or
// held by what trust bundle they confirmed.
func countDevices(ctx context.Context, q querier, next *counted) error {
	type group struct {
		status        enroll.DeviceStatus
		generation, n int64
	}
	groups, err := collect(ctx, q, func(row scanner) (g group, err error) {
		err = row.Scan(&g.status, &g.generation, &g.n)
		return g, err
	}, `SELECT status, trust_generation, count(*) AS counted FROM devices GROUP BY status, trust_generation ORDER BY status, trust_generation`)
	if err != nil {
		return fmt.Errorf("count devices: %w", err)
	}
	next.Trust = []enroll.TrustShare{}
	for _, g := range groups {
		next.Devices[g.status] += g.n
		if g.status == enroll.DeviceActive || g.status == enroll.DeviceHeld {
			next.Trust = append(next.Trust, enroll.TrustShare{Generation: g.generation, Devices: g.n})
		}
	}
	return nil
}

// countBy adds counts by a column's value.
func countBy[K ~string](ctx context.Context, q querier, counts map[K]int64, text string) error {
	type group struct {
		key K
		n   int64
	}
	groups, err := collect(ctx, q, func(row scanner) (g group, err error) {
		err = row.Scan(&g.key, &g.n)
		return g, err
	}, text)
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	for _, g := range groups {
		counts[g.key] += g.n
	}
	return nil
}

// countForecast counts when holders lose their last good certificate.
func countForecast(ctx context.Context, q querier, now time.Time) (*enroll.Forecast, error) {
	f := enroll.NewForecast(now)
	device := string(ca.HolderDevice)
	count := func(from, to time.Time) (int64, error) {
		return value[int64](ctx, q, `SELECT count(*) AS counted FROM devices WHERE not_after >= $1 AND not_after < $2 AND not_after > 0`, micros(from), micros(to))
	}
	for i := range f.Weeks {
		w := &f.Weeks[i]
		n, err := count(w.From, w.From.AddDate(0, 0, 7))
		if err != nil {
			return nil, fmt.Errorf("count devices that expire: %w", err)
		}
		if n > 0 {
			w.Expiring[device] = n
		}
	}
	first, end := f.Weeks[0].From, f.Weeks[len(f.Weeks)-1].From.AddDate(0, 0, 7)
	overdue, err := count(time.UnixMicro(1), first)
	if err != nil {
		return nil, err
	}
	later, err := count(end, time.UnixMicro(endOfTime))
	if err != nil {
		return nil, err
	}
	f.Add(ca.HolderDevice, time.UnixMicro(1), overdue)
	f.Add(ca.HolderDevice, end, later)
	for _, kind := range enroll.ForecastHolders()[1:] {
		ends, err := collect(ctx, q, func(row scanner) (t time.Time, err error) {
			err = row.Scan(atTime{&t})
			return t, err
		}, `SELECT max(not_after) AS counted FROM certificates n WHERE holder_kind = $1 AND status = 'good' AND `+kept+` GROUP BY holder_id`, kind)
		if err != nil {
			return nil, fmt.Errorf("count %ss that expire: %w", kind, err)
		}
		for _, t := range ends {
			f.Add(kind, t, 1)
		}
	}
	return f, nil
}
