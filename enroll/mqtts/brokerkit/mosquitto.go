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

// startMosquitto runs Mosquitto with a listener of each sort.
func startMosquitto(t testing.TB, s Setup) *Broker {
	t.Helper()
	binary, dir, free := find(t, "mosquitto", "mosquitto"), newFolder(t), ports(t, 3)
	if err := dir.install(s); err != nil {
		t.Fatal(err)
	}
	if err := mosquittoAccount(t, dir); err != nil {
		t.Fatal(err)
	}
	secured := []string{
		"cafile " + dir.path(caFile), "certfile " + dir.path(chainFile), "keyfile " + dir.path(keyFile), "require_certificate true",
	}
	if s.CRLs != nil {
		secured = append(secured, "crlfile "+dir.path(crlFile))
	}
	lines := []string{"persistence false", "log_dest stderr", "log_type all", "allow_anonymous true", "password_file " + dir.path("passwords")}
	if os.Getuid() == 0 {
		lines = append(lines, "user root")
	}
	lines = append(lines, fmt.Sprintf("listener %d 127.0.0.1", free[0]))
	lines = append(lines, secured...)
	lines = append(lines, fmt.Sprintf("listener %d 127.0.0.1", free[1]), "protocol websockets")
	lines = append(lines, secured...)
	lines = append(lines, fmt.Sprintf("listener %d 127.0.0.1", free[2]))
	config, err := dir.write("mosquitto.conf", []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := run(t, exec.Command(binary, "-c", config))
	if err := p.await(free...); err != nil || !p.awaitOutput(0, " running", startTimeout) {
		t.Fatalf("mosquitto does not run: %v\n%s", err, p.out.tail())
	}
	return &Broker{
		MQTTS: mqttsURL(free[0]), WSS: fmt.Sprintf("wss://127.0.0.1:%d/mqtt", free[1]), Plain: mqttsURL(free[2]),
		reload: func(s Setup) error {
			if err := dir.install(s); err != nil {
				return err
			}
			from := p.out.size()
			if err := p.signal(syscall.SIGHUP); err != nil {
				return err
			}
			if !p.awaitOutput(from, "Reloading config", 10*time.Second) {
				return fmt.Errorf("mosquitto said nothing of it: %s", p.out.tail())
			}
			time.Sleep(100 * time.Millisecond) // it says so before it does
			return nil
		},
	}
}

// mosquittoAccount makes the password file.
func mosquittoAccount(t testing.TB, dir folder) error {
	path, err := dir.write("passwords", nil)
	if err != nil {
		return err
	}
	out, err := exec.Command(find(t, "mosquitto_passwd", "mosquitto"), "-b", path, User, Password).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mosquitto_passwd: %w: %s", err, out)
	}
	return nil
}
