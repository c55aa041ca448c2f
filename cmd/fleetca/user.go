package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/migrations"
	"github.com/fleetca/fleetca/store"
)

func newUserCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Give people and programs access, on the server's machine",
		Long: `Give people and programs access. Who can read and write the database may do it;
a server that runs on it knows at once. Over the REST API, an admin may do the
same from anywhere: see fleetca token for programs.`,
	}
	local := &localFlags{}
	local.add(cmd.PersistentFlags())
	cmd.AddCommand(newUserAddCommand(local), newUserResetCommand(local), newUserRoleCommand(local), newUserDisableCommand(local), newUserEnableCommand(local),
		newUserListCommand(local), newUserTokenCommand(local))
	return cmd
}

// localFlags are the flags of commands that work on the database itself.
type localFlags struct{ data, database string }

func (f *localFlags) add(set *pflag.FlagSet) {
	set.StringVar(&f.data, "data", "", "folder that fleetca init made")
	set.StringVar(&f.database, "database", "", "database URL (default SQLite at DIR/fleetca.db)")
}

// open returns the service on the database, without keys, and what closes it.
func (f *localFlags) open(ctx context.Context) (*enroll.Service, func() error, error) {
	if f.data == "" {
		return nil, nil, usageError(errors.New("--data is missing"), "name the folder that fleetca init made")
	}
	d := dataDir(f.data)
	if !d.initialised() {
		return nil, nil, usageError(fmt.Errorf("%s holds no authority", f.data), "make one: fleetca init --data "+f.data)
	}
	st, err := store.Open(ctx, store.Config{URL: d.databaseURL(f.database)})
	if err != nil {
		return nil, nil, err
	}
	if err := isMigrated(ctx, st); err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	return enroll.New(enroll.Config{Store: st}), st.Close, nil
}

// isMigrated refuses a database that is older than this program.
func isMigrated(ctx context.Context, st *store.Store) error {
	version, err := st.SchemaVersion(ctx)
	if err != nil {
		return err
	}
	all, err := migrations.List(migrations.SQLite) // as many as for every engine
	if err == nil && version < len(all) {
		err = hinted(fmt.Errorf("the database is at version %d of its schema, this program at %d", version, len(all)), "start this version's server, or run fleetca migrate")
	}
	return err
}

// on runs do with the service on the database.
func (f *localFlags) on(ctx context.Context, do func(s *enroll.Service, c enroll.Call) error) error {
	s, closeStore, err := f.open(ctx)
	if err != nil {
		return err
	}
	err = do(s, enroll.Call{Principal: enroll.Principal{Name: localUser()}})
	if !errors.Is(err, ca.IsKind(enroll.KindUnavailable)) {
		err = usageErrorOf(err)
	}
	return errors.Join(err, closeStore())
}

func newUserAddCommand(local *localFlags) *cobra.Command {
	var role, file string
	cmd := &cobra.Command{
		Use:   "add NAME --role ROLE --data DIR",
		Short: "Add a user who logs in with a password",
		Long: `Add a user who logs in with a password. It is asked for twice, or read from
--password-file or standard input: 12 characters or more.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return local.on(cmd.Context(), func(s *enroll.Service, c enroll.Call) error {
				password, err := readPassword(cmd, file, "password for "+printable(args[0]), true)
				if err != nil {
					return err
				}
				u, err := s.AddUser(cmd.Context(), c, enroll.NewUser{Name: args[0], Role: enroll.Role(role), Password: password})
				if err != nil {
					return err
				}
				return printUser(cmd, u)
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "admin, operator, factory, security or auditor")
	cmd.Flags().StringVar(&file, "password-file", "", "file whose first line is the password")
	return cmd
}

func newUserResetCommand(local *localFlags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "reset NAME --data DIR", Short: "Give a user another password, and end the user's logins", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return local.on(cmd.Context(), func(s *enroll.Service, c enroll.Call) error {
				password, err := readPassword(cmd, file, "new password for "+printable(args[0]), true)
				if err != nil {
					return err
				}
				u, err := s.ResetPassword(cmd.Context(), c, args[0], password)
				if err != nil {
					return err
				}
				return printUser(cmd, u)
			})
		},
	}
	cmd.Flags().StringVar(&file, "password-file", "", "file whose first line is the password")
	return cmd
}

func newUserRoleCommand(local *localFlags) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "role NAME --role ROLE --data DIR", Short: "Give a user another role, and end the user's logins", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return local.on(cmd.Context(), func(s *enroll.Service, c enroll.Call) error {
				u, err := s.SetRole(cmd.Context(), c, args[0], enroll.Role(role))
				if err != nil {
					return err
				}
				return printUser(cmd, u)
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "admin, operator, factory, security or auditor")
	return cmd
}

func newUserDisableCommand(local *localFlags) *cobra.Command {
	return newUserSwitch(local, "disable", "Keep a user out, and end the user's logins", (*enroll.Service).DisableUser)
}

func newUserEnableCommand(local *localFlags) *cobra.Command {
	return newUserSwitch(local, "enable", "Let a disabled user log in again", (*enroll.Service).EnableUser)
}

func newUserSwitch(local *localFlags, verb, short string, do func(*enroll.Service, context.Context, enroll.Call, string) (*enroll.User, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME --data DIR", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return local.on(cmd.Context(), func(s *enroll.Service, c enroll.Call) error {
				u, err := do(s, cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				return printUser(cmd, u)
			})
		},
	}
}

func printUser(cmd *cobra.Command, u *enroll.User) error {
	return printFacts(cmd.OutOrStdout(), "user", u.Name, "role", string(u.Role), "state", stateOf(u))
}

func stateOf(u *enroll.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "active"
}

func newUserListCommand(local *localFlags) *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use: "list --data DIR", Short: "List users", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return local.on(cmd.Context(), func(s *enroll.Service, _ enroll.Call) error {
				return printList(cmd.OutOrStdout(), flags.listing(), everyUser(cmd.Context(), s), []column[*enroll.User]{
					{"USER", func(u *enroll.User) string { return u.Name }},
					{"ROLE", func(u *enroll.User) string { return string(u.Role) }},
					{"STATE", stateOf},
					{"CREATED", func(u *enroll.User) string { return day(u.CreatedAt) }},
					{"LAST LOGIN", func(u *enroll.User) string { return dayOrNone(u.LastLoginAt) }},
				})
			})
		},
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	cmd.Flags().BoolVar(&flags.csv, "csv", false, "print CSV")
	return cmd
}

// everyUser walks the listing of users.
func everyUser(ctx context.Context, s *enroll.Service) iter.Seq2[*enroll.User, error] {
	return func(yield func(*enroll.User, error) bool) {
		for page := (enroll.Page{Limit: 500}); ; {
			users, next, err := s.Users(ctx, page)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, u := range users {
				if !yield(u, nil) {
					return
				}
			}
			if page.Cursor = next; next == "" {
				return
			}
		}
	}
}

// dayOrNone writes a time that may be missing, for a table.
func dayOrNone(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return day(*t)
}

func newUserTokenCommand(local *localFlags) *cobra.Command {
	var role, name string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "token --role ROLE --data DIR",
		Short: "Mint an API token",
		Long: `Mint an API token, and print it. Who can read the database may do it; a server
that runs on it takes the token at once. Only its SHA-256 is stored.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return local.on(cmd.Context(), func(s *enroll.Service, c enroll.Call) error {
				secret, _, err := s.MintAPIToken(cmd.Context(), c.Principal.Name, name, enroll.Role(role), lifetime)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), secret)
				return nil
			})
		},
	}
	f := cmd.Flags()
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
