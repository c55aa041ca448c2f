package mqtts

import (
	"slices"
	"strings"
)

// A Diagnosis is a cause of what was seen, and what mends it.
type Diagnosis struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Step     StepName `json:"step"`
	Message  string   `json:"message"`
	Fix      string   `json:"fix"`
}

// A Severity grades a diagnosis. An error makes the verdict fail, a warning
// makes its step "warn".
type Severity string

const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
	SeverityInfo    Severity = "info"
)

// maxErrors bounds the errors of a report: three causes are enough to act on.
const maxErrors = 3

// A Code names a cause. Codes are stable.
type Code string

// Codes of the target and its TCP port.
const (
	CodeTrustBundleUnreadable Code = "trust_bundle_unreadable"
	CodeInvalidTarget         Code = "invalid_target"
	CodeInterrupted           Code = "interrupted"
	CodeDNSFailure            Code = "dns_failure"
	CodeTCPRefused            Code = "tcp_refused"
	CodeTCPTimeout            Code = "tcp_timeout"
	CodeTCPUnreachable        Code = "tcp_unreachable"
	CodeAddressNotAllowed     Code = "address_not_allowed"
)

// Codes of listeners that do not complete TLS.
const (
	CodePlaintextListener    Code = "plaintext_listener"
	CodeNotMQTTHTTP          Code = "not_mqtt_http"
	CodeNotMQTTSSH           Code = "not_mqtt_ssh"
	CodeNotTLS               Code = "not_tls"
	CodeTLSHandshakeTimeout  Code = "tls_handshake_timeout"
	CodeTLSHandshakeClosed   Code = "tls_handshake_closed"
	CodeTLSVersionMismatch   Code = "tls_version_mismatch"
	CodeTLSCipherMismatch    Code = "tls_cipher_mismatch"
	CodeALPNMismatch         Code = "alpn_mismatch"
	CodeALPNIgnored          Code = "alpn_ignored"
	CodeServerNameUnknown    Code = "server_name_unrecognized"
	CodeBrokerInternalError  Code = "broker_internal_error"
	CodeTLSAlert             Code = "tls_alert"
	CodeTLSProtocolViolation Code = "tls_protocol_violation"
)

// Codes of the broker's certificate.
const (
	CodeServerUnknownCA           Code = "server_unknown_ca"
	CodeServerMissingIntermediate Code = "server_missing_intermediate"
	CodeServerSameNameOtherKey    Code = "server_same_name_other_key"
	CodeServerChainInvalid        Code = "server_chain_invalid"
	CodeServerCertificateExpired  Code = "server_certificate_expired"
	CodeServerCertificateNotYet   Code = "server_certificate_not_yet_valid"
	CodeServerNameMismatch        Code = "server_name_mismatch"
	CodeServerCommonNameOnly      Code = "server_common_name_only"
	CodeServerWrongUsage          Code = "server_wrong_usage"
	CodeServerRevoked             Code = "server_revoked"
	CodeStapleInvalid             Code = "staple_invalid"
	CodeStapleStale               Code = "staple_stale"
	CodeStapleMissing             Code = "staple_missing"
	CodeStapleRequired            Code = "staple_required"
	CodeServerBrokenKey           Code = "server_broken_key"
	CodeServerWeakSignature       Code = "server_weak_signature"
	CodeServerWeakKey             Code = "server_weak_key"
	CodeServerLongValidity        Code = "server_long_validity"
	CodeServerExpiresSoon         Code = "server_certificate_expires_soon"
	CodeServerIntermediateNotSent Code = "server_intermediate_not_sent"
	CodeServerCertificateIsCA     Code = "server_certificate_is_ca"
	CodeCRLExpired                Code = "crl_expired"
	CodeCRLNotCovering            Code = "crl_not_covering"
	CodeCRLUnavailable            Code = "crl_unavailable"
)

