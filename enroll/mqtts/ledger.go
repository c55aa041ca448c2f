package mqtts

import "time"

// A ledger keeps the steps of an attempt as they happen.
type ledger struct {
	steps     []Step
	diagnoses []Diagnosis
	current   int       // index of the step under way
	began     time.Time // when it began
	last      State     // after the step before
	stopped   bool      // a step failed or the run was interrupted: the rest is skipped
}

func newLedger() *ledger {
	l := &ledger{last: State{TCPClosed, TLSNotStarted, MQTTDisconnected}}
	for _, n := range stepNames {
		l.steps = append(l.steps, Step{Name: n, Result: ResultSkipped, State: l.last})
	}
	return l
}

// passedStates are the states after each step that passed.
var passedStates = map[StepName]State{
	StepTCP:               {TCPEstablished, TLSNotStarted, MQTTDisconnected},
	StepClientHello:       {TCPEstablished, TLSInProgress, MQTTDisconnected},
	StepServerCertificate: {TCPEstablished, TLSInProgress, MQTTDisconnected},
	StepVerify:            {TCPEstablished, TLSCertificateVerified, MQTTDisconnected},
	StepSessionKeys:       {TCPEstablished, TLSSecureChannelReady, MQTTDisconnected},
	StepConnect:           {TCPEstablished, TLSSecureChannelReady, MQTTDisconnected},
	StepConnack:           {TCPEstablished, TLSSecureChannelReady, MQTTConnected},
	StepPublishSubscribe:  {TCPEstablished, TLSSecureChannelReady, MQTTSecure},
}

// step returns the name of the step under way.
func (l *ledger) step() StepName { return stepNames[l.current] }

// begin starts the clock of the step under way.
func (l *ledger) begin() { l.began = time.Now() }

// pass ends the step under way and starts the next one.
func (l *ledger) pass(detail string) {
	s := &l.steps[l.current]
	s.Result, s.Detail = ResultPass, printable(detail, 300)
	l.end(passedStates[s.Name])
	if l.current < len(l.steps)-1 {
		l.current++
	}
	l.begin()
}

// fail ends the step under way and skips the rest. gone tells that the broker
// closed the connection.
func (l *ledger) fail(detail string, gone bool) {
	s := &l.steps[l.current]
	s.Result, s.Detail = ResultFail, printable(detail, 300)
	l.end(l.failedState(s.Name, gone))
	l.skipRest()
}

// interrupt ends the step under way without a result and skips the rest.
func (l *ledger) interrupt() {
	l.steps[l.current].Detail = "interrupted"
	l.steps[l.current].DurationMs = milliseconds(time.Since(l.began))
	l.note(diagnose(CodeInterrupted, l.step(), nil))
	l.current--
	l.skipRest()
}

func (l *ledger) end(state State) {
	s := &l.steps[l.current]
	s.State, s.DurationMs = state, milliseconds(time.Since(l.began))
	l.last = state
}

func (l *ledger) failedState(name StepName, gone bool) State {
	s := l.last
	switch name {
	case StepClientHello, StepServerCertificate, StepVerify, StepSessionKeys:
		s.TLS = TLSFailed
	}
	if gone {
		s.TCP, s.MQTT = TCPClosed, MQTTDisconnected
	}
	return s
}

// skipRest skips every step after the one under way: by then the connection is
// closed.
func (l *ledger) skipRest() {
	l.stopped = true
	state := State{TCPClosed, l.last.TLS, MQTTDisconnected}
	for i := l.current + 1; i < len(l.steps); i++ {
		l.steps[i] = Step{Name: stepNames[i], Result: ResultSkipped, State: state}
	}
}

// skipLast skips the step under way, the last, because it was not asked for.
func (l *ledger) skipLast() {
	s := &l.steps[l.current]
	s.Detail, s.State = "not asked for", l.last
}

// rewind goes back to a step that passed, to fail it: what came after it is
// undone. The step's duration then includes what was undone.
func (l *ledger) rewind(to StepName) {
	for l.step() != to {
		l.current--
		l.began = l.began.Add(-time.Duration(l.steps[l.current].DurationMs * float64(time.Millisecond)))
	}
	if l.current > 0 {
		l.last = l.steps[l.current-1].State
	}
}

// note adds a diagnosis.
func (l *ledger) note(ds ...Diagnosis) { l.diagnoses = append(l.diagnoses, ds...) }

// seal orders the diagnoses and marks the steps that passed with a warning.
func (l *ledger) seal() {
	l.diagnoses = sortDiagnoses(l.diagnoses)
	for _, d := range l.diagnoses {
		for i := range l.steps {
			s := &l.steps[i]
			if s.Name == d.Step && s.Result == ResultPass && d.Severity == SeverityWarning {
				s.Result = ResultWarn
			}
		}
	}
}
