package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// The roll-over to another root, step by step:
//
//  1. The new root is added (fleetca root rollover, or issuer import), and a
//     server publishes it: the next generation of the trust bundle has both.
//  2. Devices get that generation with each enrollment and renewal, or confirm it
//     themselves; brokers confirm it when they have taken the CAs of devices.
//  3. New issuers under the new root are activated, which makes brokers serve
//     certificates of it with their next rotation, and devices get theirs. Both
//     are refused while somebody would be left behind: who confirmed too little
//     is a straggler.
//  4. Devices and brokers renew. When nobody holds a certificate below the old
//     root any more it is dropped: the next generation is without it.
//
// Steps 3 and 4 wait for a share of the fleet, or for an approval with a reason.

// A TrustGeneration is one trust bundle. Each is kept.
type TrustGeneration struct {
	Generation int64     `json:"generation"`
	CreatedAt  time.Time `json:"createdAt"`
	Roots      []string  `json:"roots"` // ids of issuers, oldest first
}

// TrustCounts say who confirmed a generation.
type TrustCounts struct {
	Devices int64    // active or held
	Behind  int64    // of them, those that have not confirmed it
	Names   []string // some of those, active ones first
	Oldest  int64    // the oldest generation that any has
}

// TrustFigures are what TrustCounts are made of, counted in the background.
type TrustFigures struct {
	AsOf   time.Time // when devices were counted; zero while they never were
	Shares []TrustShare
}

// A TrustShare is how many devices that are active, or held, confirmed a
// generation last.
type TrustShare struct {
	Generation int64 `json:"generation"`
	Devices    int64 `json:"devices"`
}

// counts returns who confirmed a generation, without names.
func (f *TrustFigures) counts(generation int64) TrustCounts {
	var t TrustCounts
	for _, share := range f.Shares {
		if t.Devices == 0 || share.Generation < t.Oldest {
			t.Oldest = share.Generation
		}
		if t.Devices += share.Devices; share.Generation < generation {
			t.Behind += share.Devices
		}
	}
	return t
}

// A RolloverStep is what readiness is asked for.
type RolloverStep string

// The steps that may leave somebody behind.
const (
	StepSwitch RolloverStep = "switch" // issuers under the root sign for brokers and devices
	StepDrop   RolloverStep = "drop"   // the trust bundle is without the root
)

// RolloverSteps lists every one.
func RolloverSteps() []RolloverStep { return []RolloverStep{StepSwitch, StepDrop} }

// An Approval allows a step in spite of stragglers.
type Approval struct {
	Root   string       `json:"root"`
	Step   RolloverStep `json:"step"`
	Actor  string       `json:"actor"`
	Reason string       `json:"reason"`
	At     time.Time    `json:"at"`
}

// NewApproval is what an approval is given with.
type NewApproval struct {
	Step   RolloverStep `json:"step"`
	Reason string       `json:"reason"`
}

// A Readiness says who would be left behind by a step of a root's roll-over.
type Readiness struct {
	Root       string       `json:"root"`
	Step       RolloverStep `json:"step"`
	Generation int64        `json:"generation"` // of the trust bundle that has to be confirmed
	Devices    int64        `json:"devices"`    // active or held
	Behind     int64        `json:"behind"`     // devices that have not confirmed it, or hold a certificate below the root to drop
	Stragglers []string     `json:"stragglers"` // some of them
	Brokers    []string     `json:"brokers"`    // that have not confirmed it, or serve a certificate below the root to drop
	Threshold  float64      `json:"threshold"`  // the share of devices that must be ready, above 0 and at most 1
	Approval   *Approval    `json:"approval,omitempty"`
	Ready      bool         `json:"ready"` // the step may be taken
}

// A Rollover is a Readiness to switch for people to look at: devices are counted in
// the background, and no step is decided by it.
type Rollover struct {
	*Readiness
	AsOf time.Time // when devices were counted; zero while they never were
}

// Holders are who holds certificates of some issuers.
type Holders struct {
	Devices int64
	Names   []string // of some of them
	Brokers []string
}

// maxStragglers is how many stragglers are named.
const maxStragglers = 100

// TrustGenerations lists every trust bundle that there ever was, newest first.
func (s *Service) TrustGenerations(ctx context.Context) ([]TrustGeneration, error) {
	all, err := s.store.TrustGenerations(ctx)
	slices.Reverse(all)
	return all, err
}

// TrustBundleOf returns the trust bundle of a generation.
func (s *Service) TrustBundleOf(ctx context.Context, generation int64) (*TrustBundle, error) {
	all, err := s.store.TrustGenerations(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		if g.Generation == generation {
			return s.bundle(g)
		}
	}
	return nil, ca.Errorf(ca.KindNotFound, "generation", "GET /api/v1/trust-bundles lists them", "there is no trust bundle of generation %d", generation)
}

