package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/enroll/brokers/mosquitto"
)

func newBrokerConfigCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Write a broker's configuration, on its host"}
	cmd.AddCommand(newBrokerConfigMosquittoCommand())
	return cmd
}

var notID = regexp.MustCompile(`[^A-Za-z0-9._-]`)

func newBrokerConfigMosquittoCommand() *cobra.Command {
	var s mosquitto.Settings
	var out, names string
	cmd := &cobra.Command{
		Use:   "mosquitto --out DIR --url mqtts://HOST:8883",
		Short: "Write a folder that Mosquitto is started with",
		Long: `Write a folder that an Eclipse Mosquitto on this host is started with: a listener
that demands client certificates and checks CRLs, the user name from the
certificate's common name, and an access list that keeps each device below
devices/ID/. The server, started with --mosquitto DIR, then gives it its
certificate, the CAs of devices and the CRLs, and keeps them new.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case out == "":
				return usageError(errors.New("--out is missing"), "name the folder to write")
			case s.URL == "":
				return usageError(errors.New("--url is missing"), "write the address that devices dial: mqtts://HOST:8883")
			}
			s.Names = splitList(names)
			if s.ID == "" {
				s.ID = notID.ReplaceAllString(filepath.Base(filepath.Clean(out)), "-")
			}
			if err := mosquitto.WriteConfig(out, s); err != nil {
				if errors.Is(err, os.ErrExist) {
					return hinted(err, "give --overwrite to replace the configuration; certificates and CRLs stay")
				}
				return usageErrorOf(err)
			}
			abs, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Broker %s is configured in %s\n\nNext:\n  fleetca serve --data DIR --mosquitto %s\n  mosquitto -c %s\n",
				s.ID, out, abs, filepath.Join(abs, "mosquitto.conf"))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "folder to write")
	f.StringVar(&s.ID, "id", "", "broker id (default: the folder's name)")
	f.StringVar(&s.URL, "url", "", "address that devices dial, mqtts://HOST:8883")
	f.StringVar(&names, "names", "", "DNS names and IP addresses of its certificate, comma-separated (default: the host)")
	f.StringVar(&s.Listen, "listen", "", "HOST:PORT of the listener (default: the URL's port on all addresses)")
	f.StringVar(&s.User, "user", "", "user that Mosquitto becomes when root starts it (default mosquitto)")
	f.StringSliceVar(&s.Applications, "application", nil, "common name of a back end that may read and write all below devices/; may be repeated")
	f.IntVar(&s.MaxConnections, "max-connections", 0, "most clients of the listener (default 100000)")
	f.BoolVar(&s.Overwrite, "overwrite", false, "replace a configuration that is there")
	return cmd
}
