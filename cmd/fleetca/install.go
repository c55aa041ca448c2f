package main

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/fleetca/fleetca/ca"
)

//go:embed install
var installFiles embed.FS

// An installation is a set of files that install writes, under the names they
// are installed with.
type installation struct {
	name, short, next string
	files             []string // below install/
}

var installations = []installation{
	{
		name: "systemd", short: "systemd unit, its user and its configuration",
		files: []string{"fleetca.service", "fleetca.sysusers", "fleetca.yaml"},
		next: `Next, as root, in that folder:
  install -m 644 fleetca.sysusers /usr/lib/sysusers.d/fleetca.conf && systemd-sysusers
  install -m 644 fleetca.service /etc/systemd/system/
  install -D -m 644 fleetca.yaml /etc/fleetca/fleetca.yaml        and edit public-host
  (umask 077; openssl rand -base64 30 > /etc/fleetca/passphrase)   and keep a copy elsewhere
  install -d -m 700 -o fleetca -g fleetca /var/lib/fleetca
  fleetca init --data /var/lib/fleetca --passphrase-file /etc/fleetca/passphrase --root-key-out /root/fleetca-root-key.pem
  chown -R fleetca:fleetca /var/lib/fleetca
  systemctl daemon-reload && systemctl enable --now fleetca
`,
	},
	{
		name: "container", short: "container file",
		files: []string{"Containerfile"},
		next:  "Next: the first lines of the file say how to build and run it.\n",
	},
	{
		name: "alerts", short: "alert rules for Prometheus",
		files: []string{"alerts.yaml"},
		next:  "Next: name the file in rule_files of Prometheus, and scrape http://HOST:8080/metrics as job fleetca.\n",
	},
	{
		name: "grafana", short: "board for Grafana",
		files: []string{"grafana.json"},
		next:  "Next: import the file in Grafana, and choose the Prometheus that scrapes fleetca.\n",
	},
}

func newInstallCommand() *cobra.Command {
	group := &cobra.Command{Use: "install", Short: "Write files for running it: systemd, container, alerts, Grafana board, man pages"}
	for _, i := range installations {
		group.AddCommand(newInstallFilesCommand(i))
	}
	group.AddCommand(newManCommand())
	return group
}

func newInstallFilesCommand(i installation) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   i.name + " --out DIR",
		Short: "Write the " + i.short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := prepareOut(out); err != nil {
				return err
			}
			for _, name := range i.files {
				text, err := installFiles.ReadFile("install/" + name)
				if err != nil {
					return err
				}
				path := filepath.Join(out, name)
				if err := ca.WriteNewFile(path, text, 0o644); err != nil {
					return inTheWay(err, "move it, or choose another --out")
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			fmt.Fprint(cmd.OutOrStdout(), "\n"+i.next)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "folder to write to; made when missing")
	return cmd
}

func newManCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "man --out DIR",
		Short: "Write a man page a command",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := prepareOut(out); err != nil {
				return err
			}
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "FLEETCA", Section: "1", Source: "fleetca"}, out)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "folder to write to; made when missing")
	return cmd
}

// prepareOut makes the folder of --out.
func prepareOut(out string) error {
	if out == "" {
		return usageError(errors.New("--out is missing"), "name the folder to write to")
	}
	return os.MkdirAll(out, 0o755)
}
