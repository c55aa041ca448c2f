package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fleetca/fleetca/api/client"
)

// clientFlags are the flags of every command that calls the REST API.
type clientFlags struct {
	server      string // base URL
	tokenFile   string // file with the API token
	ca          string // PEM file with the root
	fingerprint string // or the root's SHA-256
	json        bool
	csv         bool // listings alone
}

// listing returns the format for a listing.
func (f *clientFlags) listing() format {
	switch {
	case f.json:
		return asJSON
	case f.csv:
		return asCSV
	}
	return asTable
}

func (f *clientFlags) add(set *pflag.FlagSet) {
	f.addServer(set)
	f.addToken(set)
	set.BoolVar(&f.json, "json", false, "print JSON")
	set.BoolVar(&f.csv, "csv", false, "print listings as CSV")
}

// addToken adds the flag of the credential.
func (f *clientFlags) addToken(set *pflag.FlagSet) {
	set.StringVar(&f.tokenFile, "token-file", "", "file with the API token")
}

// addServer adds the flags of the connection.
func (f *clientFlags) addServer(set *pflag.FlagSet) {
	set.StringVar(&f.server, "server", "", "base URL of the server, such as https://127.0.0.1:8443")
	set.StringVar(&f.ca, "ca", "", "PEM file with the authority's root (trust-bundle.pem)")
	set.StringVar(&f.fingerprint, "ca-fingerprint", "", "SHA-256 of the authority's root in hex, in place of --ca")
}

// newClientGroup returns a command whose commands call the REST API.
func newClientGroup(use, short string, commands ...func(*clientFlags) *cobra.Command) *cobra.Command {
	group := &cobra.Command{Use: use, Short: short}
	flags := &clientFlags{}
	flags.add(group.PersistentFlags())
	for _, c := range commands {
		group.AddCommand(c(flags))
	}
	return group
}

// open returns a client for the flags. Nothing is dialled yet.
func (f *clientFlags) open() (*client.Client, error) {
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, usageError(fmt.Errorf("read the API token: %w", err), "log in: fleetca login --token-out FILE; or mint one on the server: fleetca user token --role ROLE --data DIR")
		}
		if len(bytes.TrimSpace(text)) == 0 {
			return nil, usageError(fmt.Errorf("%s is empty", f.tokenFile), "mint a token on the server: fleetca user token --role ROLE --data DIR")
		}
		cfg.Token = client.Secret(strings.TrimSpace(string(text)))
	}
	c, err := client.New(cfg)
	return c, usageErrorOf(err)
}

// config returns the connection of the flags, without a credential.
func (f *clientFlags) config() (client.Config, error) {
	switch {
	case f.server == "":
		return client.Config{}, usageError(errors.New("--server is missing"), "give --server https://HOST:PORT, or set FLEETCA_SERVER")
	case f.ca == "" && f.fingerprint == "":
		return client.Config{}, usageError(errors.New("--ca and --ca-fingerprint are both missing"), "fleetca init printed the root's SHA-256; its trust-bundle.pem holds the root")
	case f.ca != "" && f.fingerprint != "":
		f.fingerprint = "" // the file says more
	}
	return client.Config{Server: f.server, CAFile: f.ca, CAFingerprint: f.fingerprint}, nil
}

// clientError gives an error of a call its hint line.
func clientError(err error) error {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return hinted(err, p.Hint())
	}
	return err
}
