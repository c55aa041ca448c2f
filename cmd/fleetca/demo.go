package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/brokers"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// faultCRLReload keeps the demo's broker from loading the CRL of its
// revocation, so that a person sees the proof fail.
const faultCRLReload = "crl-reload"

// demoConfig is what the demo works with.
type demoConfig struct {
	data      string // temporary when empty
	exit      bool   // end after the last step
	json      bool
	fault     string
	broker    string // embedded or mosquitto
	devices   int
	addresses [4]string // people, machines, status, mqtts
	anyPort   [4]bool   // whether another port will do when it is taken
}

// demoFlags names the address flags, in the order of demoConfig.addresses.
var demoFlags = [4]struct{ name, value, usage string }{
	{"people-addr", "127.0.0.1:8443", "HTTPS for people and API tokens"},
	{"machine-addr", "127.0.0.1:9443", "HTTPS for machines and client certificates"},
	{"status-addr", "127.0.0.1:8080", "plain HTTP for CRLs, health and metrics"},
	{"mqtts-addr", "127.0.0.1:8883", "MQTT broker"},
}

func newDemoCommand() *cobra.Command {
	var cfg demoConfig
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all on this machine: from nothing to a CONNACK, and to a refusal",
		Long: `Make an authority, a server and an MQTT broker on this machine, enroll devices,
rotate the broker's certificate under their feet, revoke one and prove that the
broker refuses it. Everything listens on loopback. It stays up until Ctrl-C, for
going on by hand; it exits with 0 only if every step held.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.fault != "" && cfg.fault != faultCRLReload {
				return usageError(fmt.Errorf("--fault %q", cfg.fault), "the one fault there is: "+faultCRLReload)
			}
			if cfg.broker != embeddedID && cfg.broker != mosquittoID {
				return usageError(fmt.Errorf("--broker %q", cfg.broker), "embedded, or mosquitto for a real one on this machine")
			}
			if cfg.devices < 2 || cfg.devices > 1000 {
				return usageError(fmt.Errorf("--devices %d", cfg.devices), "take 2 to 1000: one is revoked, the others must stay")
			}
			for i, f := range demoFlags {
				cfg.anyPort[i] = !cmd.Flags().Changed(f.name)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP) // the terminal is closed
			defer stop()
			return runDemo(ctx, cfg, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder to keep (default: a temporary one)")
	f.BoolVar(&cfg.exit, "exit", false, "end after the last step")
	f.BoolVar(&cfg.json, "json", false, "print one JSON object a step")
	f.StringVar(&cfg.fault, "fault", "", "break something, to see the proof fail: crl-reload")
	f.StringVar(&cfg.broker, "broker", embeddedID, "embedded, or mosquitto for a real one on this machine")
	f.IntVar(&cfg.devices, "devices", 5, "how many devices to enroll")
	for i, d := range demoFlags {
		f.StringVar(&cfg.addresses[i], d.name, d.value, d.usage+"; a free port when it is not given and taken")
	}
	return cmd
}

// A demo is a demonstration under way.
type demo struct {
	cfg       demoConfig
	dir       dataDir
	out       *demoOutput
	resumed   bool // on a folder that a demo used before
	server    *server
	deaf      *deafDriver
	mosquitto *mosquittoProcess // nil for the embedded broker
	admin     *client.Client
	factory   *client.Client
	fleet     []*demoDevice
	report    *mqtts.Report
	endpoints endpoints
}

// endpoints is DIR/endpoints.json: what a person or a script goes on with.
type endpoints struct {
	People        string       `json:"people"`
	Machines      string       `json:"machines"`
	Status        string       `json:"status"`
	MQTTS         string       `json:"mqtts"`
	AdminToken    string       `json:"adminToken"`
	FactoryToken  string       `json:"factoryToken"`
	User          string       `json:"user"` // of the dashboard, an admin
	Password      string       `json:"password"`
	Broker        string       `json:"broker"`
	BrokerSerials serialChange `json:"brokerSerials"`
	WorkOrder     string       `json:"workOrder"`
	Devices       []string     `json:"devices"`
	RevokedDevice string       `json:"revokedDevice"`
	RootSHA256    string       `json:"rootSha256"`
}

type serialChange struct {
	Before string `json:"before"`
	After  string `json:"after"`
}

// demoSteps are the steps, in their order.
var demoSteps = []struct {
	name string
	take func(*demo, context.Context) (string, error)
}{
	{"authority", (*demo).makeAuthority},
	{"server", (*demo).startServer},
	{"broker", (*demo).showBroker},
	{"verification", (*demo).verifyBroker},
	{"enrollment", (*demo).enrollFleet},
	{"rotation", (*demo).rotateBroker},
	{"revocation", (*demo).revokeDevice},
	{"summary", (*demo).summarize},
}

// demoStepTimeout bounds one step.
const demoStepTimeout = 30 * time.Second

// runDemo takes the steps, and stays up after the last unless told to exit.
func runDemo(ctx context.Context, cfg demoConfig, out io.Writer) (err error) {
	d := &demo{cfg: cfg, out: newDemoOutput(out, cfg.json)}
	if cfg.data == "" {
		if d.cfg.data, err = os.MkdirTemp("", "fleetca-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(d.cfg.data)) }()
	}
	if d.cfg.data, err = filepath.Abs(d.cfg.data); err != nil {
		return err
	}
	d.dir = dataDir(d.cfg.data)
	defer func() { err = errors.Join(err, d.stop()) }()
	for i, step := range demoSteps {
		d.out.begin(i+1, step.name)
		stepCtx, cancel := context.WithTimeout(ctx, demoStepTimeout)
		start := time.Now()
		detail, err := step.take(d, stepCtx)
		cancel()
		if ctx.Err() != nil {
			return hinted(errors.New("interrupted"), "start it again, with the same --data to go on there")
		}
		d.out.end(i+1, step.name, time.Since(start), detail, err, d.report)
		d.report = nil
		if err != nil {
			return &commandError{err: fmt.Errorf("demo step %d, %s: %w", i+1, step.name, err), hint: hintOf(err)}
		}
	}
	d.out.summary(d)
	if cfg.exit {
		return nil
	}
	d.out.stay()
	return d.server.wait(ctx)
}

// stop disconnects the devices and stops the server.
func (d *demo) stop() error {
	for _, dev := range d.fleet {
		dev.disconnect()
	}
	var errs []error
	if d.mosquitto != nil {
		errs = append(errs, d.mosquitto.stop())
	}
	if d.server != nil {
		errs = append(errs, d.server.stop())
	}
	return errors.Join(errs...)
}

// broker returns the demo's broker.
func (d *demo) broker() *managedBroker { return d.server.brokers[0] }

// makeAuthority takes step 1: init, unless the folder has an authority.
func (d *demo) makeAuthority(ctx context.Context) (string, error) {
	made, resumed := "in use again", true
	if !d.dir.initialised() {
		if _, err := initialize(ctx, initConfig{data: d.cfg.data, organization: "fleetca demo"}); err != nil {
			return "", err
		}
		made, resumed = "a root (its key apart, encrypted), an issuer for devices, one for brokers; SQLite", false
	}
	d.resumed = resumed
	roots, err := readCertificates(d.dir.trustBundle())
	if err != nil {
		return "", err
	}
	if len(roots) == 0 {
		return "", usageError(fmt.Errorf("%s holds no certificate", d.dir.trustBundle()), "restore it, or choose another --data")
	}
	d.endpoints.RootSHA256 = ca.FingerprintOf(roots[0])
	return made + "\nroot SHA-256 " + d.endpoints.RootSHA256, nil
}

// startServer takes step 2: three listeners, the broker, and clients.
func (d *demo) startServer(ctx context.Context) (string, error) {
	cfg := serveConfig{
		data: d.cfg.data, log: slog.New(slog.DiscardHandler), proofTimeout: 3 * time.Second,
		peopleAddr: d.cfg.addresses[0], machineAddr: d.cfg.addresses[1], statusAddr: d.cfg.addresses[2],
		anyPort: map[string]bool{"people-addr": d.cfg.anyPort[0], "machine-addr": d.cfg.anyPort[1], "status-addr": d.cfg.anyPort[2], "mqtts-addr": d.cfg.anyPort[3]},
		wrapDriver: func(driver brokers.Driver) brokers.Driver {
			d.deaf = &deafDriver{Driver: driver}
			return d.deaf
		},
	}
	if err := d.prepareBroker(&cfg); err != nil {
		return "", err
	}
	s, err := startServer(ctx, cfg)
	if err != nil {
		return "", err
	}
	d.server = s
	d.endpoints.People, d.endpoints.Machines, d.endpoints.Status = s.url("people"), s.url("machines"), s.url("status")
	d.endpoints.Broker = d.broker().id
	for _, t := range []struct {
		role   enroll.Role
		token  *string
		client **client.Client
	}{{enroll.RoleAdmin, &d.endpoints.AdminToken, &d.admin}, {enroll.RoleFactory, &d.endpoints.FactoryToken, &d.factory}} {
		if *t.token, _, err = s.service.MintAPIToken(ctx, localUser(), "demo", t.role, 24*time.Hour); err != nil {
			return "", err
		}
		if *t.client, err = client.New(client.Config{Server: d.endpoints.People, CAFile: d.dir.trustBundle(), Token: client.Secret(*t.token)}); err != nil {
			return "", err
		}
	}
	if err := d.addUser(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("people %s, machines %s, status %s", d.endpoints.People, d.endpoints.Machines, d.endpoints.Status), nil
}

// demoUser is who signs in to the demo's dashboard.
const demoUser = "demo"

// addUser adds the user, or gives it a new password in a folder that was used
// before.
func (d *demo) addUser(ctx context.Context) error {
	call := enroll.Call{Principal: enroll.Principal{Name: localUser()}}
	d.endpoints.User, d.endpoints.Password = demoUser, rand.Text()
	_, err := d.server.service.AddUser(ctx, call, enroll.NewUser{Name: demoUser, Role: enroll.RoleAdmin, Password: enroll.Secret(d.endpoints.Password)})
	if errors.Is(err, ca.IsKind(enroll.KindConflict)) {
		_, err = d.server.service.ResetPassword(ctx, call, demoUser, enroll.Secret(d.endpoints.Password))
	}
	return err
}

// A deafDriver is a broker's driver that can be made to ignore CRLs.
type deafDriver struct {
	brokers.Driver
	deaf atomic.Bool
}

// LoadCRL says that the CRL was loaded, whether it was or not.
func (d *deafDriver) LoadCRL(ctx context.Context, b brokers.Bundle) error {
	if d.deaf.Load() {
		return nil
	}
	return d.Driver.LoadCRL(ctx, b)
}
