package mqtts

// refuseClient fails step session_keys because the broker refused our
// certificate, or the lack of one: by an alert, or with alert 0 by closing the
// connection. afterFinished tells that our side had finished (TLS 1.3).
func (a *attempt) refuseClient(alert int, text string, afterFinished bool) {
	a.rewind(StepSessionKeys)
	code := a.refusalCode(alert)
	a.rejection = &Refusal{Step: StepSessionKeys, Alert: alert, AfterFinished: afterFinished, Detail: text}
	if alert != 0 {
		a.rejection.AlertName = alertName(alert)
	}
	if code != CodeBrokerInternalError {
		a.refusal = a.rejection
	}
	fs := a.own.facts()
	fs["error"], fs["saw"], fs["why"] = text, "; the broker refused it ("+text+")", a.own.doubt()
	fs["what"] = "It probably rejected our certificate."
	a.explain(code, fs)
	when := "rejected in the handshake: "
	if afterFinished {
		when = "rejected after finished: "
	}
	a.fail(when+text, alert == 0)
}

// refusalCode names the cause of a refused client. Alerts are what the broker
// means only for some brokers: where one is ambiguous, what preflight found in
// our certificate decides.
func (a *attempt) refusalCode(alert int) Code {
	own := a.own
	standing := own.standing(a.acceptable)
	switch {
	case alert == alertInternalError:
		return CodeBrokerInternalError
	case alert == alertCertificateRequired, !a.presented():
		return CodeClientCertificateRequired
	case alert == alertCertificateRevoked:
		return CodeClientCertificateRevoked
	case alert == alertUnknownCA && standing == standingKnown:
		return CodeClientCRLMissing
	case alert == alertUnknownCA:
		return CodeClientUnknownCA
	}
	if code, ok := own.flaw(); ok {
		return code
	}
	switch {
	case alert == alertUnsupportedCertificate:
		return CodeClientWrongUsage
	case alert == alertCertificateExpired:
		return CodeBrokerCRLExpiredOrClock
	case standing == standingUnknown:
		return CodeClientUnknownCA
	case alert == alertBadCertificate:
		return CodeBrokerCRLExpiredOrClock
	case alert == 0:
		return CodeClientRejectedSilently
	}
	return CodeClientCertificateRefused
}

// doubt says what speaks against our chain, from the trust bundle's view.
func (p preflight) doubt() string {
	switch {
	case p.path.chain != nil:
		return ""
	case p.path.forged != nil:
		return " The trust bundle has an authority of that name under another key."
	case p.path.orphan != nil:
		return " Our chain ends at " + subjectOf(p.path.orphan) + ": its issuer's certificate is not sent along."
	}
	return ""
}

// presented tells whether the broker had a certificate of ours to look at: one
// sent now, or with the session that was resumed.
func (a *attempt) presented() bool {
	return a.sent || a.tls != nil && a.tls.Resumed && a.own.leaf != nil
}

// flaw returns what is wrong with our certificate by itself.
func (p preflight) flaw() (Code, bool) {
	switch {
	case p.expired:
		return CodeClientCertificateExpired, true
	case p.notYet:
		return CodeClientCertificateNotYet, true
	case p.wrongUsage:
		return CodeClientWrongUsage, true
	case p.revoked:
		return CodeClientCertificateRevoked, true
	}
	return "", false
}

// warnAboutFlaw notes a broker that accepted a certificate it should refuse.
func (a *attempt) warnAboutFlaw() {
	switch {
	case a.sent && a.own.leaf != nil:
		if code, ok := a.own.flaw(); ok {
			fs := a.own.facts()
			fs["saw"] = ", and the broker accepts it all the same"
			d := a.diagnosis(code, StepConnack, fs)
			d.Severity = SeverityWarning
			a.note(d)
		}
	case a.requested && !a.sent:
		a.note(a.diagnosis(CodeClientCertificateNotEnforced, StepConnack, facts{"asked": ""}))
	}
}
