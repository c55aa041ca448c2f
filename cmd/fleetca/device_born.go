package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

// A bornDevice is what device enroll --idevid works with.
type bornDevice struct {
	pair     string // files of its manufacturer's certificate and key: CERT,KEY
	csr, out string
	others   string // what stands beside --idevid and may not
}

// enrollBorn enrolls a device by its manufacturer's certificate.
func enrollBorn(cmd *cobra.Command, flags *clientFlags, r enroll.EnrollRequest, d bornDevice) error {
	certFile, keyFile, found := strings.Cut(d.pair, ",")
	switch {
	case !found:
		return usageError(fmt.Errorf("--idevid %.100s is no pair of files", d.pair), "write --idevid CERT,KEY")
	case d.others != "":
		return usageError(errors.New("--idevid admits one device, by itself"), "leave --csv and --enrollment-token-file out")
	case d.out == "":
		return usageError(errors.New("--out is missing"), "name the folder for the certificate")
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return usageError(fmt.Errorf("load the manufacturer's certificate: %w", err), "--idevid CERT,KEY names two PEM files that belong together")
	}
	cfg, err := flags.config()
	if err != nil {
		return err
	}
	cfg.Certificate = &pair
	c, err := client.New(cfg)
	if err != nil {
		return usageErrorOf(err)
	}
	if r.CSR, err = deviceCSR(d.csr, filepath.Join(d.out, "key.pem"), r.DeviceID); err != nil {
		return err
	}
	e, err := c.Enroll(cmd.Context(), r, client.IdempotencyKey(requestKey(r.CSR)))
	if err != nil {
		return clientError(err)
	}
	return finishEnrollment(cmd, flags, e, d.out)
}
