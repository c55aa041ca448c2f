package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
)

func newDeviceRenewCommand(flags *clientFlags) *cobra.Command {
	var dir string
	var rekey bool
	cmd := &cobra.Command{
		Use:   "renew --dir DIR",
		Short: "Renew a device's certificate, with the certificate it has",
		Long: `Renew the certificate in DIR/{chain,key}.pem, in place; --server is the machine
listener. With --rekey a new key is made in DIR/next-key.pem, and takes the place
of the old one once its certificate is there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageError(errors.New("--dir is missing"), "name the folder that device enroll wrote")
			}
			return renewDevice(cmd, flags, dir, rekey)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder that device enroll wrote")
	cmd.Flags().BoolVar(&rekey, "rekey", false, "make a new key")
	return cmd
}

func renewDevice(cmd *cobra.Command, flags *clientFlags, dir string, rekey bool) error {
	cfg, err := flags.config()
	if err != nil {
		return err
	}
	if err := finishRenewal(dir); err != nil { // one that was interrupted
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return usageError(fmt.Errorf("load the certificate to renew: %w", err), "--dir names the folder that device enroll wrote")
	}
	cfg.Certificate = &pair
	c, err := client.New(cfg)
	if err != nil {
		return usageErrorOf(err)
	}
	csr, key := "", pair.Leaf.SerialNumber.Text(16)
	if rekey {
		if csr, err = deviceCSR("", filepath.Join(dir, "next-key.pem"), pair.Leaf.Subject.CommonName); err != nil {
			return err
		}
		key = requestKey(csr)
	}
	e, err := c.Renew(cmd.Context(), csr, client.IdempotencyKey(key))
	if err != nil {
		return clientError(err)
	}
	if err := ca.ReplaceFile(filepath.Join(dir, "next-chain.pem"), []byte(e.Chain), 0o644); err != nil {
		return err
	}
	if err := finishRenewal(dir); err != nil {
		return err
	}
	return finishEnrollment(cmd, flags, e, dir)
}

// finishRenewal puts next-chain.pem, and next-key.pem where the key changes,
// in the place of what they renew. A renewal that was interrupted after its
// answer came is finished by the next one; without next-chain.pem there is
// nothing to do.
func finishRenewal(dir string) error {
	file := func(name string) string { return filepath.Join(dir, name) }
	chain, err := os.ReadFile(file("next-chain.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if key, err := os.ReadFile(file("next-key.pem")); err == nil {
		if _, err := tls.X509KeyPair(chain, key); err == nil {
			if err := os.Rename(file("next-key.pem"), file("key.pem")); err != nil {
				return err
			}
		}
	}
	if _, err := tls.LoadX509KeyPair(file("next-chain.pem"), file("key.pem")); err != nil {
		return hinted(fmt.Errorf("finish the renewal in %s: %w", dir, err), "remove next-chain.pem and renew again")
	}
	leaf, _ := pem.Decode(bytes.TrimSpace(chain))
	if err := ca.ReplaceFile(file("certificate.pem"), pem.EncodeToMemory(leaf), 0o644); err != nil {
		return err
	}
	if err := os.Rename(file("next-chain.pem"), file("chain.pem")); err != nil {
		return err
	}
	if err := os.Remove(file("next-key.csr.pem")); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
