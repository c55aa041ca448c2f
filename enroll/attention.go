package enroll

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Severity grades what needs a person.
type Severity string

// The severities.
const (
	SeverityCritical Severity = "critical" // something does not work, or is about to stop
	SeverityWarning  Severity = "warning"  // it will, unless somebody acts
	SeverityInfo     Severity = "info"     // a decision is due
)

// An AttentionKind says what needs a person. Kinds are stable.
type AttentionKind string

// The kinds of what needs a person.
const (
	AttentionServed     AttentionKind = "broker-serves-other"   // the last verification saw another certificate than the newest
	AttentionFailing    AttentionKind = "verification-failed"   // the last verification of a broker did not pass
	AttentionRolledBack AttentionKind = "rotation-rolled-back"  // the last rotation of a broker did not succeed
	AttentionCRL        AttentionKind = "crl-lapsing"           // a CRL is past half of its life, or lapsed (I12)
	AttentionUnproven   AttentionKind = "revocation-unproven"   // a broker was not seen to refuse
	AttentionQuota      AttentionKind = "quota-reached"         // an open work order is full
	AttentionChain      AttentionKind = "chain-expiring"        // a root or an issuer has at most a third of its life left (I17)
	AttentionCover      AttentionKind = "issuer-too-short"      // an issuer ends before a certificate that it signs now would, and has no successor (I17)
	AttentionMaker      AttentionKind = "manufacturer-expiring" // a manufacturer's authority has at most a third of its life left
	AttentionBrokerCert AttentionKind = "broker-cert-expiring"  // a broker's certificate has at most a third of its life left
	AttentionLeaves     AttentionKind = "devices-expiring"      // many devices are about to lose their last good certificate
)

// An AttentionAction names the one thing to do. Names are stable.
type AttentionAction string

// The actions.
const (
	ActionVerify         AttentionAction = "verify"            // the broker
	ActionRotate         AttentionAction = "rotate"            // the broker's certificate
	ActionOpenRevocation AttentionAction = "open-revocation"   // and see which broker did not refuse
	ActionRaiseQuota     AttentionAction = "raise-quota"       // or close the work order
	ActionOpenIssuer     AttentionAction = "open-issuer"       // and make its successor, or see why its CRL is late
	ActionOpenMaker      AttentionAction = "open-manufacturer" // and register its next authority, or disable it
	ActionSignRootCRL    AttentionAction = "sign-root-crl"     // by hand, with the root's key
	ActionListDevices    AttentionAction = "list-devices"      // Query says which
)

// An Attention is one thing that needs a person.
type Attention struct {
	Kind     AttentionKind   `json:"kind"`
	Severity Severity        `json:"severity"`
	Subject  string          `json:"subject"`         // broker:ID, revocation:ID, work-order:ID, issuer:ID, manufacturer:ID; devices for a number of them
	Since    time.Time       `json:"since"`           // as far as is known
	Message  string          `json:"message"`         // one line for a person
	Action   AttentionAction `json:"action"`          // the one thing to do
	Query    string          `json:"query,omitempty"` // of ActionListDevices, for ParseQuery
}

// Attentions are what needs a person, the most severe first, and then the
// longest-standing.
type Attentions struct {
	Items []Attention `json:"items"` // never null; at most 100
	More  bool        `json:"more"`  // there are others
}

// Bounds and thresholds of what needs a person.
const (
	maxAttention   = 100
	maxLooks       = 1000                // brokers that are looked at
	proofPatience  = 2 * time.Minute     // a revocation may run
	verifyPatience = 10 * time.Minute    // a new certificate may wait to be seen at its broker
	lateRenewals   = 14 * 24 * time.Hour // before expiry, when devices should have renewed long since
	manyRenewals   = 10                  // devices that late
	countedLate    = 1_000               // more are not counted
)

// Attention returns what needs a person: nothing when all is well.
func (s *Service) Attention(ctx context.Context) (*Attentions, error) {
	now := s.now()
	all := []Attention{}
	for _, look := range []func(context.Context, time.Time) ([]Attention, error){
		s.attentionToBrokers, s.attentionToCRLs, s.attentionToRevocations, s.attentionToOrders, s.attentionToChains, s.attentionToMakers, s.attentionToLeaves,
	} {
		found, err := look(ctx, now)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	rank := map[Severity]int{SeverityCritical: 0, SeverityWarning: 1, SeverityInfo: 2}
	slices.SortStableFunc(all, func(a, b Attention) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), a.Since.Compare(b.Since), cmp.Compare(a.Subject, b.Subject))
	})
	n := min(len(all), maxAttention)
	return &Attentions{Items: all[:n], More: n < len(all)}, nil
}

