// Package mosquitto drives an Eclipse Mosquitto that runs on this host: its
// certificate, its revocation lists, and the sessions of its clients.
//
// # The folder
//
// [WriteConfig] writes a folder, and [Open] a [Driver] on it. A person starts the
// broker, `mosquitto -c DIR/mosquitto.conf`, once the driver was given a
// certificate, the CAs of the clients and a revocation list: Mosquitto does not
// start without these files.
//
//	DIR/mosquitto.conf, acl          how it listens, and who may do what
//	DIR/fleetca.json                 the Settings
//	DIR/broker -> .broker/...        certificate and key; see brokers.Generations
//	DIR/clients.pem                  the CAs of client certificates
//	DIR/crl.pem                      the last good revocation lists
//	DIR/.sessions.json, .closed.json what the driver has seen in the log, and closed
//	DIR/run/                         Mosquitto's own: log, pid file, database
//
// Mosquitto runs as the user who owns the folder, or is started by root and then
// becomes [Settings].User. In the second case the driver runs as root: the key in
// use is readable by that user's group, and run/ belongs to it. Nothing but run/
// is writable for Mosquitto.
//
// # The certificate
//
// Mosquitto reads its files again on SIGHUP, and sessions stay. What it does with
// a certificate and a key that do not match is not to be relied on, so that:
//
//  1. [brokers.Generations] swaps certificate and key as one;
//  2. the pid file must name a process that is a Mosquitto with our
//     configuration and that has come far enough to survive a SIGHUP;
//  3. SIGHUP is sent, and the log must say that the configuration was reloaded;
//  4. a TLS handshake (RFC 8446) must show the new leaf, or else the generation
//     before becomes active again and is reloaded.
//
// A Mosquitto that does not run is no error: it reads the files when it starts,
// after it has written its pid file.
//
// # Revocation
//
// With crlfile, missing, empty or malformed at SIGHUP, Mosquitto 2.0 admits every
// revoked device. A [brokers.Guard] therefore looks at a bundle first, and the
// last good one is kept. Each SIGHUP begins a new set of CAs and lists: two lists
// of the same second are no trouble, a CA that is taken away is gone, and a TLS
// session from before cannot be resumed by a client that was revoked since.
//
// # Sessions
//
// Mosquitto has no list of its clients. The driver follows the log, which has a
// line for each connection, for each CONNECT with client identifier and user name
// (the common name of the certificate), and for each end. It reads on after the
// log was rotated and after its own restart, renames a log that has grown to 16
// MiB, and keeps one old one. It does not see
//
//   - the serial number of a client's certificate: Session.SerialNumber is empty;
//   - the identity of a client whose identifier has more than about 900 bytes,
//     because Mosquitto cuts the line: Session.Identity is empty;
//   - sessions from before the oldest log that is left, when it meets a running
//     Mosquitto for the first time, and what was cut off a log by truncation
//     (copytruncate) between two looks.
//
// # Closing sessions
//
// Taking a client identifier over ends one session, if its identifier is known.
// The driver instead asks Mosquitto's own dynamic security plugin: a client of
// that name is created and deleted, and with it goes every session of the
// identity, whatever its identifier, with reason 0x98 in MQTT 5. Whether they went
// is seen in the log. The plugin keeps no clients; the access list decides alone.
//
// A client can finish its handshake, be revoked, and send CONNECT only then:
// Mosquitto waits for about 95 seconds, and longer for a slow one. A session of an
// identity that was closed is therefore closed again, by the driver, when its TCP
// connection is older than that.
//
// # Limits
//
// Every client that is admitted may take over another's client identifier, which
// ends that session and hands over what was queued for it. Mosquitto can only
// prevent this by use_username_as_clientid, which allows one session a certificate.
//
// Measured with Mosquitto 2.0.11 on Linux; processes are looked at in /proc.
package mosquitto
