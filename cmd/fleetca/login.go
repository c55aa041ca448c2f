package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

func newLoginCommand() *cobra.Command {
	var flags clientFlags
	var name, file, code, out string
	cmd := &cobra.Command{
		Use:   "login --server URL --user NAME --token-out FILE",
		Short: "Log in with a password, for 12 hours",
		Long: `Log in with a password, and write the API token of the login to a file that its
owner alone can read: give it to the other commands as --token-file. The
password is asked for, or read from --password-file or standard input. Users with
a second factor are asked for their code, or give it by --code.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case name == "":
				return usageError(errors.New("--user is missing"), "an admin adds users: fleetca user add NAME")
			case out == "":
				return usageError(errors.New("--token-out is missing"), "name the file for the token")
			}
			cfg, err := flags.config()
			if err != nil {
				return err
			}
			c, err := client.New(cfg)
			if err != nil {
				return usageErrorOf(err)
			}
			password, err := readPassword(cmd, file, "password of "+printable(name), false)
			if err != nil {
				return err
			}
			t, err := login(cmd, c, name, password, enroll.Secret(code))
			if err != nil {
				return clientError(err)
			}
			if err := ca.ReplaceFile(out, []byte(t.Token+"\n"), 0o600); err != nil {
				return fmt.Errorf("keep the token: %w", err)
			}
			return printFacts(cmd.OutOrStdout(), "user", name, "role", string(t.Role), "until", day(t.ExpiresAt), "token file", out)
		},
	}
	f := cmd.Flags()
	flags.addServer(f)
	f.StringVar(&name, "user", "", "name of the user")
	f.StringVar(&file, "password-file", "", "file whose first line is the password")
	f.StringVar(&code, "code", "", "six digits of the authenticator app, valid once")
	f.StringVar(&out, "token-out", "", "file for the token")
	return cmd
}

// login logs in, and asks at a terminal for a code that turns out to be needed.
func login(cmd *cobra.Command, c *client.Client, name string, password, code enroll.Secret) (*enroll.APIToken, error) {
	t, err := c.Login(cmd.Context(), name, password, code)
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Kind() != enroll.KindSecondFactor || code != "" {
		return t, err
	}
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !term.IsTerminal(int(in.Fd())) {
		return nil, err
	}
	if code, err = typedPassword(cmd, in, "code of the authenticator app"); err != nil {
		return nil, err
	}
	return c.Login(cmd.Context(), name, password, code)
}

func newLogoutCommand() *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use: "logout --token-file FILE", Short: "End the API token of a login, or of a program", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.tokenFile == "" {
				return usageError(errors.New("--token-file is missing"), "name the file that fleetca login wrote")
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			t, err := c.Logout(cmd.Context())
			if err != nil {
				return clientError(err)
			}
			return printFacts(cmd.OutOrStdout(), "token", t.ID, "state", tokenState(t))
		},
	}
	flags.addServer(cmd.Flags())
	flags.addToken(cmd.Flags())
	return cmd
}
