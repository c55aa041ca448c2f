package mqtts

import (
	"crypto/tls"
	"errors"
)

// A choice is what a broker took of an offer.
type choice struct{ version, suite uint16 }

// An offer is a ClientHello that is tried to find out why a broker refused ours.
// Nothing but the broker's first answer is fetched over it.
type offer func(a *attempt, w *wire) (choice, bool)

// offers are the ones to try after a refusal of each kind: TLS 1.3, and
// everything older with every cipher suite however weak. A broker whose key does
// not work refuses them all.
var offers = map[Code][]offer{
	CodeTLSVersionMismatch: {(*attempt).offerModern, (*attempt).offerOld},
	CodeTLSCipherMismatch:  {(*attempt).offerOld, (*attempt).offerModern},
}

// refusedHello returns the code of an attempt that was refused by version or
// cipher suite, "" for others.
func (a *attempt) refusedHello() Code {
	if !a.stopped || a.step() != StepClientHello || a.ctx.Err() != nil {
		return ""
	}
	for _, d := range a.diagnoses {
		if offers[d.Code] != nil {
			return d.Code
		}
	}
	return ""
}

// tryOffers replaces the diagnosis of a refused ClientHello by what the broker
// would have taken.
func (a *attempt) tryOffers(refused Code) {
	refusal := a.steps[a.current].Detail
	for _, o := range offers[refused] {
		w, done, err := a.again(a.target.StepTimeout)
		if err != nil {
			return // nothing more is known than before
		}
		taken, ok := o(a, w)
		answered := len(w.first()) > 0
		done()
		if ok {
			a.explainChoice(taken, refusal)
			return
		}
		if !answered || a.ctx.Err() != nil {
			return
		}
	}
	a.diagnoses = nil
	a.explain(CodeServerBrokenKey, facts{"error": "it refuses every TLS version and cipher suite, old ones too (" + refusal + ")"})
}

func (a *attempt) explainChoice(taken choice, refusal string) {
	a.diagnoses = nil
	code, takes := CodeTLSVersionMismatch, tls.VersionName(taken.version)
	if taken.version >= a.target.MinTLS && taken.version <= a.target.MaxTLS {
		code, takes = CodeTLSCipherMismatch, tls.CipherSuiteName(taken.suite)+" in "+takes
	}
	a.explain(code, facts{"error": refusal, "takes": " It takes " + takes + "."})
}

// errEnough ends the handshake of an offer once the broker has answered it.
var errEnough = errors.New("the broker has answered")

// offerModern offers TLS 1.3.
func (a *attempt) offerModern(w *wire) (taken choice, ok bool) {
	_ = tls.Client(w, &tls.Config{
		ServerName: a.target.ServerName, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // nothing is sent: VerifyConnection ends the handshake
		VerifyConnection: func(s tls.ConnectionState) error {
			taken, ok = choice{s.Version, s.CipherSuite}, true
			return errEnough
		},
	}).Handshake() // its error is errEnough, or a refusal
	return taken, ok
}

// offerOld offers TLS 1.2 and older.
func (a *attempt) offerOld(w *wire) (choice, bool) {
	if _, err := w.Write(oldClientHello(tls.VersionTLS12, a.target.ServerName)); err != nil {
		return choice{}, false
	}
	version, suite, err := readServerHello(w)
	return choice{version, suite}, err == nil
}