// Codes of the client's certificate.
const (
	CodeClientCertificateRequired     Code = "client_certificate_required"
	CodeClientUnknownCA               Code = "client_unknown_ca"
	CodeClientCRLMissing              Code = "client_crl_missing"
	CodeClientCertificateExpired      Code = "client_certificate_expired"
	CodeClientCertificateNotYet       Code = "client_certificate_not_yet_valid"
	CodeClientWrongUsage              Code = "client_wrong_usage"
	CodeClientCertificateRevoked      Code = "client_certificate_revoked"
	CodeClientCertificateRefused      Code = "client_certificate_refused"
	CodeClientCertificateUnusable     Code = "client_certificate_unusable"
	CodeBrokerCRLExpiredOrClock       Code = "broker_crl_expired_or_clock"
	CodeClientCertificateNotRequested Code = "client_certificate_not_requested"
	CodeClientCertificateNotEnforced  Code = "client_certificate_not_enforced"
	CodeClientRejectedSilently        Code = "client_rejected_silently"
)

// Codes of MQTT.
const (
	CodeConnackBadCredentials     Code = "connack_bad_credentials"
	CodeConnackNotAuthorized      Code = "connack_not_authorized"
	CodeConnackServerUnavailable  Code = "connack_server_unavailable"
	CodeConnackUnsupportedVersion Code = "connack_unsupported_version"
	CodeConnackClientIDRejected   Code = "connack_client_id_rejected"
	CodeConnackRefused            Code = "connack_refused"
	CodeConnackMalformed          Code = "connack_malformed"
	CodeConnackMissing            Code = "connack_missing"
	CodeConnackTimeout            Code = "connack_timeout"
	CodeWebsocketListener         Code = "websocket_listener"
	CodeWebsocketRefused          Code = "websocket_refused"
	CodeMQTT3Only                 Code = "mqtt3_only"
	CodeSessionPresentUnexpected  Code = "session_present_unexpected"
	CodeSubscribeDenied           Code = "subscribe_denied"
	CodePublishNotDelivered       Code = "publish_not_delivered"
	CodeMQTTProtocolViolation     Code = "mqtt_protocol_violation"
)

// Codes of the checks of a negative run.
const (
	CodeForeignAccepted             Code = "foreign_accepted"
	CodeExpiredAccepted             Code = "expired_accepted"
	CodeNotYetValidAccepted         Code = "not_yet_valid_accepted"
	CodeWrongUsageAccepted          Code = "wrong_usage_accepted"
	CodeRevokedAccepted             Code = "revoked_accepted"
	CodeRevokedAcceptedByResumption Code = "revoked_accepted_by_resumption"
	CodeOldTLSAccepted              Code = "old_tls_accepted"
	CodePlaintextAccepted           Code = "plaintext_accepted"
	CodeRefusedAtMQTT               Code = "refused_at_mqtt"
	CodeControlFailed               Code = "control_failed"
	CodeCheckUndecided              Code = "check_undecided"
)

// facts fill the {placeholders} of a rule.
type facts map[string]string

// diagnose returns the diagnosis of the rule of code, filled with fs.
func diagnose(code Code, step StepName, fs facts) Diagnosis {
	r := rules[code]
	pairs := make([]string, 0, 2*len(fs))
	for k, v := range fs {
		pairs = append(pairs, "{"+k+"}", printable(v, 300))
	}
	fill := strings.NewReplacer(pairs...)
	return Diagnosis{
		Code: code, Severity: r.severity, Step: step,
		Message: fill.Replace(r.message), Fix: fill.Replace(r.fix),
	}
}

// sortDiagnoses puts errors first, then warnings, otherwise as found, and keeps
// at most maxErrors errors and one diagnosis of a code and step.
func sortDiagnoses(ds []Diagnosis) []Diagnosis {
	rank := map[Severity]int{SeverityError: 0, SeverityWarning: 1, SeverityInfo: 2}
	slices.SortStableFunc(ds, func(a, b Diagnosis) int { return rank[a.Severity] - rank[b.Severity] })
	kept, errs := make([]Diagnosis, 0, len(ds)), 0
	for _, d := range ds {
		same := func(k Diagnosis) bool { return k.Code == d.Code && k.Step == d.Step }
		if slices.ContainsFunc(kept, same) {
			continue
		}
		if d.Severity == SeverityError {
			if errs++; errs > maxErrors {
				continue
			}
		}
		kept = append(kept, d)
	}
	return kept
}

// undecided tells a code that leaves a run without a verdict of its own.
func undecided(c Code) bool { return c == CodeInterrupted || c == CodeCRLUnavailable }
