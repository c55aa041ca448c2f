package enroll

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fleetca/fleetca/enroll/brokers"
)

// Times of servers that share a database and drive a broker each.
const (
	announceEvery  = 5 * time.Second  // a server says so often what it drives
	driverPatience = 15 * time.Second // after which a silent server counts as down
)

// A BrokerDriver is the server that acts on a broker: it has the broker's folder.
type BrokerDriver struct {
	Broker string    `json:"-"`
	Server string    `json:"server"` // host and data folder
	SeenAt time.Time `json:"seenAt"` // when it last said that it drives the broker
	Live   bool      `json:"live"`   // it said so within 15 s
	Here   bool      `json:"-"`      // it is the one that is asked
}

// LiveAt reports whether the server said so within 15 s before a time.
func (d *BrokerDriver) LiveAt(now time.Time) bool { return now.Sub(d.SeenAt) < driverPatience }

// waiting says for a person what is waited for.
func (d *BrokerDriver) waiting() string {
	return fmt.Sprintf("waits for server %s, which drives this broker and was last seen at %s", d.Server, d.SeenAt.UTC().Format(time.RFC3339))
}

// AnnounceDrivers tells the other servers on the database which brokers this one
// drives, and that it lives.
func (s *Service) AnnounceDrivers(ctx context.Context) error {
	ids := make([]string, 0, len(s.cfg.Drivers))
	for id := range s.cfg.Drivers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return s.store.AnnounceDrivers(ctx, s.cfg.Server, ids, s.now())
}

// KeepDrivers announces by the clock, until ctx ends, what this server drives,
// and hands its brokers the CRLs that other servers published. A server that
// drives nothing has nothing to keep.
func (s *Service) KeepDrivers(ctx context.Context) {
	if len(s.cfg.Drivers) == 0 {
		return
	}
	var keeping sync.WaitGroup
	for doing, f := range map[string]func(context.Context) error{
		"tell which brokers are driven from here": s.AnnounceDrivers,
		// Apart: a broker that hangs must not make the server look dead.
		"hand the brokers the newest CRLs": func(ctx context.Context) error { return s.eachDriver(ctx, s.loadNewCRLs) },
	} {
		keeping.Go(func() { s.keepDoing(ctx, doing, f) })
	}
	keeping.Wait()
}

// keepDoing calls f by the clock, and logs why it fails once, until that is
// another reason.
func (s *Service) keepDoing(ctx context.Context, doing string, f func(context.Context) error) {
	last := ""
	for pause(ctx, announceEvery) == nil {
		err := f(ctx)
		switch {
		case err == nil:
			last = ""
		case ctx.Err() == nil && err.Error() != last:
			last = err.Error()
			s.log.WarnContext(ctx, doing, "error", err)
		}
	}
}

// driversElsewhere returns the servers that drive the brokers which this one does
// not, by broker.
func (s *Service) driversElsewhere(ctx context.Context) (map[string]*BrokerDriver, error) {
	all, err := s.store.BrokerDrivers(ctx)
	if err != nil {
		return nil, err
	}
	elsewhere := map[string]*BrokerDriver{}
	for i := range all {
		d := &all[i]
		if s.cfg.Drivers[d.Broker] == nil && d.Server != s.cfg.Server {
			d.Live = d.LiveAt(s.now())
			elsewhere[d.Broker] = d
		}
	}
	return elsewhere, nil
}

// showDrivers adds to brokers which server drives them.
func (s *Service) showDrivers(ctx context.Context, all ...*Broker) error {
	elsewhere, err := s.driversElsewhere(ctx)
	if err != nil {
		return err
	}
	for _, b := range all {
		b.Driver = elsewhere[b.ID]
		if s.cfg.Drivers[b.ID] != nil {
			b.Driver = &BrokerDriver{Broker: b.ID, Server: s.cfg.Server, SeenAt: s.now(), Live: true, Here: true}
		}
	}
	return nil
}

// The subject of work that one broker is left of begins with what the work is
// on; names hold no space.
func subjectAt(subject, broker string) string { return subject + " " + broker }

// cutSubject returns a subject without its broker, and the broker; empty for work
// on all of them.
func cutSubject(subject string) (id, broker string) {
	id, broker, _ = strings.Cut(subject, " ")
	return id, broker
}

// handOver leaves work to the servers that drive brokers. One that is down does
// it when it is back.
func (s *Service) handOver(ctx context.Context, kind JobKind, subject string, brokers ...string) error {
	if len(brokers) == 0 {
		return nil
	}
	slices.Sort(brokers)
	jobs := make([]Job, len(brokers))
	for i, id := range brokers {
		jobs[i] = Job{Kind: kind, Subject: subjectAt(subject, id), Broker: id}
	}
	return s.store.HandOver(ctx, jobs)
}

// driversFor returns the drivers that work on a subject is for: all of this
// server, or that of the one broker. Work on all is left, for the brokers that
// other servers drive, to those.
func (s *Service) driversFor(ctx context.Context, kind JobKind, id, broker string) (map[string]brokers.Driver, error) {
	if here := s.cfg.Drivers[broker]; here != nil {
		return map[string]brokers.Driver{broker: here}, nil
	}
	elsewhere, err := s.driversElsewhere(ctx)
	if err != nil {
		return nil, err
	}
	if broker != "" {
		if elsewhere[broker] == nil {
			return nil, nil // nobody drives it any more
		}
		return nil, s.handOver(ctx, kind, id, broker)
	}
	var others []string
	for other := range elsewhere {
		others = append(others, other)
	}
	return s.cfg.Drivers, s.handOver(ctx, kind, id, others...)
}
