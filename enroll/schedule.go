package enroll

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// What a Config's zero values stand for.
const (
	DefaultVerifyConnections = 512
	DefaultKeepVerifications = 30 * 24 * time.Hour
)

// verifyChunk is how many looks one transaction of the schedule takes.
const verifyChunk = 50

// verifyBrokers handles JobVerify: every registered broker is verified, what it
// must refuse included, all at once as far as Config.VerifyConnections goes.
// One that shows what it showed last is noted; anything else is news, kept with
// an audit event.
func (s *Service) verifyBrokers(ctx context.Context, _ string) error {
	good, err := s.goodCanary(ctx)
	if err != nil {
		return err
	}
	reports := make(chan Verification)
	saved := make(chan error, 1)
	go func() { saved <- s.saveLooks(ctx, reports) }()
	err = s.lookAtAll(ctx, good, reports)
	close(reports)
	return errors.Join(err, <-saved)
}

// lookAtAll verifies every broker and hands the reports over.
func (s *Service) lookAtAll(ctx context.Context, good *canary, reports chan<- Verification) error {
	var looking sync.WaitGroup
	defer looking.Wait()
	for page := (Page{Limit: 500}); ; {
		brokers, next, err := s.store.Brokers(ctx, page)
		if err != nil {
			return err
		}
		for _, b := range brokers {
			if err := s.reserveLook(ctx); err != nil {
				return err
			}
			b.LastVerification = nil // read, and of no use here
			looking.Go(func() {
				defer s.releaseLook()
				report, err := s.lookAt(ctx, b, good, true)
				if err != nil {
					if ctx.Err() == nil {
						s.log.WarnContext(ctx, "a broker was not verified", "broker", b.ID, "error", err)
					}
					return
				}
				if report.Has(mqtts.CodeInterrupted) { // the server stops: nothing was seen
					return
				}
				v := s.verification(b.ID, report, true)
				v.Scheduled = true
				reports <- v
			})
		}
		if page.Cursor = next; next == "" {
			return nil
		}
	}
}

// saveLooks keeps what comes until the channel is closed, many in one
// transaction.
func (s *Service) saveLooks(ctx context.Context, reports <-chan Verification) error {
	var errs []error
	var chunk []Verification
	flush := func() {
		news, err := s.store.ConfirmVerifications(ctx, chunk)
		errs = append(errs, err)
		for _, v := range news {
			errs = append(errs, s.store.SaveVerification(ctx, v, Change{Event: verifyEvent("server", v)}))
			s.toDial.forget()
		}
		chunk = chunk[:0]
	}
	for v := range reports {
		if chunk = append(chunk, v); len(chunk) == verifyChunk {
			flush()
		}
	}
	if len(chunk) > 0 {
		flush()
	}
	return errors.Join(errs...)
}

// NegativeVerifications returns the newest negative verification of each broker.
func (s *Service) NegativeVerifications(ctx context.Context) ([]*Verification, error) {
	return s.store.NegativeVerifications(ctx)
}
