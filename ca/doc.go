// Package ca is the certification authority (RFC 5280): issuers, profiles,
// and the one way to a signature.
//
// A certificate comes about in four steps, in Authority.Issue:
//
//  1. The order is checked: proof of possession and key policy when the
//     certification request was parsed (ParseRequest, RFC 2986), then profile,
//     names, and the clock.
//  2. It is signed, by smallstep's softcas with a key that
//     go.step.sm/crypto/kms opens, and what was signed is parsed again and
//     held against the order.
//  3. It is recorded: Recorder.Commit writes certificate, claim and audit
//     event in one durable transaction.
//  4. Only then is there a Certificate, whose bytes may leave the process.
//
// What a certificate looks like its Profile says, one version of it: built in, or
// read from a ProfileForm. ChangesOf compares two versions, LintProfile holds one
// against the issuers that there are, SampleProfile shows what it gives. An Audit
// holds what was issued against all of that.
//
// Revocation is a change of status in the ledger; what this package adds is
// how it is told:
//
//   - The certificate revocation list (RFC 5280, section 5): a number that is
//     reserved for good before anything is signed under it, entries that stay
//     until one scheduled CRL after their notAfter, and a check of every CRL
//     against its predecessor before it is released. Entries are kept as DER
//     from one CRL to the next: one more revocation costs a copy of them. An
//     issuer may have several CRLs, its shards; a certificate is on the one
//     that it names.
//   - OCSP (RFC 6960, 5019, 9654): Responder answers for every issuer, each
//     under a certificate of that issuer which it orders and replaces by
//     itself. Answers are signed when they are asked for, kept, and dropped
//     when the ledger says that a status changed, on whatever replica.
//
// All of smallstep/certificates and go.step.sm/crypto is used here and nowhere
// else.
package ca
