package mqtts

// A Check is one attempt of a negative run: something that the broker must
// refuse. It counts only beside a positive control in the same run, which is the
// run of the eight steps.
type Check struct {
	Name      CheckName   `json:"name"`
	Expect    Expectation `json:"expect"`
	Result    CheckResult `json:"result"`
	Observed  *Observed   `json:"observed"`  // null when nothing was tried
	Diagnosis []Diagnosis `json:"diagnosis"` // of this check alone
}

// A CheckName names a check.
type CheckName string

const (
	CheckNoClientCertificate   CheckName = "no_client_certificate"   // none sent
	CheckForeignCA             CheckName = "foreign_ca"              // of an authority that the broker does not trust
	CheckSameNameRogueCA       CheckName = "same_name_rogue_ca"      // of an authority with the trusted one's name and another key
	CheckExpired               CheckName = "expired"                 // of the trusted authority, expired
	CheckNotYetValid           CheckName = "not_yet_valid"           // of the trusted authority, of the future
	CheckWrongUsage            CheckName = "wrong_usage"             // of the trusted authority, not for clients
	CheckRevoked               CheckName = "revoked"                 // of the trusted authority, revoked
	CheckPlaintext             CheckName = "plaintext"               // MQTT without TLS on the TLS port
	CheckOldTLS                CheckName = "old_tls"                 // TLS 1.0 and 1.1
	CheckResumeAfterRevocation CheckName = "resume_after_revocation" // a TLS session of the revoked certificate
)

// An Expectation is what a check wants to see.
type Expectation string

// ExpectRefused is the expectation of every check.
const ExpectRefused Expectation = "refused"

// A CheckResult is the result of one check.
type CheckResult string

const (
	CheckPass         CheckResult = "pass"         // refused
	CheckFail         CheckResult = "fail"         // accepted
	CheckInconclusive CheckResult = "inconclusive" // neither was seen, or the positive control failed
	CheckSkipped      CheckResult = "skipped"      // no material for it was given, or it was not asked for
)

// Observed is what a check saw.
type Observed struct {
	// Alert is the TLS alert (RFC 8446 section 6) that refused, null when none came.
	Alert     *int   `json:"alert"`
	AlertName string `json:"alertName,omitempty"`
	// Step is the step that ended the attempt: where it was refused, or how far it came.
	Step StepName `json:"step"`
	// AfterFinished tells that our side of the handshake had finished before.
	AfterFinished bool `json:"afterFinished"`
	// ReasonCode is CONNACK's, null when none came.
	ReasonCode *int `json:"reasonCode"`
	// CertificateRequested tells that the broker asked for a client certificate,
	// CertificateSent that it got the one of this check.
	CertificateRequested bool `json:"certificateRequested"`
	CertificateSent      bool `json:"certificateSent"`
	Resumed              bool `json:"resumed"` // the TLS session of an earlier connection was taken up
	// Error is one line for a person, "" when the broker accepted.
	Error string `json:"error"`
}

// Check returns the check of that name, nil when the run was not negative.
func (r *Report) Check(name CheckName) *Check {
	for i := range r.Checks {
		if r.Checks[i].Name == name {
			return &r.Checks[i]
		}
	}
	return nil
}
