package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/store"
)

func newUserCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Give people and programs access, on the server's machine"}
	cmd.AddCommand(newUserTokenCommand())
	return cmd
}

func newUserTokenCommand() *cobra.Command {
	var data, database, role, name string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "token --role ROLE --data DIR",
		Short: "Mint an API token",
		Long: `Mint an API token, and print it. Who can read the database may do it; a server
that runs on it takes the token at once. Only its SHA-256 is stored.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				return usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
			}
			d := dataDir(data)
			if !d.initialised() {
				return usageError(fmt.Errorf("%s holds no authority", data), "make one: fleetca init --data "+data)
			}
			st, err := store.Open(cmd.Context(), store.Config{URL: d.databaseURL(database)})
			if err != nil {
				return err
			}
			defer st.Close()
			secret, _, err := enroll.New(enroll.Config{Store: st}).MintAPIToken(cmd.Context(), localUser(), name, enroll.Role(role), lifetime)
			if err != nil {
				return usageErrorOf(err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), secret)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "folder that fleetca init made")
	f.StringVar(&database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
	f.StringVar(&role, "role", "", "admin, operator, factory, security or auditor")
	f.StringVar(&name, "name", "", "what the token is for")
	f.DurationVar(&lifetime, "expires", 90*24*time.Hour, "how long it is valid")
	return cmd
}

// localUser names who runs the command, for the audit trail.
func localUser() string {
	if u, err := user.Current(); err == nil {
		return "local:" + u.Username
	}
	return fmt.Sprintf("local:uid-%d", os.Getuid())
}
