package brokerkit

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsConfig is a NATS server's with every listener; the NATS client port is
// the third.
const natsConfig = `
server_name: interop
listen: "127.0.0.1:%[3]d"
jetstream { store_dir: "%[4]s" }
accounts { MQTT { jetstream: enabled, users: [{user: "%[5]s", password: "%[6]s"}, {user: anyone, password: "%[6]s"}] } }
no_auth_user: anyone
mqtt {
  listen: "127.0.0.1:%[1]d"
  tls { cert_file: "%[7]s", key_file: "%[8]s", ca_file: "%[9]s", verify: true }
}
websocket {
  listen: "127.0.0.1:%[2]d"
  tls { cert_file: "%[7]s", key_file: "%[8]s", ca_file: "%[9]s", verify: true }
}
`

// natsPlainConfig has an MQTT listener without TLS.
const natsPlainConfig = `
server_name: plain
listen: "127.0.0.1:%[2]d"
jetstream { store_dir: "%[3]s" }
accounts { MQTT { jetstream: enabled, users: [{user: anyone, password: anyone}] } }
no_auth_user: anyone
mqtt { listen: "127.0.0.1:%[1]d" }
`

// A natsFolder is a folder with the configurations of a NATS server with TLS and
// of one without: a server has one MQTT listener.
type natsFolder struct {
	folder
	ports         []int // MQTT, websocket, NATS; MQTT and NATS of the plain one
	config, plain string
}

func newNATSFolder(t testing.TB, s Setup) natsFolder {
	t.Helper()
	dir, free := newFolder(t), ports(t, 5)
	if err := dir.install(s); err != nil {
		t.Fatal(err)
	}
	config, err := dir.write("nats.conf", fmt.Appendf(nil, natsConfig, free[0], free[1], free[2], dir.path("store"),
		User, Password, dir.path(chainFile), dir.path(keyFile), dir.path(caFile)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := dir.write("plain.conf", fmt.Appendf(nil, natsPlainConfig, free[3], free[4], dir.path("plain")))
	if err != nil {
		t.Fatal(err)
	}
	return natsFolder{folder: dir, ports: free, config: config, plain: plain}
}

func (f natsFolder) broker(reload func() error) *Broker {
	return &Broker{
		MQTTS: mqttsURL(f.ports[0]), WSS: fmt.Sprintf("wss://127.0.0.1:%d/mqtt", f.ports[1]), Plain: mqttsURL(f.ports[3]),
		reload: func(s Setup) error {
			if err := f.install(s); err != nil {
				return err
			}
			return reload()
		},
	}
}

// startNATS runs the program nats-server.
func startNATS(t testing.TB, s Setup) *Broker {
	t.Helper()
	binary, dir := find(t, "nats-server", "nats-server"), newNATSFolder(t, s)
	p := run(t, exec.Command(binary, "-c", dir.config))
	plain := run(t, exec.Command(binary, "-c", dir.plain))
	if err := errors.Join(p.await(dir.ports[:3]...), plain.await(dir.ports[3:]...)); err != nil {
		t.Fatalf("nats-server does not run: %v\n%s\n%s", err, p.out.tail(), plain.out.tail())
	}
	return dir.broker(func() error {
		from := p.out.size()
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			return err
		}
		if !p.awaitOutput(from, "eload", 10*time.Second) { // "Reloaded: ...", "Failed to reload ..."
			return fmt.Errorf("nats-server did not reload: %s", p.out.tail())
		}
		if strings.Contains(p.out.since(from), "Failed to reload") {
			return ErrReloadRefused
		}
		return nil
	})
}

// startEmbeddedNATS runs the NATS server that is compiled in.
func startEmbeddedNATS(t testing.TB, s Setup) *Broker {
	t.Helper()
	dir := newNATSFolder(t, s)
	secured := serveNATS(t, dir.config)
	serveNATS(t, dir.plain)
	return dir.broker(func() error {
		if err := secured.Reload(); err != nil {
			return fmt.Errorf("%w: %w", ErrReloadRefused, err)
		}
		return nil
	})
}

func serveNATS(t testing.TB, config string) *server.Server {
	t.Helper()
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		t.Fatal(err)
	}
	options.NoLog, options.NoSigs = true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(startTimeout) {
		t.Fatal("NATS takes no connections")
	}
	return s
}
