package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

func newManufacturerCommand() *cobra.Command {
	return newClientGroup("manufacturer", "Let devices enroll with the certificates they were made with", newManufacturerAddCommand, newManufacturerListCommand,
		newManufacturerShowCommand, newManufacturerUpdateCommand, newManufacturerDisableCommand, newManifestCommand, newManifestListCommand, newManifestRemoveCommand)
}

func newManufacturerAddCommand(flags *clientFlags) *cobra.Command {
	var m enroll.NewManufacturer
	var file string
	cmd := &cobra.Command{
		Use: "add ID --cert FILE", Short: "Register the authority of a manufacturer",
		Long: `Register the authority of a manufacturer, whose certificates (IDevIDs, IEEE 802.1AR)
its devices are made with. A device that its manifest names presents that
certificate to the listener for machines, and enrolls without a token: once, or
with --reenroll again, which revokes what it held as superseded.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usageError(errors.New("--cert is missing"), "name a PEM file with the certificate of the manufacturer's authority")
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return usageError(err, "--cert names a PEM file with the certificate of the manufacturer's authority")
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			m.ID, m.Certificate = args[0], string(text)
			made, err := c.AddManufacturer(cmd.Context(), m, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printManufacturer(cmd, flags, made)
		},
	}
	cmd.Flags().StringVar(&file, "cert", "", "PEM file with the authority's certificate")
	cmd.Flags().BoolVar(&m.Reenroll, "reenroll", false, "its devices may enroll again")
	return cmd
}

func newManufacturerListCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List manufacturers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.Manufacturers(cmd.Context()), []column[*enroll.Manufacturer]{
				{"ID", func(m *enroll.Manufacturer) string { return m.ID }},
				{"STATE", func(m *enroll.Manufacturer) string { return string(m.State) }},
				{"DEVICES", func(m *enroll.Manufacturer) string { return strconv.FormatInt(m.Devices, 10) }},
				{"ENROLLED", func(m *enroll.Manufacturer) string { return strconv.FormatInt(m.Enrolled, 10) }},
				{"EXPIRES", func(m *enroll.Manufacturer) string { return day(m.NotAfter) }},
				{"SUBJECT", func(m *enroll.Manufacturer) string { return m.Subject }},
			})
		},
	}
}

func newManufacturerShowCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a manufacturer", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			m, err := c.Manufacturer(cmd.Context(), args[0])
			if err != nil {
				return clientError(err)
			}
			return printManufacturer(cmd, flags, m)
		},
	}
}

func printManufacturer(cmd *cobra.Command, flags *clientFlags, m *enroll.Manufacturer) error {
	if flags.json {
		return printJSON(cmd.OutOrStdout(), m)
	}
	enrolls := "once"
	if m.Reenroll {
		enrolls = "again and again"
	}
	return printFacts(cmd.OutOrStdout(), "manufacturer", m.ID, "state", string(m.State), "subject", m.Subject, "SHA-256", m.SHA256,
		"until", day(m.NotAfter), "a device enrolls", enrolls, "enrolled", fmt.Sprintf("%d of %d", m.Enrolled, m.Devices))
}

func newManufacturerUpdateCommand(flags *clientFlags) *cobra.Command {
	var reenroll bool
	var state string
	cmd := &cobra.Command{
		Use: "update ID", Short: "Enable or disable a manufacturer, or say whether its devices enroll again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var u enroll.ManufacturerUpdate
			if cmd.Flags().Changed("reenroll") {
				u.Reenroll = &reenroll
			}
			if cmd.Flags().Changed("state") {
				u.State = new(enroll.ManufacturerState(state))
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			m, err := c.UpdateManufacturer(cmd.Context(), args[0], u, client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printManufacturer(cmd, flags, m)
		},
	}
	cmd.Flags().BoolVar(&reenroll, "reenroll", false, "its devices may enroll again")
	cmd.Flags().StringVar(&state, "state", "", "active or disabled")
	return cmd
}

func newManufacturerDisableCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "disable ID", Short: "Keep a manufacturer's certificates from enrolling devices", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			m, err := c.DisableManufacturer(cmd.Context(), args[0], client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printManufacturer(cmd, flags, m)
		},
	}
}
