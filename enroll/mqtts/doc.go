// Package mqtts verifies an MQTTS broker from the outside: it connects the way
// a device does and reports, step by step, what happened, what is wrong and
// what mends it; then it tries what must not work, and reports whether it does
// not. It imports nothing but the standard library and golang.org/x/crypto.
//
//	report := mqtts.Verify(ctx, mqtts.Target{URL: "mqtts://broker.example", Roots: roots, Certificate: &pair})
//	if report.Verdict != mqtts.VerdictPass { ... report.Diagnosis ... }
//
// # The flow
//
// Eight steps, in this order, each with its result, its duration and the state
// of the three layers after it:
//
//  1. tcp: connect, to port 8883 by default (the registered port of MQTT over
//     TLS; 1883 is plaintext).
//  2. client_hello: the ClientHello is sent (RFC 8446 section 4.1.2, RFC 5246
//     section 7.4.1.2). The step holds when the first bytes that come back are
//     a ServerHello. A listener that speaks something else, or refuses our
//     versions and suites, fails here.
//  3. server_certificate: ServerHello and the certificate have arrived
//     (RFC 8446 sections 4.1.3 and 4.4.2).
//  4. verify: chain, name, validity, usage and revocation are checked against
//     the trust bundle of the caller (RFC 5280 section 6, RFC 9525), never against
//     the roots of the system. When this step fails the handshake is aborted:
//     neither our certificate nor any byte of MQTT is sent.
//  5. session_keys: both sides have finished and the channel is encrypted. In
//     TLS 1.3 the client finishes before the broker has looked at the client's
//     certificate (RFC 8446 section 4.4), so this step is provisional until the
//     broker says something. A broker that refuses our certificate afterwards
//     turns the step into a failure, "rejected after finished", and what follows
//     is skipped, even where CONNECT was already on the wire.
//  6. connect: CONNECT is sent inside TLS (MQTT 3.1.1 and 5.0 section 3.1). With
//     a wss:// URL the channel is first turned into a WebSocket (RFC 6455, MQTT
//     5.0 section 6); what refuses the upgrade fails this step.
//  7. connack: the broker accepts (section 3.2).
//  8. publish_subscribe: SUBSCRIBE, PUBLISH with QoS 1, and the message comes
//     back (sections 3.3, 3.8 and 3.9).
//
// # Where it is stricter than crypto/tls and crypto/x509
//
// A certificate without extended key usage is no server's. A stapled OCSP
// response is checked for its signer, serial number, status and times (RFC 6960),
// of which crypto/tls checks none, and a certificate that must be stapled is void
// without one (RFC 7633). The causes that x509.Verify reports as one
// "unknown authority" are told apart: an intermediate that was not sent, a root
// that is not in the bundle, and an authority of the bundle's name with another
// key. What works and should not stay is a warning: signatures by SHA-1, RSA keys
// below 2048 bits, a name in the common name only, a validity beyond 825 days, an
// intermediate that only our bundle had.
//
// # The negative run
//
// With [Target.Negative], ten checks follow a positive run that succeeded, the
// positive control: no certificate, one of a foreign authority, one of a rogue
// that has the trusted authority's names, an expired one, one of the future, one
// for other uses, a revoked one, MQTT without TLS, TLS 1.0 and 1.1, and a resumed
// session of the revoked certificate. Each differs from the control in one thing.
//
//   - A check passes when the broker said no: with an alert, in CONNACK (then with
//     a warning: only MQTT stands in the way), or by hanging up.
//   - It fails when CONNACK accepted.
//   - It is inconclusive when neither was seen: a broker that is silent has
//     refused nothing. Where it hung up without a word, the control is repeated
//     at the end, to tell a refusal from a broker that has died.
//   - It is skipped when there is nothing to try it with. What can be made on the
//     spot is: the foreign authority and the rogue. The rest needs the trusted
//     authority's signature, and is handed in as [Material].
//
// The certificate of a check is sent whether or not the broker lists its issuer:
// crypto/tls would leave it out without a word, and the check would test nothing.
//
// # Other connections
//
// To name a cause, a run may connect again, always within its deadline and
// through [Target.Control]:
//
//   - with MQTT 3.1.1, when version 5 was refused or met with silence;
//   - without TLS, when not a byte came back to the ClientHello: a CONNECT without
//     credentials and with a client id of its own, which a plaintext listener
//     answers;
//   - with other TLS versions and cipher suites, when ours were refused: a broker
//     that refuses them all has no key that works;
//   - with a request for a WebSocket, when HTTP or nothing came in place of
//     CONNACK, or when the path of the URL was refused, to the very broker that
//     was verified before.
//
// # The verdict
//
// A run fails when a step failed, an error was diagnosed, or a check failed. It is
// inconclusive when nothing failed, but something could not be decided: the run
// was interrupted, a CRL could not be fetched, a check saw neither acceptance nor
// refusal. Otherwise it passes; skipped checks never count. A diagnosis names a
// cause, not an echo of the error: its [Code] is stable, its message is for a
// person, its fix is the next thing to do. DIAGNOSES.md has all of them.
//
// # What it withstands
//
// Whatever a listener sends ends in a report within [Target.Timeout], with
// bounded memory (the bytes read before and after the handshake are capped) and
// with no goroutine left. SPEED.md has what a run costs.
package mqtts
