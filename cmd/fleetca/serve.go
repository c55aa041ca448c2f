package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// The interval of the schedule that verifies brokers: a look at one that is dead
// takes some seconds.
const (
	defaultVerifyEvery = 15 * time.Minute
	minVerifyEvery     = 30 * time.Second
)

func newServeCommand() *cobra.Command {
	var cfg serveConfig
	var hosts, level string
	var secondFactor []string
	var hook webhookFlags
	cmd := &cobra.Command{
		Use:   "serve --data DIR",
		Short: "Run the authority of a folder",
		Long: `Run the authority that fleetca init made in a folder: HTTPS for people, HTTPS
for machines (client certificates), and plain HTTP for status: CRLs, OCSP, issuer
certificates, /healthz, /readyz and /metrics. It is ready when /readyz answers 200.

With --mqtts-addr it also runs an MQTT broker that demands client certificates
of this authority and checks CRLs on every handshake.

SIGHUP reads the configuration again: log-level takes effect, for anything else
the log says that a restart is needed; a server certificate that is due is
renewed, and an issuer's key that could not be used is tried again; new
issuers are taken over, which happens by itself within seconds, too. SIGTERM stops in order,
within 30 s, and a second one at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.data == "" {
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return usageError(fmt.Errorf("--log-level %q", level), "one of debug, info, warn, error")
			}
			cfg.publicHosts, cfg.certifyBrokers = splitList(hosts), true
			if err := cfg.checkSettings(secondFactor); err != nil {
				return err
			}
			webhook, err := hook.webhook()
			if err != nil {
				return err
			}
			cfg.webhook = webhook
			threshold := new(slog.LevelVar)
			threshold.Set(l)
			cfg.log = newLogger(cmd.ErrOrStderr(), threshold)
			return serve(cmd, cfg, threshold)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder that fleetca init made")
	f.StringVar(&cfg.passphraseFile, "passphrase-file", "", "file with the passphrase of the keys (or FLEETCA_PASSPHRASE; default DIR/passphrase)")
	f.StringVar(&cfg.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	f.StringVar(&cfg.peopleAddr, "people-addr", "127.0.0.1:8443", "HTTPS for people and API tokens")
	f.StringVar(&cfg.machineAddr, "machine-addr", "127.0.0.1:9443", "HTTPS for machines and client certificates")
	f.StringVar(&cfg.statusAddr, "status-addr", "127.0.0.1:8080", "plain HTTP for CRLs, OCSP, health and metrics")
	f.StringVar(&cfg.mqttsAddr, "mqtts-addr", "", "run the embedded MQTT broker on this address, such as 127.0.0.1:8883")
	f.StringSliceVar(&cfg.mosquitto, "mosquitto", nil, "folder of a Mosquitto on this host, as fleetca broker config mosquitto wrote it; may be repeated")
	f.StringVar(&hosts, "public-host", "", "names and IP addresses that clients use, comma-separated; the first goes into URLs")
	f.StringVar(&hook.url, "webhook", "", "HTTPS URL that audit events are sent to, signed")
	f.StringVar(&hook.secretFile, "webhook-secret-file", "", "file with the secret that signs them")
	f.StringSliceVar(&hook.events, "webhook-events", nil, "beginnings of the actions to send, such as device.revoke,revocation (default all)")
	f.DurationVar(&cfg.verifyEvery, "verify-every", defaultVerifyEvery, "how often every broker is verified, what it must refuse included; 0 for never")
	f.IntVar(&cfg.verifyAtOnce, "verify-connections", enroll.DefaultVerifyConnections, "how many brokers are verified at once: each takes an open file")
	f.DurationVar(&cfg.verifyKeep, "verify-keep", enroll.DefaultKeepVerifications, "how long the reports of verifications are kept")
	f.DurationVar(&cfg.sessionIdle, "session-idle", enroll.DefaultSessionIdle, "after how long without a request a session of the dashboard ends")
	f.DurationVar(&cfg.sessionLife, "session-life", enroll.DefaultSessionLife, "after how long it ends anyway")
	f.StringSliceVar(&secondFactor, "second-factor", nil, "roles whose users must set up a second factor, such as admin,security")
	f.IntVar(&cfg.inFlight, "in-flight", 512, "calls that a listener works on at the same time, and an eighth as many batches; more are told to come again (503)")
	f.IntVar(&cfg.rolloverPercent, "rollover-percent", 100, "percentage of devices that must have a new trust bundle before a step of a root's roll-over is taken without an approval")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// checkSettings checks the settings of sessions, verifications and load.
func (cfg *serveConfig) checkSettings(roles []string) error {
	if cfg.verifyEvery < 0 || cfg.verifyEvery > 0 && cfg.verifyEvery < minVerifyEvery || cfg.verifyAtOnce <= 0 || cfg.verifyKeep <= 0 {
		return usageError(fmt.Errorf("--verify-every must be 0 or %v and more, --verify-connections and --verify-keep above zero", minVerifyEvery), "for example --verify-every 15m --verify-connections 512 --verify-keep 720h")
	}
	if cfg.rolloverPercent < 1 || cfg.rolloverPercent > 100 {
		return usageError(errors.New("--rollover-percent must be 1 to 100"), "100 is the default: every device")
	}
	if cfg.inFlight <= 0 {
		return usageError(errors.New("--in-flight must be above zero"), "512 is the default")
	}
	if cfg.sessionIdle <= 0 || cfg.sessionLife <= 0 {
		return usageError(errors.New("--session-idle and --session-life must be above zero"), "for example --session-idle 30m --session-life 12h")
	}
	for _, name := range roles {
		if !slices.Contains(enroll.Roles(), enroll.Role(name)) {
			return usageError(fmt.Errorf("--second-factor %q is no role", name), "any of admin, operator, factory, security, auditor")
		}
		cfg.secondFactor = append(cfg.secondFactor, enroll.Role(name))
	}
	return nil
}

// webhookFlags are the flags of the webhook.
type webhookFlags struct {
	url, secretFile string
	events          []string
}

// webhook returns the webhook of the flags; nil for none.
func (f webhookFlags) webhook() (*enroll.Webhook, error) {
	if f.url == "" {
		return nil, nil
	}
	if f.secretFile == "" {
		return nil, usageError(errors.New("--webhook needs --webhook-secret-file"), "name a file with the secret; openssl rand -hex 32 makes one")
	}
	secret, err := os.ReadFile(f.secretFile)
	if err != nil {
		return nil, usageError(fmt.Errorf("--webhook-secret-file: %w", err), "openssl rand -hex 32 makes a secret")
	}
	w := &enroll.Webhook{URL: f.url, Secret: bytes.TrimSpace(secret), Actions: f.events}
	return w, usageErrorOf(w.Check())
}

// headroomSize is of memory that is never touched, and so takes none: with it
// the garbage collector runs at 72 MiB above twice what lives, and not at twice
// the few megabytes that a server needs, which is all the time under load.
const headroomSize = 36 << 20

// serve runs a server until it is told to stop.
func serve(cmd *cobra.Command, cfg serveConfig, threshold *slog.LevelVar) error {
	headroom := make([]byte, headroomSize)
	defer runtime.KeepAlive(headroom)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	s, err := startServer(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	cfg.log.Info("ready", "people", s.url("people"), "machines", s.url("machines"), "status", s.url("status"))
	go func() {
		for range hangups {
			reload(cmd, s, threshold)
		}
	}()
	err = s.wait(cmd.Context())
	cfg.log.Info("stopping")
	return errors.Join(err, s.stop())
}

// reload takes a changed configuration into force, as far as that is possible
// without a restart.
func reload(cmd *cobra.Command, s *server, threshold *slog.LevelVar) {
	changed, err := changedConfig(cmd)
	if err != nil {
		s.cfg.log.Error("configuration not reloaded", "err", err)
		return
	}
	for key, value := range changed {
		if key != "log-level" {
			s.cfg.log.Warn("changed in the configuration; restart to put it into force", "key", key)
			continue
		}
		if err := threshold.UnmarshalText([]byte(value)); err != nil {
			s.cfg.log.Error("configuration not reloaded", "key", key, "err", err)
			continue
		}
		if err := cmd.Flags().Set(key, value); err != nil {
			s.cfg.log.Error("configuration not reloaded", "key", key, "err", err)
		}
	}
	s.authority.RetryKeys(cmd.Context())
	if err := s.service.AdoptIssuers(cmd.Context()); err != nil {
		s.cfg.log.Error("take over issuers", "err", err)
	}
	for id, err := range s.authority.Unusable() {
		s.cfg.log.Error("an issuer's key cannot be used", "issuer", id, "err", err)
	}
	if err := s.identity.ensure(cmd.Context()); err != nil {
		s.cfg.log.Error("renew the server's certificate", "err", err)
	}
	s.cfg.log.Info("configuration reloaded", "logLevel", threshold.Level().String())
}

// newLogger returns the program's log: text on a terminal, JSON elsewhere.
func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

func newMigrateCommand() *cobra.Command {
	var data, database string
	cmd := &cobra.Command{
		Use:   "migrate --data DIR",
		Short: "Bring the database to this program's schema",
		Long:  "Bring the database to this program's schema. serve does it too; this is for doing it beforehand.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" && database == "" {
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made, or give --database")
			}
			st, err := store.Open(cmd.Context(), store.Config{URL: dataDir(data).databaseURL(database)})
			if err != nil {
				return err
			}
			defer st.Close()
			if err := st.Migrate(cmd.Context()); err != nil {
				return err
			}
			version, err := st.SchemaVersion(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "schema version %d\n", version)
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "folder that fleetca init made")
	cmd.Flags().StringVar(&database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	return cmd
}
