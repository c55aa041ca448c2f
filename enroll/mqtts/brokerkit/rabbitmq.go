package brokerkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rabbitConfig is RabbitMQ's, with a listener of each sort for MQTT and none
// for AMQP.
const rabbitConfig = `
listeners.tcp = none
log.console = true
log.console.level = warning
log.file = false
default_user = %[3]s
default_pass = %[4]s
mqtt.allow_anonymous = true
mqtt.default_user = %[3]s
mqtt.default_pass = %[4]s
mqtt.listeners.tcp.1 = 127.0.0.1:%[2]d
mqtt.listeners.ssl.1 = 127.0.0.1:%[1]d
web_mqtt.tcp.listener = none
`

// rabbitAdvanced has the options of the TLS listeners, in the file's older form:
// the newer one cannot make web_mqtt require a certificate, nor name CRLs.
const rabbitAdvanced = `[
 {rabbit, [{ssl_options, [%[1]s]}]},
 {rabbitmq_web_mqtt, [{ssl_config, [{ip, "127.0.0.1"}, {port, %[2]d}, %[1]s]}]}
].
`

// rabbitTLS returns the options of a TLS listener.
func rabbitTLS(dir folder, crls bool) string {
	options := fmt.Sprintf(`{cacertfile, %q}, {certfile, %q}, {keyfile, %q},
  {verify, verify_peer}, {fail_if_no_peer_cert, true}, {versions, ['tlsv1.3', 'tlsv1.2']}`, dir.path(caFile), dir.path(chainFile), dir.path(keyFile))
	if crls {
		options += fmt.Sprintf(`, {crl_check, true}, {crl_cache, {ssl_crl_hash_dir, {internal, [{dir, %q}]}}}`, dir.path("crls"))
	}
	return options
}

// startRabbitMQ runs RabbitMQ with its plugins for MQTT and for MQTT over
// websockets.
func startRabbitMQ(t testing.TB, s Setup) *Broker {
	t.Helper()
	find(t, "rabbitmq-server", "rabbitmq-server")
	const script = "/usr/lib/rabbitmq/bin/rabbitmq-server" // without Debian's user and folders
	dir, free, epmd := newFolder(t), ports(t, 4), startEPMD(t)
	if err := installRabbit(dir, s); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"rabbitmq.conf": fmt.Sprintf(rabbitConfig, free[0], free[2], User, Password), "enabled_plugins": "[rabbitmq_mqtt, rabbitmq_web_mqtt].\n",
		"advanced.config": fmt.Sprintf(rabbitAdvanced, rabbitTLS(dir, s.CRLs != nil), free[1]), "env.conf": "",
	}
	for name, content := range files {
		if _, err := dir.write(name, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(script)
	cmd.Dir = string(dir)
	cmd.Env = append(os.Environ(), "HOME="+string(dir), fmt.Sprintf("ERL_EPMD_PORT=%d", epmd), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=interop@localhost", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", fmt.Sprintf("RABBITMQ_DIST_PORT=%d", free[3]),
		"RABBITMQ_CONF_ENV_FILE="+dir.path("env.conf"), "RABBITMQ_CONFIG_FILE="+dir.path("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+dir.path("advanced.config"), "RABBITMQ_ENABLED_PLUGINS_FILE="+dir.path("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE="+dir.path("mnesia"), "RABBITMQ_LOG_BASE="+dir.path("log"), "RABBITMQ_GENERATED_CONFIG_DIR="+dir.path("generated"),
		"RABBITMQ_SCHEMA_DIR="+dir.path("schema"), "RABBITMQ_PID_FILE="+dir.path("pid"), "RABBITMQ_ALLOW_INPUT=1")
	n := node{run(t, cmd)}
	if err := n.await(free[:3]...); err != nil || !n.awaitOutput(0, "completed with 2 plugins", startTimeout) {
		t.Fatalf("rabbitmq-server does not run: %v\n%s", err, n.out.tail())
	}
	return &Broker{
		MQTTS: mqttsURL(free[0]), WSS: fmt.Sprintf("wss://127.0.0.1:%d/ws", free[1]), Plain: mqttsURL(free[2]),
		reload: func(s Setup) error {
			if err := installRabbit(dir, s); err != nil {
				return err
			}
			return n.eval("ssl:clear_pem_cache()")
		},
	}
}

// installRabbit writes a Setup, with the CRLs in a folder of their own under the
// hashed names that OpenSSL's tools give them.
func installRabbit(dir folder, s Setup) error {
	if err := dir.install(s); err != nil {
		return err
	}
	crls := dir.path("crls")
	old, err := filepath.Glob(filepath.Join(crls, "*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		os.Remove(path)
	}
	if err := os.MkdirAll(crls, 0o755); err != nil {
		return err
	}
	for _, crl := range s.CRLs {
		cmd := exec.Command("openssl", "crl", "-hash", "-noout", "-inform", "DER")
		cmd.Stdin = strings.NewReader(string(crl.Raw))
		hash, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("hash of a CRL: %w", err)
		}
		if _, err := dir.write(filepath.Join("crls", strings.TrimSpace(string(hash))+".r0"), encode("X509 CRL", crl.Raw)); err != nil {
			return err
		}
	}
	return nil
}
