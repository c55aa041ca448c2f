// Package brokers acts on MQTT brokers: it gives them certificates and
// revocation lists, and it lists and ends their sessions.
//
// A [Driver] is what rotation and revocation need of one broker. There is one
// driver a kind of broker, each in its own package below this one; all share
// the three parts that are the same everywhere and that go wrong most often.
//
// # The certificate: generations
//
// A broker reads two files, a certificate and its key, and they must match at
// every instant, also after a crash or a power cut between two writes.
// [Generations] therefore never changes a file that a broker may read:
//
//  1. [Generations.Request] makes a key beside the broker and returns a
//     certificate request (PKCS #10, RFC 2986). The key is staged: on disk,
//     not in use. It never leaves the machine.
//  2. [Generations.Install] takes the issued chain, finds the staged key by its
//     public key, and writes both into a new folder, which is a generation.
//  3. One symbolic link is swapped by rename(2) from the old generation to the
//     new one. Whatever happens, the link points to a complete, matching pair.
//  4. The broker reloads. If it cannot, the link goes back.
//
// The old generation is kept for [Generations.Rollback].
//
// # Revocation: the guard
//
// What a broker does with a bad revocation list is not to be relied on: some
// readmit every revoked device, some stop, some lock the whole fleet out. So a
// list is checked before a broker sees it. [Guard] admits a [Bundle] whole or
// not at all (RFC 5280 sections 5 and 6.3): one list for each issuer, signed by
// it, current, newer than the last one, and covering the distribution points
// named in the certificates that it is to judge. [CRLFile] then replaces the
// last good bundle atomically.
//
// # Sessions
//
// A revoked device that is connected stays connected on every broker known to
// us, because certificates are looked at in the handshake only. [Session] and
// [Driver].Disconnect close that gap, and the sessions' identifiers show that
// a rotation dropped nobody.
package brokers
