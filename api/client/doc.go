// Package client calls the REST interface of package api.
//
//	c, err := client.New(client.Config{
//		Server:        "https://ca.example:8443",
//		Token:         client.Secret(os.Getenv("FLEETCA_TOKEN")),
//		CAFingerprint: "5f2c...", // as fleetca init printed it
//	})
//	d, err := c.CreateDevice(ctx, enroll.NewDevice{ID: "pump-7"})
//
// # Trust
//
// A server is trusted by what the caller gives, never by the system's roots:
// certificates, a file of them, or the SHA-256 fingerprint of the root. With a
// fingerprint, the client's first call fetches the trust bundle over a
// connection that it does not trust, without sending any credential, takes the
// one root that has the fingerprint, and verifies everything else with that
// root alone.
//
// # Errors
//
// What the server refuses is a *Problem, with its kind, fields and hints;
// errors.Is(err, ca.IsKind(kind)) asks for a kind. A server that cannot be
// reached or trusted, and a Config that cannot work, are *ca.Error with a hint.
//
// # Repetition
//
// Every POST carries an Idempotency-Key: a random one, or the caller's
// (IdempotencyKey). A caller who may have lost an answer, to a crash or a
// timeout, repeats the call with the same key and gets the first answer.
package client
