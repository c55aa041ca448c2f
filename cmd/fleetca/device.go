package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newDeviceCommand() *cobra.Command {
	return newClientGroup("device", "Enroll, show, hold, revoke devices",
		newDeviceEnrollCommand, newDeviceRenewCommand, newDeviceListCommand, newDeviceShowCommand,
		newDeviceRegisterCommand, newDeviceHoldCommand, newDeviceReleaseCommand, newDeviceRevokeCommand,
		newDeviceRetireCommand, newDeviceRenewalLinkCommand)
}

func newDeviceEnrollCommand(flags *clientFlags) *cobra.Command {
	var r enroll.EnrollRequest
	var csrFile, tokenFile, rosterFile, birth, out string
	cmd := &cobra.Command{
		Use:   "enroll ID --out DIR | enroll --csv FILE --out DIR | enroll --idevid CERT,KEY --out DIR",
		Short: "Get a device's first certificate, or those of a whole list",
		Long: `Get a device's first certificate, with the key made here: DIR/key.pem, and
then DIR/{certificate,chain,trust-bundle}.pem. Run again after an error it uses
the same key and gets the same certificate; when that is not good any more, that
is said, no file is changed, and the exit code is 1. With --csr the key stays
elsewhere.

With --csv the devices of a CSV file are enrolled over one stream, each into
DIR/ID. The file's first line names its columns: deviceId, and where they differ
from the flags csr (a PEM file, relative to the CSV file; without it the key is
made here), workOrder, profile, attributes.NAME. What is refused is listed, and
kept in DIR/failures.csv; the exit code is 1 then. Run again with the same file
it goes on where it was broken off: devices that have their files are left
alone, the others get the same certificates as an interrupted run made.

With --idevid the device's certificate of its manufacturer is what admits it;
--server is the machine listener, and the manifest says the device's id.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if birth != "" {
				r.DeviceID = strings.Join(args, "")
				return enrollBorn(cmd, flags, r, bornDevice{pair: birth, csr: csrFile, out: out, others: rosterFile + tokenFile})
			}
			if (len(args) == 1) == (rosterFile != "") {
				return usageError(errors.New("give one device id, or --csv"), "fleetca device enroll ID --out DIR, or fleetca device enroll --csv FILE --out DIR")
			}
			if out == "" {
				return usageError(errors.New("--out is missing"), "name the folder for the certificate")
			}
			if tokenFile != "" {
				text, err := os.ReadFile(tokenFile)
				if err != nil {
					return usageError(err, "give the file with the enrollment token")
				}
				r.Token = strings.TrimSpace(string(text))
			}
			if rosterFile != "" {
				if csrFile != "" {
					return usageError(errors.New("--csr is for one device"), "name the requests in the file's column csr")
				}
				return enrollRoster(cmd, flags, rosterFile, out, r)
			}
			r.DeviceID = args[0]
			c, err := flags.open()
			if err != nil {
				return err
			}
			if r.CSR, err = deviceCSR(csrFile, filepath.Join(out, "key.pem"), r.DeviceID); err != nil {
				return err
			}
			e, err := c.Enroll(cmd.Context(), r, client.IdempotencyKey(requestKey(r.CSR)))
			if err != nil {
				return clientError(err)
			}
			return finishEnrollment(cmd, flags, e, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "folder for key and certificate, with --csv for a folder a device; made when missing")
	f.StringVar(&rosterFile, "csv", "", "CSV file with the devices, in place of ID")
	f.StringVar(&csrFile, "csr", "", "PEM file with a certification request, in place of a key made here")
	f.StringVar(&tokenFile, "enrollment-token-file", "", "file with an enrollment token")
	f.StringVar(&birth, "idevid", "", "the device's certificate of its manufacturer, with the chain to its authority, and its key: CERT,KEY")
	f.StringVar(&r.WorkOrder, "work-order", "", "work order that the device is built for")
	f.StringVar(&r.Profile, "profile", "", "profile (default: the work order's)")
	f.StringToStringVar(&r.Attributes, "attribute", nil, "attributes, NAME=VALUE")
	return cmd
}

// requestKey is the idempotency key of a request: made of it, so that a retry
// in another process has the same.
func requestKey(csr string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(csr)).String()
}

// deviceCSR returns the request of a file, or one for the key in keyFile,
// which is made when missing.
func deviceCSR(csrFile, keyFile, commonName string) (string, error) {
	if csrFile != "" {
		text, err := os.ReadFile(csrFile)
		if err != nil {
			return "", usageError(err, "--csr names a PEM file, as openssl req -new writes it")
		}
		return string(text), nil
	}
	key, err := loadOrMakeKey(keyFile)
	if err != nil {
		return "", err
	}
	// Kept beside the key: signed anew, an ECDSA request is another text. One of a
	// key that is gone is of no use.
	kept := strings.TrimSuffix(keyFile, ".pem") + ".csr.pem"
	if text, err := os.ReadFile(kept); err == nil {
		if request, err := ca.ParseRequest("csr", text); err == nil && key.PublicKey.Equal(request.PublicKey) {
			return string(text), nil
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	if err != nil {
		return "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return string(text), ca.ReplaceFile(kept, text, 0o644)
}

// loadOrMakeKey returns the P-256 key in a file, made when there is none.
func loadOrMakeKey(path string) (*ecdsa.PrivateKey, error) {
	if text, err := os.ReadFile(path); err == nil {
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, usageError(fmt.Errorf("%s holds no PEM key", path), "move it away, or choose another --out")
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, usageError(fmt.Errorf("%s: %w", path, err), "move it away, or choose another --out")
		}
		if k, ok := key.(*ecdsa.PrivateKey); ok {
			return k, nil
		}
		return nil, usageError(fmt.Errorf("%s holds a %T", path, key), "use --csr for keys that are not ECDSA")
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, ca.WriteNewFile(path, text, 0o600)
}

// finishEnrollment writes what was issued to a folder, and says so. What was
// given again and is not good any more is shown, not written, and an error.
func finishEnrollment(cmd *cobra.Command, flags *clientFlags, e *enroll.Enrollment, out string) error {
	useless := notGood(e)
	if useless == nil {
		if err := writeEnrollment(out, e); err != nil {
			return err
		}
	}
	if err := printEnrollment(cmd, flags, e, out); err != nil {
		return err
	}
	return useless
}

// notGood returns why no broker admits the certificate of an enrollment, and
// what to do; nil when it is good.
func notGood(e *enroll.Enrollment) error {
	c := e.Certificate
	var hint string
	switch c.Status {
	case ca.StatusHeld:
		hint = fmt.Sprintf("release the device, and run this again: fleetca device release %s", e.DeviceID)
	case ca.StatusRevoked:
		hint = fmt.Sprintf("see fleetca device show %s: a device that is revoked stays so, enroll it under another id; "+
			"one that is active gets another certificate by fleetca device renewal-link %[1]s, with another --out", e.DeviceID)
	case ca.StatusExpired:
		hint = fmt.Sprintf("get another by fleetca device renewal-link %s, with another --out", e.DeviceID)
	default:
		return nil
	}
	return hinted(fmt.Errorf("certificate %s of device %s was issued before, and is %s", c.SerialNumber, e.DeviceID, c.Status), hint)
}

func printEnrollment(cmd *cobra.Command, flags *clientFlags, e *enroll.Enrollment, out string) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), e)
	}
	facts := []string{"device", e.DeviceID, "serial number", string(e.Certificate.SerialNumber)}
	if e.Replayed {
		facts = append(facts, "given again", "issued before, "+string(e.Certificate.Status))
	}
	facts = append(facts, "expires", day(e.Certificate.NotAfter))
	if notGood(e) != nil {
		return printFacts(cmd.OutOrStdout(), facts...)
	}
	facts = append(facts, "folder", out)
	if e.Renewal != nil {
		facts = append(facts, "renew after", day(e.Renewal.After))
	}
	if e.Broker != nil {
		facts = append(facts, "broker", e.Broker.URL)
	}
	for _, warning := range e.Warnings {
		facts = append(facts, "warning", warning)
	}
	return printFacts(cmd.OutOrStdout(), facts...)
}

// writeEnrollment writes certificate.pem, chain.pem and trust-bundle.pem.
func writeEnrollment(dir string, e *enroll.Enrollment) error {
	return errors.Join(
		os.MkdirAll(dir, 0o700),
		ca.ReplaceFile(filepath.Join(dir, "certificate.pem"), []byte(e.Certificate.PEM()), 0o644),
		ca.ReplaceFile(filepath.Join(dir, "chain.pem"), []byte(e.Chain), 0o644),
		ca.ReplaceFile(filepath.Join(dir, "trust-bundle.pem"), []byte(e.TrustBundle.PEM), 0o644),
	)
}
