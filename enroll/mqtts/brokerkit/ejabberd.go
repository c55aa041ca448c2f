package brokerkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// ejabberdConfig has a listener of each sort for MQTT and none for XMPP.
const ejabberdConfig = `
hosts: [localhost]
loglevel: info
log_rotate_count: 0
auth_method: [internal, anonymous]
anonymous_protocol: login_anon
certfiles: ["%[4]s"]
ca_file: "%[5]s"
listen:
  -
    port: %[1]d
    ip: "127.0.0.1"
    module: mod_mqtt
    tls: true
    tls_verify: true
  -
    port: %[2]d
    ip: "127.0.0.1"
    module: ejabberd_http
    tls: true
    request_handlers: {/mqtt: mod_mqtt}
  -
    port: %[3]d
    ip: "127.0.0.1"
    module: mod_mqtt
modules:
  mod_mqtt: {}
`

// startEjabberd runs ejabberd without a name on any network: it needs none.
func startEjabberd(t testing.TB, s Setup) *Broker {
	t.Helper()
	find(t, "ejabberdctl", "ejabberd")
	find(t, "erl", "erlang-base")
	dir, free := newFolder(t), ports(t, 3)
	if err := installEjabberd(dir, s); err != nil {
		t.Fatal(err)
	}
	config, err := dir.write("ejabberd.yml", fmt.Appendf(nil, ejabberdConfig, free[0], free[1], free[2], dir.path("both.pem"), dir.path(caFile)))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("erl", "-mnesia", "dir", fmt.Sprintf("%q", dir.path("spool")), "-s", "ejabberd")
	cmd.Dir = string(dir)
	cmd.Env = append(os.Environ(), "HOME="+string(dir), "EJABBERD_CONFIG_PATH="+config,
		"EJABBERD_LOG_PATH="+dir.path("ejabberd.log"), "ERL_LIBS="+ejabberdLibraries(t))
	n := node{run(t, cmd)}
	if err := n.await(free...); err != nil || !n.awaitOutput(0, "is started in the node", startTimeout) {
		t.Fatalf("ejabberd does not run: %v\n%s", err, n.out.tail())
	}
	if err := n.eval(fmt.Sprintf("ejabberd_auth:try_register(<<\"verifier\">>, <<\"localhost\">>, <<%q>>)", Password)); err != nil {
		t.Fatal(err)
	}
	return &Broker{
		MQTTS: mqttsURL(free[0]), WSS: fmt.Sprintf("wss://127.0.0.1:%d/mqtt", free[1]), Plain: mqttsURL(free[2]),
		reload: func(s Setup) error {
			if err := installEjabberd(dir, s); err != nil {
				return err
			}
			return n.eval("ejabberd_admin:reload_config()")
		},
	}
}

// ejabberdLibraries is the folder of Debian's architecture that ejabberd lies in.
func ejabberdLibraries(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/ejabberd-*/ebin")
	if err != nil || len(found) == 0 {
		t.Fatalf("no ejabberd below /usr/lib: %v", err)
	}
	return filepath.Dir(filepath.Dir(found[0]))
}

// installEjabberd writes a Setup, with certificate and key in one file.
func installEjabberd(dir folder, s Setup) error {
	if err := dir.install(s); err != nil {
		return err
	}
	var both []byte
	for _, name := range []string{keyFile, chainFile} {
		content, err := os.ReadFile(dir.path(name))
		if err != nil {
			return err
		}
		both = append(both, content...)
	}
	path, err := dir.write("both.pem", both)
	if err != nil {
		return err
	}
	// ejabberd looks at files whose time of change, in whole seconds, is another.
	changed := time.Now().Add(time.Duration(ejabberdInstalls.Add(1)) * time.Second)
	return os.Chtimes(path, changed, changed)
}

var ejabberdInstalls atomic.Int64
