package mqtts

import (
	"math"
	"time"
)

// A Report is what a run saw. It survives a round trip through JSON.
type Report struct {
	Target     ReportTarget `json:"target"`
	Verdict    Verdict      `json:"verdict"`
	StartedAt  time.Time    `json:"startedAt"`
	DurationMs float64      `json:"durationMs"` // of the whole run
	Steps      []Step       `json:"steps"`      // always the eight, in order
	Diagnosis  []Diagnosis  `json:"diagnosis"`  // causes; errors first
	Checks     []Check      `json:"checks"`     // of a negative run the ten, in order; empty otherwise

	TLS               *TLS               `json:"tls,omitempty"`               // once the broker answered with TLS
	MQTT              *MQTT              `json:"mqtt,omitempty"`              // once CONNECT was sent over an accepted channel
	ServerCertificate *ServerCertificate `json:"serverCertificate,omitempty"` // once it arrived
	Refused           *Refusal           `json:"refusal,omitempty"`           // see Refusal
}

// A ReportTarget is what was verified.
type ReportTarget struct {
	URL        string `json:"url"`
	ServerName string `json:"serverName"` // the name the certificate was held against
	Address    string `json:"address"`    // host:port; the address connected to, once there is one
}

// A Verdict is the result of a run.
type Verdict string

const (
	VerdictPass         Verdict = "pass"
	VerdictFail         Verdict = "fail"
	VerdictInconclusive Verdict = "inconclusive" // nothing failed, but something could not be decided
)

// A StepName names one of the eight steps; see the package comment.
type StepName string

const (
	StepTCP               StepName = "tcp"
	StepClientHello       StepName = "client_hello"
	StepServerCertificate StepName = "server_certificate"
	StepVerify            StepName = "verify"
	StepSessionKeys       StepName = "session_keys"
	StepConnect           StepName = "connect"
	StepConnack           StepName = "connack"
	StepPublishSubscribe  StepName = "publish_subscribe"
)

// stepNames are the steps in their order.
var stepNames = [...]StepName{
	StepTCP, StepClientHello, StepServerCertificate, StepVerify,
	StepSessionKeys, StepConnect, StepConnack, StepPublishSubscribe,
}

// A Result is the result of one step.
type Result string

const (
	ResultPass    Result = "pass"
	ResultFail    Result = "fail"
	ResultWarn    Result = "warn" // passed, with a warning diagnosed
	ResultSkipped Result = "skipped"
)

// A Step is one step of the run.
type Step struct {
	Name       StepName `json:"name"`
	Result     Result   `json:"result"`
	DurationMs float64  `json:"durationMs"`
	Detail     string   `json:"detail"` // one line for a person
	State      State    `json:"state"`  // after the step, as it then was
}

// A State is the state of the three layers.
type State struct {
	TCP  TCPState  `json:"tcp"`
	TLS  TLSState  `json:"tls"`
	MQTT MQTTState `json:"mqtt"`
}

// A TCPState is the state of the connection.
type TCPState string

const (
	TCPClosed      TCPState = "closed"
	TCPEstablished TCPState = "established"
)

// A TLSState is the state of the handshake.
type TLSState string

const (
	TLSNotStarted          TLSState = "not_started"
	TLSInProgress          TLSState = "in_progress"
	TLSCertificateVerified TLSState = "certificate_verified"
	TLSSecureChannelReady  TLSState = "secure_channel_ready"
	TLSFailed              TLSState = "failed"
)

// An MQTTState is the state of the session.
type MQTTState string

const (
	MQTTDisconnected MQTTState = "disconnected"
	MQTTConnected    MQTTState = "connected"
	MQTTSecure       MQTTState = "secure" // connected, and a message went there and back inside TLS
)

// A TLS is what the handshake agreed on.
type TLS struct {
	Version                    string `json:"version"`     // "TLS 1.3"
	CipherSuite                string `json:"cipherSuite"` // IANA's name
	Group                      string `json:"group"`       // of the key exchange
	PostQuantum                bool   `json:"postQuantum"` // whether the group is a hybrid with ML-KEM
	ALPN                       string `json:"alpn"`
	ClientCertificateRequested bool   `json:"clientCertificateRequested"`
	ClientCertificateSent      bool   `json:"clientCertificateSent"`
	Resumed                    bool   `json:"resumed"`
	Staple                     Staple `json:"staple"`
}

// An MQTT is what the broker said to CONNECT.
type MQTT struct {
	Version        string `json:"version"`    // Version311 or Version5: that of the CONNECT
	ReasonCode     int    `json:"reasonCode"` // CONNACK's: 0 when accepted, -1 when no CONNACK came
	Reason         string `json:"reason"`     // the code's name, "" when no CONNACK came
	Raw            string `json:"raw"`        // hex of the packet, or of the first bytes that came in its place
	SessionPresent bool   `json:"sessionPresent"`
}

// A ServerCertificate is the broker's certificate.
type ServerCertificate struct {
	Subject      string    `json:"subject"`
	Issuer       string    `json:"issuer"`
	SerialNumber string    `json:"serialNumber"` // lower-case hex
	SHA256       string    `json:"sha256"`       // of the DER, lower-case hex
	NotBefore    time.Time `json:"notBefore"`
	NotAfter     time.Time `json:"notAfter"`
	DaysLeft     int       `json:"daysLeft"` // whole days; negative once expired
	DNSNames     []string  `json:"dnsNames"`
	IPAddresses  []string  `json:"ipAddresses"`
	TrustAnchor  string    `json:"trustAnchor"` // subject of the bundle's certificate that the chain ends in; "" when it ends in none
}

// A Refusal is the broker's own "no" to our certificate or CONNECT, as it was
// observed.
type Refusal struct {
	Step StepName `json:"step"`
	// Alert is the TLS alert (RFC 8446 section 6), 0 when the refusal was none.
	Alert     int    `json:"alert,omitempty"`
	AlertName string `json:"alertName,omitempty"`
	// AfterFinished tells that our side of the handshake had finished before.
	AfterFinished bool `json:"afterFinished"`
	// ReasonCode is CONNACK's, 0 when the refusal was none.
	ReasonCode int `json:"reasonCode,omitempty"`
	// Detail is one line for a person. A refusal with neither alert nor reason
	// code was a connection closed in silence.
	Detail string `json:"error"`
}

// Step returns the step of that name, nil for an unknown one.
func (r *Report) Step(name StepName) *Step {
	for i := range r.Steps {
		if r.Steps[i].Name == name {
			return &r.Steps[i]
		}
	}
	return nil
}

// Refusal returns how the broker refused our certificate or CONNECT, nil when
// it did neither. An interrupted or unreachable broker has refused nothing.
func (r *Report) Refusal() *Refusal { return r.Refused }

// Failed returns the first step that failed, nil when none did.
func (r *Report) Failed() *Step {
	for i := range r.Steps {
		if r.Steps[i].Result == ResultFail {
			return &r.Steps[i]
		}
	}
	return nil
}

// Has tells whether code was diagnosed.
func (r *Report) Has(code Code) bool {
	for i := range r.Diagnosis {
		if r.Diagnosis[i].Code == code {
			return true
		}
	}
	return false
}

// milliseconds returns d with three decimals.
func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
