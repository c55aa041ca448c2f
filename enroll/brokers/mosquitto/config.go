package mosquitto

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"

	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// timeLayout is that of log_timestamp_format below.
const timeLayout = "2006-01-02T15:04:05-0700"

// config is mosquitto.conf. Options of a listener stand after it: before it
// they would make Mosquitto open another one, without TLS.
func (s *Settings) config(dir string) []byte {
	var b bytes.Buffer
	in := func(name string) string { return filepath.Join(dir, name) }
	fmt.Fprintf(&b, "# Written by fleetca for the broker %s. Start it with\n#   mosquitto -c %s\n", s.ID, in(configFile))
	b.WriteString("# once fleetca has put its certificate, the clients' CAs and a revocation list here.\n")
	b.WriteString("# fleetca reads the log: leave its lines as they are.\n\n")
	b.WriteString("per_listener_settings true\n")
	if s.User != "" {
		fmt.Fprintf(&b, "user %s\n", s.User)
	}
	fmt.Fprintf(&b, "pid_file %s\n\n", in(pidFile))
	fmt.Fprintf(&b, "log_dest file %s\nlog_timestamp true\nlog_timestamp_format %%Y-%%m-%%dT%%H:%%M:%%S%%z\n", in(logFile))
	b.WriteString("log_type error\nlog_type warning\nlog_type notice\nlog_type information\nconnection_messages true\n\n")
	fmt.Fprintf(&b, "persistence true\npersistence_location %s/\npersistence_file mosquitto.db\nautosave_interval 300\n", in(runDir))
	b.WriteString("persistent_client_expiration 7d\n\n")
	b.WriteString("max_packet_size 1048576\nmax_inflight_messages 20\nmax_queued_messages 1000\n\n")
	host, port, _ := net.SplitHostPort(s.Listen) // it was checked
	if host != "" {
		host = " " + host
	}
	fmt.Fprintf(&b, "listener %s%s\nmax_connections %d\n", port, host, s.MaxConnections)
	fmt.Fprintf(&b, "cafile %s\n", in(clientsFile))
	fmt.Fprintf(&b, "certfile %s\n", in(filepath.Join("broker", brokers.CertificateFile)))
	fmt.Fprintf(&b, "keyfile %s\n", in(filepath.Join("broker", brokers.KeyFile)))
	fmt.Fprintf(&b, "crlfile %s\n", in(crlFile))
	b.WriteString("require_certificate true\nuse_identity_as_username true\nallow_anonymous false\n")
	fmt.Fprintf(&b, "acl_file %s\n", in(aclFile))
	fmt.Fprintf(&b, "plugin %s\nplugin_opt_config_file %s\n", s.Plugin, in(dynsecFile))
	return b.Bytes()
}

// acl is the access list. What is not granted is denied.
func (s *Settings) acl() []byte {
	var b bytes.Buffer
	b.WriteString("# Everybody: their own topics, %u being the common name of the certificate,\n")
	b.WriteString("# and one for fleetca verify, %c being the client identifier. Add yours, and\n")
	b.WriteString("# have Mosquitto reload: kill -HUP.\n")
	b.WriteString("pattern readwrite devices/%u/#\n")
	fmt.Fprintf(&b, "pattern readwrite %s%%c\n\n", mqtts.TopicPrefix)
	for _, name := range s.Applications {
		fmt.Fprintf(&b, "user %s\ntopic readwrite devices/#\n\n", name)
	}
	b.WriteString("# fleetca itself: it closes sessions.\n")
	fmt.Fprintf(&b, "user %s\ntopic readwrite %s\ntopic read %s\n", s.Control, controlTopic, responseTopic)
	return b.Bytes()
}

// dynsec is the plugin's empty configuration. It has no clients, and denies
// nothing that the access list grants.
const dynsec = `{"defaultACLAccess": {"publishClientSend": false, "publishClientReceive": false, "subscribe": false, "unsubscribe": false},
 "clients": [], "groups": [], "roles": []}
`

func encodeCertificates(certificates []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, certificate := range certificates {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	}
	return b.Bytes()
}
