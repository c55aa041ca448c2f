package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// verifyOptions are the flags of fleetca verify.
type verifyOptions struct {
	ca, cert, key, crl     string
	serverName, clientID   string
	username, passwordFile string
	topic, mqtt, tls       string
	timeout, stepTimeout   time.Duration
	publish, json          bool
}

// newVerifyCommand returns fleetca verify. It needs no server.
func newVerifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify mqtts://HOST[:8883] --ca FILE",
		Short: "Verify a broker step by step, from TCP to a message that comes back",
		Long: `Verify connects to an MQTTS broker the way a device does and reports eight steps:
tcp, client_hello, server_certificate, verify, session_keys, connect, connack and
publish_subscribe, each with its result, its duration and the state of TCP, TLS
and MQTT after it. What is wrong is named with its cause and its fix.

The broker's certificate is held against --ca only, never against the system's
roots. When it does not hold, no byte of MQTT is sent.

Exit code: 0 verified, 1 failed, 2 wrong command line or file (nothing was
dialled), 3 inconclusive.`,
		Example: `  fleetca verify mqtts://broker.example --ca trust-bundle.pem --cert device.pem --key device-key.pem
  fleetca verify 10.0.0.7:8883 --server-name broker.example --ca trust-bundle.pem --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return usageError(fmt.Errorf("verify takes one broker, %d were given", len(args)),
				"fleetca verify mqtts://HOST[:8883] --ca FILE")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVerify(cmd.Context(), cmd.OutOrStdout(), o, args[0])
		},
	}
	o.addFlags(cmd)
	return cmd
}

func (o *verifyOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.ca, "ca", "", "trust bundle: a PEM or DER `file`, or a folder of them (required)")
	f.StringVar(&o.cert, "cert", "", "client certificate, with its chain: PEM `file`")
	f.StringVar(&o.key, "key", "", "private key of the client certificate: PEM `file`")
	f.StringVar(&o.crl, "crl", "", "CRLs to hold both sides' certificates against: PEM or DER `file`")
	f.StringVar(&o.serverName, "server-name", "", "`name` or IP address that the broker's certificate must carry (default the URL's host)")
	f.StringVar(&o.clientID, "client-id", "", "MQTT client `id` (default a random one)")
	f.StringVar(&o.username, "username", "", "MQTT user `name`")
	f.StringVar(&o.passwordFile, "password-file", "", "`file` with the MQTT password")
	f.StringVar(&o.topic, "topic", "", "`topic` to publish to and subscribe to (default a private one below "+mqtts.TopicPrefix+")")
	f.StringVar(&o.mqtt, "mqtt", mqtts.VersionAuto, "MQTT `version`: 3.1.1, 5 or auto")
	f.StringVar(&o.tls, "tls", "auto", "TLS `version`: 1.2, 1.3 or auto")
	f.DurationVar(&o.timeout, "timeout", mqtts.DefaultTimeout, "bound of the whole run")
	f.DurationVar(&o.stepTimeout, "step-timeout", mqtts.DefaultStepTimeout, "bound of each step")
	f.BoolVar(&o.publish, "publish", true, "publish a message and wait until it comes back")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
}

// runVerify verifies url and prints the report. Its error carries the exit code.
func runVerify(ctx context.Context, out io.Writer, o verifyOptions, url string) error {
	target, err := o.target(url)
	if err != nil {
		return err
	}
	report := mqtts.Verify(ctx, target)
	if err := printReport(out, report, o.json); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return verdictError(report)
}

func printReport(out io.Writer, r *mqtts.Report, asJSON bool) error {
	if !asJSON {
		return r.WriteText(out, isColourTerminal(out))
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// verdictError returns the exit code of a report.
func verdictError(r *mqtts.Report) error {
	switch r.Verdict {
	case mqtts.VerdictPass:
		return nil
	case mqtts.VerdictInconclusive:
		return &commandError{err: errors.New("verification inconclusive: it was interrupted"), code: exitInconclusive}
	}
	step, cause := "", "unknown cause"
	if s := r.Failed(); s != nil {
		step = " at " + string(s.Name)
	}
	if len(r.Diagnosis) > 0 {
		cause = string(r.Diagnosis[0].Code)
	}
	return &commandError{err: fmt.Errorf("verification failed%s: %s", step, cause), code: exitFail}
}

// target turns the flags into a target. Every error exits with exitUsage.
func (o verifyOptions) target(url string) (mqtts.Target, error) {
	t := mqtts.Target{
		URL: url, ServerName: o.serverName, ClientID: o.clientID, Username: o.username, Topic: o.topic,
		Version: o.mqtt, SkipPublish: !o.publish, Timeout: o.timeout, StepTimeout: o.stepTimeout,
	}
	if _, _, err := mqtts.SplitURL(url); err != nil {
		return t, usageError(err, "fleetca verify mqtts://HOST[:8883] --ca FILE")
	}
	if err := o.checkFlags(); err != nil {
		return t, err
	}
	t.MinTLS, t.MaxTLS = tlsVersions[o.tls].min, tlsVersions[o.tls].max
	for _, load := range []func(*mqtts.Target) error{o.loadBundle, o.loadPair, o.loadCRLs, o.loadPassword} {
		if err := load(&t); err != nil {
			return t, err
		}
	}
	if err := t.Validate(); err != nil {
		return t, usageError(err, "see fleetca verify --help")
	}
	return t, nil
}

// tlsVersions are the values of --tls.
var tlsVersions = map[string]struct{ min, max uint16 }{
	"auto": {tls.VersionTLS12, tls.VersionTLS13},
	"1.2":  {tls.VersionTLS12, tls.VersionTLS12},
	"1.3":  {tls.VersionTLS13, tls.VersionTLS13},
}

func (o verifyOptions) checkFlags() error {
	_, tlsKnown := tlsVersions[o.tls]
	mqttKnown := slices.Contains([]string{mqtts.VersionAuto, mqtts.Version311, mqtts.Version5}, o.mqtt)
	switch {
	case !tlsKnown:
		return usageError(fmt.Errorf("--tls %q: unknown TLS version", o.tls), "use 1.2, 1.3 or auto")
	case !mqttKnown:
		return usageError(fmt.Errorf("--mqtt %q: unknown MQTT version", o.mqtt), "use 3.1.1, 5 or auto")
	case o.timeout <= 0 || o.stepTimeout <= 0:
		return usageError(errors.New("--timeout and --step-timeout must be above zero"), "for example --timeout 8s --step-timeout 3s")
	case o.ca == "":
		return usageError(errors.New("no trust bundle given"),
			"--ca FILE with the certificates of the authorities that issue the broker's certificate")
	case o.cert != "" && o.key == "":
		return usageError(fmt.Errorf("--cert %s needs its private key", o.cert), "add --key FILE")
	case o.key != "" && o.cert == "":
		return usageError(fmt.Errorf("--key %s needs its certificate", o.key), "add --cert FILE")
	}
	return nil
}

func (o verifyOptions) loadBundle(t *mqtts.Target) error {
	files, err := bundleFiles(o.ca)
	if err != nil {
		return usageError(fmt.Errorf("trust bundle %s: %w", o.ca, cause(err)), "give an existing file or folder with --ca")
	}
	for _, file := range files {
		certs, err := readCertificates(file)
		if err != nil {
			return usageError(fmt.Errorf("trust bundle %s: %w", file, cause(err)),
				"--ca takes PEM or DER certificates of the authorities that issue the broker's certificate")
		}
		t.Roots = append(t.Roots, certs...)
	}
	if len(t.Roots) == 0 {
		return usageError(fmt.Errorf("trust bundle %s: no certificate in it", o.ca),
			"--ca takes PEM or DER certificates of the authorities that issue the broker's certificate")
	}
	return nil
}

// bundleFiles returns the files of a trust bundle: path itself, or the
// certificate files in the folder path.
func bundleFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".pem", ".crt", ".cer", ".der"}, strings.ToLower(filepath.Ext(e.Name()))) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, nil
}

// maxInputFile bounds the files that are read.
const maxInputFile = 64 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxInputFile+1))
	if err == nil && len(data) > maxInputFile {
		err = errors.New("larger than 64 MiB")
	}
	return data, err
}

// readCertificates returns the certificates in a PEM or DER file; none is no
// error, one that cannot be parsed is.
func readCertificates(path string) ([]*x509.Certificate, error) {
	blocks, err := readBlocks(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, der := range blocks {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("not a certificate: %w", err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// readBlocks returns the DER of the PEM blocks of a type in a file, or the file
// itself when it is DER.
func readBlocks(path, kind string) ([][]byte, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		if len(bytes.TrimSpace(data)) == 0 {
			return nil, nil
		}
		return [][]byte{data}, nil
	}
	var blocks [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == kind {
			blocks = append(blocks, block.Bytes)
		}
	}
	return blocks, nil
}

func (o verifyOptions) loadPair(t *mqtts.Target) error {
	if o.cert == "" {
		return nil
	}
	certificate, err := readBounded(o.cert)
	if err != nil {
		return usageError(fmt.Errorf("client certificate %s: %w", o.cert, cause(err)), "give an existing PEM file with --cert")
	}
	key, err := readBounded(o.key)
	if err != nil {
		return usageError(fmt.Errorf("private key %s: %w", o.key, cause(err)), "give an existing PEM file with --key")
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return usageError(fmt.Errorf("--cert %s and --key %s do not fit: %s", o.cert, o.key, strings.TrimPrefix(err.Error(), "tls: ")),
			"give a PEM certificate and the unencrypted PEM key that it was issued for")
	}
	t.Certificate = &pair
	return nil
}

func (o verifyOptions) loadCRLs(t *mqtts.Target) error {
	if o.crl == "" {
		return nil
	}
	blocks, err := readBlocks(o.crl, "X509 CRL")
	if err == nil && len(blocks) == 0 {
		err = errors.New("no CRL in it")
	}
	for _, der := range blocks {
		crl, parseErr := x509.ParseRevocationList(der)
		if parseErr != nil {
			err = fmt.Errorf("not a CRL: %w", parseErr)
			break
		}
		t.CRLs = append(t.CRLs, crl)
	}
	if err != nil {
		return usageError(fmt.Errorf("CRL %s: %w", o.crl, cause(err)), "--crl takes a PEM or DER file of CRLs")
	}
	return nil
}

func (o verifyOptions) loadPassword(t *mqtts.Target) error {
	if o.passwordFile == "" {
		return nil
	}
	data, err := readBounded(o.passwordFile)
	if err != nil {
		return usageError(fmt.Errorf("password file %s: %w", o.passwordFile, cause(err)), "give an existing file with --password-file")
	}
	t.Password = strings.TrimRight(string(data), "\r\n")
	if t.Password == "" {
		return usageError(fmt.Errorf("password file %s: it is empty", o.passwordFile), "put the password on its first line")
	}
	return nil
}

// cause strips the path that os errors repeat.
func cause(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
