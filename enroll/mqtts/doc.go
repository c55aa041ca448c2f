// Package mqtts verifies an MQTTS broker from the outside: it connects the way
// a device does and reports, step by step, what happened, what is wrong and
// what mends it. It imports nothing but the standard library and
// golang.org/x/crypto/ocsp.
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
//  6. connect: CONNECT is sent inside TLS (MQTT 3.1.1 and 5.0 section 3.1).
//  7. connack: the broker accepts (section 3.2).
//  8. publish_subscribe: SUBSCRIBE, PUBLISH with QoS 1, and the message comes
//     back (sections 3.3, 3.8 and 3.9).
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
//   - with a request for a websocket, when HTTP or nothing came in place of CONNACK,
//     to the very broker that was verified before.
//
// # The verdict
//
// A run passes when no step failed and no error was diagnosed. It is
// inconclusive when it was interrupted before anything failed. A diagnosis names
// a cause, not an echo of the error: its [Code] is stable, its message is for a
// person, its fix is the next thing to do.
//
// # What it withstands
//
// Whatever a listener sends ends in a report within [Target.Timeout], with
// bounded memory (the bytes read before and after the handshake are capped) and
// with no goroutine left.
package mqtts
