package brokerkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A mosquitto is a Mosquitto for MQTT with TLS, beside one with the other
// listeners.
type mosquitto struct {
	folder
	t      testing.TB
	binary string
	mqtt   *process
	ports  []int // MQTT with TLS, websocket, MQTT without TLS
	crls   bool
}

// startMosquitto runs Mosquitto with a listener of each sort.
func startMosquitto(t testing.TB, s Setup) *Broker {
	t.Helper()
	m := &mosquitto{
		t: t, binary: find(t, "mosquitto", "mosquitto"), folder: newFolder(t), ports: ports(t, 3), crls: s.CRLs != nil,
	}
	if err := m.install(s); err != nil {
		t.Fatal(err)
	}
	if err := m.account(); err != nil {
		t.Fatal(err)
	}
	m.mqtt = m.start("mqtt.conf", m.listener(0)...)
	// One with websockets alone ends for lack of listeners.
	m.start("others.conf", append(m.listener(1), "protocol websockets", fmt.Sprintf("listener %d 127.0.0.1", m.ports[2]))...)
	time.Sleep(100 * time.Millisecond) // it says that it runs before it takes signals
	return &Broker{
		MQTTS: mqttsURL(m.ports[0]), WSS: fmt.Sprintf("wss://127.0.0.1:%d/mqtt", m.ports[1]), Plain: mqttsURL(m.ports[2]),
		reload: m.reload,
	}
}

// listener returns the lines of a listener with TLS.
func (m *mosquitto) listener(i int) []string {
	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", m.ports[i]),
		"cafile " + m.path(caFile), "certfile " + m.path(chainFile), "keyfile " + m.path(keyFile), "require_certificate true",
	}
	if m.crls {
		lines = append(lines, "crlfile "+m.path(crlFile))
	}
	return lines
}

// start runs a Mosquitto with listeners, and returns when it serves them.
func (m *mosquitto) start(name string, listeners ...string) *process {
	m.t.Helper()
	lines := []string{"persistence false", "log_dest stderr", "log_type all", "allow_anonymous true", "password_file " + m.path("passwords")}
	if os.Getuid() == 0 {
		lines = append(lines, "user root")
	}
	config, err := m.write(name, []byte(strings.Join(append(lines, listeners...), "\n")+"\n"))
	if err != nil {
		m.t.Fatal(err)
	}
	p := run(m.t, exec.Command(m.binary, "-c", config))
	if !p.awaitOutput(0, " running", startTimeout) {
		m.t.Fatalf("mosquitto does not run:\n%s", p.out.tail())
	}
	return p
}

// reload installs other files and sends SIGHUP. The one for websockets keeps what
// it has: version 2.0.11 dies of that signal (a segmentation fault) soon after
// websocket clients have left.
func (m *mosquitto) reload(s Setup) error {
	if err := m.install(s); err != nil {
		return err
	}
	from := m.mqtt.out.size()
	if err := m.mqtt.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	if !m.mqtt.awaitOutput(from, "Reloading config", 10*time.Second) {
		return fmt.Errorf("mosquitto said nothing of it: %s", m.mqtt.out.tail())
	}
	time.Sleep(100 * time.Millisecond) // it says that it reloads before it does
	return nil
}

// account makes the password file.
func (m *mosquitto) account() error {
	path, err := m.write("passwords", nil)
	if err != nil {
		return err
	}
	out, err := exec.Command(find(m.t, "mosquitto_passwd", "mosquitto"), "-b", path, User, Password).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mosquitto_passwd: %w: %s", err, out)
	}
	return nil
}