// A BrokerLook is what is known of a broker at a glance.
type BrokerLook struct {
	Broker       string
	Kind         string
	Status       BrokerStatus
	StatusAt     time.Time // since when
	ServedSHA256 string    // of the certificate that it showed last; empty while it showed none
	ServedAt     time.Time // when that was
	Newest       *NewestCertificate
	LastRotation *LastRotation
}

// A NewestCertificate is the certificate that a broker should serve.
type NewestCertificate struct {
	SerialNumber ca.SerialNumber
	SHA256       string
	Status       ca.Status
	NotBefore    time.Time
	NotAfter     time.Time
	RecordedAt   time.Time
}

// A LastRotation is the newest rotation of a broker that was no dry run.
type LastRotation struct {
	ID    string
	State RotationState
	At    time.Time
}

func (s *Service) attentionToBrokers(ctx context.Context, now time.Time) ([]Attention, error) {
	looks, err := s.store.BrokerLooks(ctx, maxLooks)
	if err != nil {
		return nil, err
	}
	var all []Attention
	for _, b := range looks {
		for _, judge := range []func(BrokerLook, time.Time) *Attention{failingBroker, rolledBackBroker, otherServed, expiringBroker} {
			if a := judge(b, now); a != nil {
				a.Subject = "broker:" + b.Broker
				all = append(all, *a)
			}
		}
	}
	return all, nil
}

func failingBroker(b BrokerLook, _ time.Time) *Attention {
	if b.Status != BrokerFailing {
		return nil
	}
	return &Attention{Kind: AttentionFailing, Severity: SeverityCritical, Since: b.StatusAt, Action: ActionVerify,
		Message: fmt.Sprintf("the last verification of broker %s did not pass", b.Broker)}
}

func rolledBackBroker(b BrokerLook, _ time.Time) *Attention {
	if b.LastRotation == nil || b.LastRotation.State != RotationRolledBack && b.LastRotation.State != RotationFailed {
		return nil
	}
	a := &Attention{Kind: AttentionRolledBack, Severity: SeverityWarning, Since: b.LastRotation.At, Action: ActionRotate,
		Message: fmt.Sprintf("the last rotation of broker %s was rolled back", b.Broker)}
	if b.LastRotation.State == RotationFailed {
		a.Severity, a.Message = SeverityCritical, fmt.Sprintf("the last rotation of broker %s failed, and so did the way back", b.Broker)
	}
	return a
}

// otherServed holds what was served against the newest certificate. What a
// rotation took back, or one under way has yet to bring, is told elsewhere.
func otherServed(b BrokerLook, now time.Time) *Attention {
	r := b.LastRotation
	if b.Newest == nil || b.ServedSHA256 == "" || b.ServedSHA256 == b.Newest.SHA256 || r != nil && r.State != RotationDone {
		return nil
	}
	a := &Attention{Kind: AttentionServed, Severity: SeverityWarning}
	if b.ServedAt.After(b.Newest.RecordedAt) {
		a.Since, a.Action = b.ServedAt, ActionRotate
		a.Message = fmt.Sprintf("broker %s serves another certificate than its newest, %s", b.Broker, b.Newest.SerialNumber)
		return a
	}
	if now.Sub(b.Newest.RecordedAt) < verifyPatience {
		return nil
	}
	a.Since, a.Action = b.Newest.RecordedAt, ActionVerify
	a.Message = fmt.Sprintf("broker %s was not seen with its newest certificate, %s", b.Broker, b.Newest.SerialNumber)
	return a
}

func expiringBroker(b BrokerLook, now time.Time) *Attention {
	c := b.Newest
	switch {
	case c == nil:
		return nil
	case c.Status != ca.StatusGood:
		return &Attention{Kind: AttentionBrokerCert, Severity: SeverityCritical, Since: c.RecordedAt, Action: ActionRotate,
			Message: fmt.Sprintf("the newest certificate of broker %s is %s", b.Broker, c.Status)}
	}
	a := lastThird(c.NotBefore, c.NotAfter, now, "the certificate of broker "+b.Broker)
	if a != nil {
		a.Kind, a.Action = AttentionBrokerCert, ActionRotate
	}
	return a
}

// lastThird tells of what has at most a third of its life left (I17), the more
// severely when it is a twelfth.
func lastThird(notBefore, notAfter, now time.Time, what string) *Attention {
	life, left := notAfter.Sub(notBefore), notAfter.Sub(now)
	switch {
	case left > life/3:
		return nil
	case left <= 0:
		return &Attention{Severity: SeverityCritical, Since: notAfter, Message: what + " has expired"}
	}
	a := &Attention{Severity: SeverityWarning, Since: notAfter.Add(-life / 3), Message: fmt.Sprintf("%s expires in %s", what, inDays(left))}
	if left <= life/12 {
		a.Severity = SeverityCritical
	}
	return a
}