// bundle returns a generation with its certificates.
func (s *Service) bundle(g TrustGeneration) (*TrustBundle, error) {
	b := &TrustBundle{Generation: g.Generation}
	for _, root := range g.Roots {
		i, err := s.ca.Issuer(root)
		if err != nil {
			return nil, err
		}
		b.PEM += ca.EncodeChain(i.Certificate)
	}
	return b, nil
}

// adoptTrust takes over the newest trust bundle, and tells who listens.
func (s *Service) adoptTrust(ctx context.Context) error {
	all, err := s.store.TrustGenerations(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	cross, err := s.store.CrossCertificates(ctx)
	if err != nil {
		return err
	}
	newest := all[len(all)-1]
	s.ca.SetTrust(ca.Trust{Generation: newest.Generation, Roots: newest.Roots, Cross: cross})
	if s.trusted.Swap(newest.Generation) == newest.Generation {
		return nil
	}
	s.clientsDue.Store(true)
	if s.cfg.OnTrust == nil {
		return nil
	}
	b := s.trustBundle()
	return s.cfg.OnTrust(b)
}

// publishRoot takes a root from created to published: into the trust bundle.
func (s *Service) publishRoot(ctx context.Context, i ca.Issuer) error {
	all, err := s.store.TrustGenerations(ctx)
	if err != nil {
		return err
	}
	next := TrustGeneration{Generation: 1, CreatedAt: s.now()}
	if len(all) > 0 {
		newest := all[len(all)-1]
		next.Generation, next.Roots = newest.Generation+1, slices.Clone(newest.Roots)
	}
	next.Roots = append(next.Roots, i.ID)
	event := newEvent(next.CreatedAt, "server", "trust.add", "issuer:"+i.ID, map[string]any{"generation": next.Generation, "roots": next.Roots, "sha256": ca.FingerprintOf(i.Certificate)})
	return s.store.SaveTrustGeneration(ctx, next, Change{Event: event})
}

// AcknowledgeTrust notes that a device or a broker has a generation of the trust
// bundle. One that it confirmed before is no change.
func (s *Service) AcknowledgeTrust(ctx context.Context, c Call, holder ca.Holder, generation int64) error {
	if generation < 1 || generation > s.ca.TrustGeneration() {
		return ca.Errorf(ca.KindMalformed, "generation", "give that of GET /api/v1/trust-bundle", "there is no trust bundle of generation %d", generation)
	}
	event := newEvent(s.now(), c.Principal.Name, string(holder.Kind)+".trust", holder.String(), map[string]any{"generation": generation})
	err := s.store.AcknowledgeTrust(ctx, holder, generation, Change{Event: event})
	if isKind(err, KindConflict) {
		return nil
	}
	return err
}

// brokersTrust notes that the brokers of this process have taken the CAs of
// devices of the trust bundle of now.
func (s *Service) brokersTrust(ctx context.Context) error {
	var errs []error
	for id := range s.cfg.Drivers {
		b, err := s.store.Broker(ctx, id)
		if isKind(err, ca.KindNotFound) { // registered in a moment
			s.clientsDue.Store(true)
			continue
		}
		if err == nil && b.TrustGeneration < s.ca.TrustGeneration() {
			err = s.AcknowledgeTrust(ctx, Call{Principal: Principal{Name: "server"}}, ca.Holder{Kind: ca.HolderBroker, ID: id}, s.ca.TrustGeneration())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Readiness says who would be left behind by a step of a root's roll-over. For an
// issuer it is its root's.
func (s *Service) Readiness(ctx context.Context, id string, step RolloverStep) (*Readiness, error) {
	if _, err := s.ca.Issuer(id); err != nil {
		return nil, err
	}
	if !slices.Contains(RolloverSteps(), step) {
		return nil, ca.Errorf(ca.KindMalformed, "step", "switch or drop", "%.40q is no step of a roll-over", step)
	}
	root := s.ca.RootOf(id)
	all, err := s.store.TrustGenerations(ctx)
	if err != nil {
		return nil, err
	}
	return s.readiness(ctx, root, step, all, func(generation int64) (TrustCounts, error) {
		return s.store.TrustCounts(ctx, generation, maxStragglers)
	})
}

// readiness is Readiness of a root, by some way to count who confirmed a
// generation.
func (s *Service) readiness(ctx context.Context, root string, step RolloverStep, all []TrustGeneration, count func(generation int64) (TrustCounts, error)) (*Readiness, error) {
	r := &Readiness{Root: root, Step: step, Threshold: s.cfg.RolloverThreshold, Stragglers: []string{}, Brokers: []string{}, Generation: neededFor(all, root, step)}
	var err error
	if r.Approval, err = s.store.Approval(ctx, root, step); err != nil {
		return nil, err
	}
	counts, err := count(r.Generation)
	if err != nil {
		return nil, err
	}
	if err := s.findStragglers(ctx, r, all, counts); err != nil {
		return nil, err
	}
	enough := r.Devices == 0 || float64(r.Devices-min(r.Behind, r.Devices)) >= r.Threshold*float64(r.Devices)
	r.Ready = r.Approval != nil || enough && len(r.Brokers) == 0
	return r, nil
}

// Rollovers says, of each root in the trust bundle that was not in the first, who
// has not confirmed it.
func (s *Service) Rollovers(ctx context.Context) ([]Rollover, error) {
	all, err := s.store.TrustGenerations(ctx)
	if err != nil || len(all) < 2 {
		return nil, err
	}
	figures, err := s.store.TrustFigures(ctx)
	if err != nil {
		return nil, err
	}
	count := func(generation int64) (counts TrustCounts, err error) {
		counts = figures.counts(generation)
		counts.Names, err = s.store.TrustStragglers(ctx, generation, maxStragglers)
		return counts, err
	}
	var under []Rollover
	for _, root := range all[len(all)-1].Roots {
		if slices.Contains(all[0].Roots, root) {
			continue
		}
		if _, err := s.ca.Issuer(root); isKind(err, ca.KindNotFound) { // taken over in a moment
			continue
		}
		r, err := s.readiness(ctx, root, StepSwitch, all, count)
		if err != nil {
			return nil, err
		}
		if figures.AsOf.IsZero() {
			r.Ready = r.Approval != nil // whom it leaves behind is not known
		}
		under = append(under, Rollover{r, figures.AsOf})
	}
	return under, nil
}

// neededFor returns the generation that a step needs to be confirmed: to switch
// to a root the first that has it, to drop one the first that has the newest of
// the others.
func neededFor(all []TrustGeneration, root string, step RolloverStep) int64 {
	if step == StepDrop && len(all) > 0 {
		others := slices.DeleteFunc(slices.Clone(all[len(all)-1].Roots), func(id string) bool { return id == root })
		if len(others) > 0 {
			root = others[len(others)-1]
		}
	}
	for _, g := range all {
		if slices.Contains(g.Roots, root) {
			return g.Generation
		}
	}
	if len(all) == 0 {
		return 1
	}
	return all[len(all)-1].Generation + 1 // it is in none yet
}

// findStragglers finds who would be left behind, given who confirmed what.
func (s *Service) findStragglers(ctx context.Context, r *Readiness, all []TrustGeneration, counts TrustCounts) error {
	first := int64(1)
	if len(all) > 0 {
		first = all[0].Generation
	}
	r.Devices = counts.Devices
	if r.Generation > first { // that one everybody has who has any
		r.Behind, r.Stragglers = counts.Behind, append(r.Stragglers, counts.Names...)
		if err := s.eachBroker(ctx, func(b *Broker) {
			if b.TrustGeneration < r.Generation {
				r.Brokers = append(r.Brokers, b.ID)
			}
		}); err != nil {
			return err
		}
	}
	if r.Step != StepDrop {
		return nil
	}
	var under []string
	for _, i := range s.ca.Issuers() {
		if i.Purpose != ca.PurposeRoot && s.ca.RootOf(i.ID) == r.Root {
			under = append(under, i.ID)
		}
	}
	confirmed := r.Generation // others are counted already
	if r.Generation <= first {
		confirmed = 0
	}
	held, err := s.store.HoldersUnder(ctx, under, confirmed, s.now(), maxStragglers)
	if err != nil {
		return err
	}
	r.Behind += held.Devices
	r.Stragglers = union(r.Stragglers, held.Names, maxStragglers)
	r.Brokers = union(r.Brokers, held.Brokers, len(r.Brokers)+len(held.Brokers))
	return nil
}

func (s *Service) eachBroker(ctx context.Context, f func(*Broker)) error {
	for page := (Page{Limit: 500}); ; {
		all, next, err := s.store.Brokers(ctx, page)
		if err != nil {
			return err
		}
		for _, b := range all {
			f(b)
		}
		if page.Cursor = next; next == "" {
			return nil
		}
	}
}

// union appends to a what it lacks of b, up to a limit.
func union(a, b []string, limit int) []string {
	for _, name := range b {
		if len(a) < limit && !slices.Contains(a, name) {
			a = append(a, name)
		}
	}
	return a
}

// mayTake refuses a step of a roll-over that would leave somebody behind.
func (s *Service) mayTake(ctx context.Context, id string, step RolloverStep) error {
	r, err := s.Readiness(ctx, id, step)
	if err != nil || r.Ready {
		return err
	}
	return r.refusal()
}

// refusal says who would be left behind.
func (r *Readiness) refusal() error {
	var who []string
	if r.Behind > 0 {
		who = append(who, fmt.Sprintf("%d of %d devices (%s)", r.Behind, r.Devices, strings.Join(r.Stragglers[:min(3, len(r.Stragglers))], ", ")))
	}
	if len(r.Brokers) > 0 {
		who = append(who, "brokers "+strings.Join(r.Brokers[:min(3, len(r.Brokers))], ", "))
	}
	return ca.Errorf(KindNotReady, "issuer", "wait for their renewals (fleetca issuer readiness names them), or allow it: fleetca issuer approve "+r.Root+" --step "+string(r.Step)+" --reason TEXT",
		"%s root %s would leave behind %s", map[RolloverStep]string{StepSwitch: "switching to", StepDrop: "dropping"}[r.Step], r.Root, strings.Join(who, " and "))
}

// ApproveRollover allows a step of a root's roll-over in spite of stragglers.
func (s *Service) ApproveRollover(ctx context.Context, c Call, id string, n NewApproval) (*Readiness, error) {
	if err := checkText("reason", n.Reason, 1000); err != nil {
		return nil, err
	}
	if err := s.AdoptIssuers(ctx); err != nil { // it may have been added a second ago
		s.log.WarnContext(ctx, "take over issuers", "error", err)
	}
	before, err := s.Readiness(ctx, id, n.Step)
	if err != nil {
		return nil, err
	}
	a := Approval{Root: before.Root, Step: n.Step, Actor: c.Principal.Name, Reason: n.Reason, At: s.now()}
	event := newEvent(a.At, a.Actor, "rollover.approve", "issuer:"+a.Root, map[string]any{
		"step": a.Step, "reason": a.Reason, "behind": before.Behind, "devices": before.Devices, "brokers": before.Brokers})
	if err := s.store.SaveApproval(ctx, a, Change{Event: event}); err != nil {
		return nil, err
	}
	return s.Readiness(ctx, id, n.Step)
}

// DropRoot takes a root out of the trust bundle: KindNotReady while devices or
// brokers would be left behind, KindConflict for the active root.
func (s *Service) DropRoot(ctx context.Context, c Call, id string) (*TrustBundle, error) {
	if err := s.AdoptIssuers(ctx); err != nil {
		s.log.WarnContext(ctx, "take over issuers", "error", err)
	}
	i, err := s.ca.Issuer(id)
	if err != nil {
		return nil, err
	}
	all, err := s.store.TrustGenerations(ctx)
	if err != nil {
		return nil, err
	}
	newest := all[len(all)-1]
	switch {
	case i.Purpose != ca.PurposeRoot || !slices.Contains(newest.Roots, id):
		return nil, ca.Errorf(KindConflict, "issuer", "GET /api/v1/trust-bundles lists the roots", "issuer %s is not in the trust bundle", id)
	case i.State == ca.IssuerActive:
		return nil, ca.Errorf(KindConflict, "issuer", "activate the root that takes its place first", "root %s is the active one", id)
	}
	for _, o := range s.ca.Issuers() {
		if o.State == ca.IssuerActive && o.Purpose != ca.PurposeRoot && s.ca.RootOf(o.ID) == id {
			return nil, ca.Errorf(KindConflict, "issuer", "retire it first: fleetca issuer retire "+o.ID, "issuer %s signs below root %s", o.ID, id)
		}
	}
	if err := s.mayTake(ctx, id, StepDrop); err != nil {
		return nil, err
	}
	next := TrustGeneration{Generation: newest.Generation + 1, CreatedAt: s.now(), Roots: slices.DeleteFunc(slices.Clone(newest.Roots), func(r string) bool { return r == id })}
	event := newEvent(next.CreatedAt, c.Principal.Name, "trust.drop", "issuer:"+id, map[string]any{"generation": next.Generation, "roots": next.Roots})
	if err := s.store.SaveTrustGeneration(ctx, next, Change{Event: event}); err != nil {
		return nil, err
	}
	if err := s.AdoptIssuers(ctx); err != nil {
		s.log.WarnContext(ctx, "take over issuers", "error", err)
	}
	b := s.trustBundle()
	return &b, nil
}
