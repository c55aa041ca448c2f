package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/fleetca/fleetca/enroll/mqtts"
)

// target turns the flags into a target. Every error exits with exitUsage.
func (o verifyOptions) target(url string) (mqtts.Target, error) {
	t := mqtts.Target{
		URL: url, ServerName: o.serverName, ClientID: o.clientID, Username: o.username, Topic: o.topic,
		Version: o.mqtt, ALPN: o.alpn, SkipPublish: !o.publish, Timeout: o.timeout, StepTimeout: o.stepTimeout,
	}
	if _, err := mqtts.ParseURL(url); err != nil {
		return t, usageError(err, verifyUsage)
	}
	if err := o.checkFlags(); err != nil {
		return t, err
	}
	t.MinTLS, t.MaxTLS = tlsVersions[o.tls].min, tlsVersions[o.tls].max
	for _, load := range []func(*mqtts.Target) error{o.loadBundle, o.loadPair, o.loadMaterial, o.loadCRLs, o.loadPassword} {
		if err := load(&t); err != nil {
			return t, err
		}
	}
	if err := t.Validate(); err != nil {
		return t, usageError(err, "see fleetca verify --help")
	}
	return t, o.checkJUnit()
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
	case o.watch < 0:
		return usageError(errors.New("--watch must be above zero"), "for example --watch 30s")
	case o.resume && o.revoked == "":
		return usageError(errors.New("--resume needs a revoked certificate to connect with"), "add --revoked CERT,KEY")
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

func (o verifyOptions) loadPair(t *mqtts.Target) error {
	if o.cert == "" {
		return nil
	}
	var err error
	t.Certificate, err = readPair("cert", o.cert, "key", o.key)
	return err
}

// loadMaterial reads the client certificates of the checks. Any of them makes the
// run negative.
func (o verifyOptions) loadMaterial(t *mqtts.Target) error {
	t.Negative = o.negative || o.resume
	t.Material.Resume = o.resume
	foreign := o.foreign
	if foreign == "auto" {
		foreign = ""
	}
	for _, m := range []struct {
		flag, value string
		to          **tls.Certificate
	}{
		{"foreign", foreign, &t.Material.Foreign},
		{"expired", o.expired, &t.Material.Expired},
		{"not-yet-valid", o.notYetValid, &t.Material.NotYetValid},
		{"wrong-usage", o.wrongUsage, &t.Material.WrongUsage},
		{"revoked", o.revoked, &t.Material.Revoked},
	} {
		if m.value == "" {
			continue
		}
		cert, key, ok := strings.Cut(m.value, ",")
		if !ok || cert == "" || key == "" {
			return usageError(fmt.Errorf("--%s %s: is not CERT,KEY", m.flag, m.value),
				fmt.Sprintf("give two PEM files, for example --%s old.pem,old-key.pem", m.flag))
		}
		pair, err := readPair(m.flag, cert, m.flag, key)
		if err != nil {
			return err
		}
		*m.to, t.Negative = pair, true
	}
	return nil
}

// readPair reads a certificate, with its chain, and its key.
func readPair(certFlag, cert, keyFlag, key string) (*tls.Certificate, error) {
	certificate, err := readBounded(cert, maxInputFile)
	if err != nil {
		return nil, usageError(fmt.Errorf("client certificate %s: %w", cert, cause(err)), "give an existing PEM file with --"+certFlag)
	}
	private, err := readBounded(key, maxInputFile)
	if err != nil {
		return nil, usageError(fmt.Errorf("private key %s: %w", key, cause(err)), "give an existing PEM file with --"+keyFlag)
	}
	pair, err := tls.X509KeyPair(certificate, private)
	if err != nil {
		return nil, usageError(fmt.Errorf("the certificate %s and the key %s do not fit: %s", cert, key, strings.TrimPrefix(err.Error(), "tls: ")),
			"give a PEM certificate and the unencrypted PEM key that it was issued for")
	}
	return &pair, nil
}

// loadCRLs reads the CRLs of a file, or leaves those of a URL to the run: nothing
// is dialled before all that is given has been looked at.
func (o verifyOptions) loadCRLs(t *mqtts.Target) error {
	if strings.Contains(o.crl, "://") {
		u, err := url.Parse(o.crl)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			return usageError(errors.New("--crl is no http or https URL without user name"), "give a file, or a URL such as http://ca.example/crl/device.crl")
		}
		t.FetchCRLs = crlFetcher(u.String())
		return nil
	}
	if o.crl == "" {
		return nil
	}
	data, err := readBounded(o.crl, maxCRLInput)
	if err == nil {
		t.CRLs, err = parseCRLs(data)
	}
	if err != nil {
		return usageError(fmt.Errorf("CRL %s: %w", o.crl, cause(err)), "--crl takes a PEM or DER file of CRLs, or an http(s) URL")
	}
	return nil
}

func (o verifyOptions) loadPassword(t *mqtts.Target) error {
	if o.passwordFile == "" {
		return nil
	}
	data, err := readBounded(o.passwordFile, maxInputFile)
	if err != nil {
		return usageError(fmt.Errorf("password file %s: %w", o.passwordFile, cause(err)), "give an existing file with --password-file")
	}
	t.Password = strings.TrimRight(string(data), "\r\n")
	if t.Password == "" {
		return usageError(fmt.Errorf("password file %s: it is empty", o.passwordFile), "put the password on its first line")
	}
	return nil
}
