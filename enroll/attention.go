package enroll

import (
	"context"
	"errors"
	"time"
)

var errNotYet = errors.New("not built yet") // leaves with the commits that follow

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
	AttentionServed     AttentionKind = "broker-serves-other"  // the last verification saw another certificate than the newest
	AttentionFailing    AttentionKind = "verification-failed"  // the last verification of a broker did not pass
	AttentionRolledBack AttentionKind = "rotation-rolled-back" // the last rotation of a broker did not succeed
	AttentionCRL        AttentionKind = "crl-lapsing"          // a CRL is past half of its life, or lapsed (I12)
	AttentionUnproven   AttentionKind = "revocation-unproven"  // a broker was not seen to refuse
	AttentionQuota      AttentionKind = "quota-reached"        // an open work order is full
	AttentionChain      AttentionKind = "chain-expiring"       // a root or an issuer has at most a third of its life left (I17)
	AttentionBrokerCert AttentionKind = "broker-cert-expiring" // a broker's certificate has at most a third of its life left
	AttentionLeaves     AttentionKind = "devices-expiring"     // many devices are about to lose their last good certificate
)

// An AttentionAction names the one thing to do. Names are stable.
type AttentionAction string

// The actions.
const (
	ActionVerify         AttentionAction = "verify"          // the broker
	ActionRotate         AttentionAction = "rotate"          // the broker's certificate
	ActionOpenRevocation AttentionAction = "open-revocation" // and see which broker did not refuse
	ActionRaiseQuota     AttentionAction = "raise-quota"     // or close the work order
	ActionOpenIssuer     AttentionAction = "open-issuer"     // and make its successor, or see why its CRL is late
	ActionSignRootCRL    AttentionAction = "sign-root-crl"   // by hand, with the root's key
	ActionListDevices    AttentionAction = "list-devices"    // Query says which
)

// An Attention is one thing that needs a person.
type Attention struct {
	Kind     AttentionKind   `json:"kind"`
	Severity Severity        `json:"severity"`
	Subject  string          `json:"subject"`         // broker:ID, revocation:ID, work-order:ID, issuer:ID; devices for a number of them
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

// Attention returns what needs a person: nothing when all is well.
func (s *Service) Attention(ctx context.Context) (*Attentions, error) { return nil, errNotYet }