// inDays writes a duration for a person.
func inDays(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func (s *Service) attentionToCRLs(ctx context.Context, now time.Time) ([]Attention, error) {
	crls, err := s.store.NewestCRLs(ctx)
	if err != nil {
		return nil, err
	}
	var all []Attention
	for _, i := range s.ca.Issuers() {
		for _, scope := range i.CRLScopes() {
			a := lapsing(crls, scope, now)
			if a == nil {
				continue
			}
			a.Kind, a.Subject, a.Action = AttentionCRL, "issuer:"+i.ID, ActionOpenIssuer
			if i.KeyURI == "" {
				a.Action = ActionSignRootCRL
			}
			all = append(all, *a)
		}
	}
	return all, nil
}

// lapsing tells of a scope's newest CRL when it is past half of its life, or
// there is none.
func lapsing(crls []*ca.CRL, scope ca.CRLScope, now time.Time) *Attention {
	at := slices.IndexFunc(crls, func(c *ca.CRL) bool { return c.Scope() == scope })
	if at < 0 {
		return &Attention{Severity: SeverityCritical, Since: now, Message: fmt.Sprintf("issuer %s has no CRL", scope)}
	}
	crl := crls[at]
	half := crl.ThisUpdate.Add(crl.NextUpdate.Sub(crl.ThisUpdate) / 2)
	switch {
	case now.Before(half):
		return nil
	case now.Before(crl.NextUpdate):
		return &Attention{Severity: SeverityWarning, Since: half,
			Message: fmt.Sprintf("CRL %d of issuer %s lapses in %s", crl.Number, scope, inDays(crl.NextUpdate.Sub(now)))}
	}
	return &Attention{Severity: SeverityCritical, Since: crl.NextUpdate,
		Message: fmt.Sprintf("CRL %d of issuer %s has lapsed: brokers refuse every device", crl.Number, scope)}
}

func (s *Service) attentionToRevocations(ctx context.Context, now time.Time) ([]Attention, error) {
	open, err := s.store.OpenRevocations(ctx, maxAttention+1)
	if err != nil {
		return nil, err
	}
	var all []Attention
	for _, r := range open {
		if r.State == RevocationRunning && now.Sub(r.At) < proofPatience {
			continue
		}
		message := fmt.Sprintf("the revocation of device %s is not proven", r.Device)
		for _, st := range r.Steps {
			if st.State == StepFailed {
				message += fmt.Sprintf(": %s at broker %s failed", st.Name, cmp.Or(st.Broker, "none"))
				break
			}
		}
		all = append(all, Attention{Kind: AttentionUnproven, Severity: SeverityCritical, Subject: "revocation:" + r.ID, Since: r.At,
			Message: message, Action: ActionOpenRevocation})
	}
	return all, nil
}

func (s *Service) attentionToOrders(ctx context.Context, _ time.Time) ([]Attention, error) {
	full, err := s.store.FullWorkOrders(ctx, maxAttention+1)
	if err != nil {
		return nil, err
	}
	var all []Attention
	for _, o := range full {
		all = append(all, Attention{Kind: AttentionQuota, Severity: SeverityInfo, Subject: "work-order:" + o.ID, Since: *o.FullAt,
			Message: fmt.Sprintf("all %d devices of work order %s are enrolled: close it, or raise its quota", o.Quantity, o.ID), Action: ActionRaiseQuota})
	}
	return all, nil
}

// attentionToLeaves tells of devices that should have renewed: they do at two
// thirds of a certificate's life.
func (s *Service) attentionToLeaves(ctx context.Context, now time.Time) ([]Attention, error) {
	profile, err := s.profile(ctx, defaultProfile)
	if err != nil {
		return nil, err
	}
	late := min(lateRenewals, profile.Validity/6).Truncate(time.Hour)
	n, err := s.store.ExpiringDevices(ctx, now, now.Add(late), countedLate)
	if err != nil || n < manyRenewals {
		return nil, err
	}
	count := fmt.Sprint(n)
	if n == countedLate {
		count += " or more"
	}
	return []Attention{{Kind: AttentionLeaves, Severity: SeverityWarning, Subject: "devices", Since: now, Action: ActionListDevices,
		Query:   DeviceFilter{ExpiresUnder: late}.Query(),
		Message: fmt.Sprintf("%s devices have not renewed, and lose their last good certificate within %s", count, inDays(late))}}, nil
}
