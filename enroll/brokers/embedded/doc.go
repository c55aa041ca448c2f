// Package embedded is an MQTT broker inside this program: a real MQTTS listener
// with client certificates, revocation and a driver of its own, for
// demonstrations, tests and small sites. MQTT 3.1.1 and 5 come from
// mochi-mqtt; who may enter and what they may do is decided here.
//
// # Entering
//
//  1. A TCP connection is accepted; how many may wait before they are known,
//     and how long, is bounded, so that silent ones keep nobody out.
//  2. The TLS handshake, 1.2 or 1.3 (RFC 5246, RFC 8446). The certificate, the
//     trust anchors and the revocation lists are those of this moment: a swap
//     applies to the next handshake and leaves live sessions alone.
//  3. The client certificate is mandatory. On every handshake, resumed ones
//     too, it must chain to a trust anchor, be for clients, and not be on the
//     revocation list of its issuer. Without a current list of that issuer
//     nobody enters (fail closed).
//  4. CONNECT. The common name of the certificate is the identity and becomes
//     the MQTT user name; the password is ignored. Any client identifier will
//     do, unless a session of another identity has it.
//
// A broker may be started before it has a certificate or a revocation list. It
// then refuses every handshake, until [Broker.Install] and [Broker.LoadCRL] gave
// it both.
//
// # Topics
//
// Everybody may publish and subscribe anywhere outside of devices/. Inside, an
// identity has devices/IDENTITY/ and everything below it to itself. A wildcard
// that reaches further is refused where it names devices/, and otherwise
// delivers only what the identity may read.
//
// # Limits
//
// A packet is at most 1 MiB, a session outlives its connection by at most a
// day, and sessions, retained messages and queues live in memory: they do not
// survive a restart.
package embedded
