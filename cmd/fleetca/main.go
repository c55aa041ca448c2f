// Command fleetca is an internal certification authority for IoT fleets: it
// issues, rotates and revokes the certificates of devices and MQTT brokers,
// and proves at the real broker that they work, or that they no longer do.
//
//	fleetca demo        shows all of it, on this machine, in a few seconds
//	fleetca init        makes an authority
//	fleetca serve       runs it
//	fleetca verify URL  verifies a broker, step by step
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run runs one command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "fleetca: %v\n", err)
		if hint := hintOf(err); hint != "" {
			fmt.Fprintf(stderr, "  hint: %s\n", hint)
		}
	}
	return exitCode(err)
}

// newRootCommand returns the whole command line.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "fleetca",
		Short: "A certification authority for IoT fleets that looks at the broker",
		Long: `fleetca issues, rotates and revokes the certificates of devices and MQTT
brokers, and proves at the real broker that they work, or that they no longer do.

Every flag can also be set as FLEETCA_NAME in the environment, or as a key of
the file given with --config (YAML); flags come first, then the environment,
then the file.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: applyConfig,
	}
	root.PersistentFlags().String("config", "", "YAML file with flags as keys")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd.HasAvailableSubCommands() && len(words) > 0 {
			return unknownCommand(cmd, words[0]) // whose flag it is
		}
		return usageError(err, "see "+cmd.CommandPath()+" --help")
	})
	root.AddGroup(
		&cobra.Group{ID: "server", Title: "On the server:"},
		&cobra.Group{ID: "client", Title: "From anywhere, over the REST API:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("server", newDemoCommand(), newInitCommand(), newServeCommand(), newMigrateCommand(), newSeedCommand(), newBackupCommand(), newRestoreCommand(), newUserCommand(), newInstallCommand(), newDoctorCommand(), newPassphraseCommand(), newRootCommandGroup())
	add("client", newLoginCommand(), newLogoutCommand(), newDeviceCommand(), newBrokerCommand(), newOrderCommand(), newTokenCommand(), newCertCommand(), newIssuerCommand(), newProfileCommand(), newAuditCommand(), newManufacturerCommand(), newTrustCommand())
	root.AddCommand(newVerifyCommand(), newVersionCommand())
	checkArguments(root)
	return root
}

// unknownCommand names the command of a group that was meant, or all.
func unknownCommand(group *cobra.Command, word string) error {
	group.SuggestionsMinimumDistance = 2
	meant := group.SuggestionsFor(word)
	if len(meant) == 0 {
		for _, c := range group.Commands() {
			if c.IsAvailableCommand() {
				meant = append(meant, c.Name())
			}
		}
	}
	return usageError(fmt.Errorf("%s has no command %q", group.CommandPath(), word), "it has "+strings.Join(meant, ", ")+"; see "+group.CommandPath()+" --help")
}

// checkArguments makes a wrong argument a usage error in every command.
func checkArguments(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		checkArguments(c)
	}
	check := cmd.Args
	if check == nil {
		if !cmd.Runnable() {
			// A group: what follows it must be one of its commands.
			cmd.Args = func(c *cobra.Command, args []string) error {
				if len(args) > 0 {
					return unknownCommand(c, args[0])
				}
				return nil
			}
			cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
			return
		}
		check = cobra.NoArgs
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil && exitCode(err) != exitUsage {
			return usageError(err, "see "+c.CommandPath()+" --help")
		} else if err != nil {
			return err
		}
		return nil
	}
}
