package web

import "github.com/fleetca/fleetca/ca"

// A reasonChoice is a reason of revocation for a person to choose.
type reasonChoice struct {
	Name    ca.Reason
	Meaning string
}

// reasonChoices are the reasons of RFC 5280, 5.3.1 that a device can be revoked
// for, what they mean here, the frequent ones first.
var reasonChoices = []reasonChoice{
	{ca.ReasonKeyCompromise, "the private key is known, or may be, to somebody else"},
	{ca.ReasonCessationOfOperation, "the device is out of use; nothing happened to its key"},
	{ca.ReasonSuperseded, "another certificate took its place"},
	{ca.ReasonAffiliationChanged, "it belongs to somebody else now, or its name changed"},
	{ca.ReasonPrivilegeWithdrawn, "it may no longer do what its certificate allows"},
	{ca.ReasonCertificateHold, "on hold for now; the one reason that can be taken back"},
	{ca.ReasonCACompromise, "the key of the authority that issued it is known to somebody else"},
	{ca.ReasonAACompromise, "what an attribute authority said of it can no longer be trusted"},
	{ca.ReasonUnspecified, "none of these, or not to be told"},
}
