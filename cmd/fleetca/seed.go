package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

// seedConfig is what seed works with.
type seedConfig struct {
	data, database                string
	devices, certificates, orders int
}

func newSeedCommand() *cobra.Command {
	var cfg seedConfig
	cmd := &cobra.Command{
		Use:   "seed --data DIR --devices N",
		Short: "Make an authority with a fleet of test data",
		Long: `Make an authority in a new folder, as init does, and fill its database with
devices, certificates, work orders and events that are made up, for trying how
pages and calls behave with many. It is marked as test data for good.

A folder or database that has issuers, devices or certificates already is
refused: it may be a real fleet's. One whose seeding was interrupted is filled.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.data == "" {
				return usageError(errors.New("--data is missing"), "name the folder to make, such as --data /tmp/fleet")
			}
			if cfg.orders == 0 {
				cfg.orders = max(1, cfg.devices/1000)
			}
			return seed(cmd.Context(), cmd.OutOrStdout(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.data, "data", "", "folder to make")
	f.StringVar(&cfg.database, "database", "", "URL of an empty database (default SQLite at DIR/fleetca.db)")
	f.IntVar(&cfg.devices, "devices", 10_000, "how many devices")
	f.IntVar(&cfg.certificates, "certificates-per-device", 1, "how many certificates each device had so far, 1 to 10")
	f.IntVar(&cfg.orders, "orders", 0, "how many work orders they were built for (default one for 1000 devices)")
	return cmd
}

// seed makes the folder, unless it was made and not filled before, and fills its
// database.
func seed(ctx context.Context, out io.Writer, cfg seedConfig) error {
	fleet := store.SeedConfig{
		Devices: cfg.devices, Certificates: cfg.certificates, Orders: cfg.orders, Now: time.Now(),
		Progress: func(n int) {
			if isTerminal(out) {
				fmt.Fprintf(out, "\r%d of %d devices", n, cfg.devices)
			}
		},
	}
	if err := fleet.Check(); err != nil {
		return usageErrorOf(err)
	}
	began := time.Now()
	st, err := openSeedable(ctx, cfg)
	if err != nil {
		return err
	}
	defer st.Close()
	issuers, err := st.Issuers(ctx)
	if err != nil {
		return err
	}
	fleet.Issuer = issuers[slices.IndexFunc(issuers, func(i ca.Issuer) bool { return i.Purpose == ca.PurposeDevice })]
	err = st.Seed(ctx, fleet)
	if isTerminal(out) {
		fmt.Fprintln(out)
	}
	if err != nil {
		return usageErrorOf(err)
	}
	next := "fleetca serve --data " + cfg.data
	if cfg.database != "" {
		next += " --database URL" // which may hold a password
	}
	return printFacts(out, "folder", cfg.data, "devices", fmt.Sprint(cfg.devices), "certificates", fmt.Sprintf("%d of each that enrolled", cfg.certificates),
		"work orders", fmt.Sprint(cfg.orders), "took", time.Since(began).Round(time.Millisecond).String(), "next", next)
}

// openSeedable opens the store to fill: that of a new folder, or of one whose
// seeding was interrupted.
func openSeedable(ctx context.Context, cfg seedConfig) (*store.Store, error) {
	d := dataDir(cfg.data)
	made := d.initialised()
	if !made {
		if _, err := initialize(ctx, initConfig{data: cfg.data, database: cfg.database, organization: "fleetca TEST DATA", testData: true}); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(d.database()); err != nil && cfg.database == "" {
		return nil, usageError(fmt.Errorf("%s holds an authority already, and no database", cfg.data), hintNewFolder)
	}
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(cfg.database)})
	if err != nil {
		return nil, err
	}
	if err = st.CheckSeedable(ctx); err == nil {
		err = st.Migrate(ctx) // a program before this one may have been interrupted
	} else if made && errors.Is(err, ca.IsKind(enroll.KindConflict)) {
		err = usageError(fmt.Errorf("%s holds an authority already: %w", cfg.data, err), hintNewFolder)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// hintNewFolder is what to do about an authority that is not there to be filled.
const hintNewFolder = "choose a new folder: a real fleet is not seeded"
