package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/enroll"
)

func newManifestCommand(flags *clientFlags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "manifest ID --csv FILE", Short: "Say which of a manufacturer's certificates is which device's",
		Long: `Say which of a manufacturer's certificates is which device's. The file is CSV; its
first line names the columns: deviceId, what the certificate is known by
(subjectSerial: the serialNumber in its subject; certificateSerial; sha256; all
that a line gives must be so), and workOrder, whose quota the device takes one of.
A mistake anywhere refuses the file before anything is sent. Lines that are there
already are passed over, so that an interrupted command is run again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usageError(errors.New("--csv is missing"), "name a CSV file: "+enroll.ManifestHint)
			}
			parts, err := readManifest(file)
			if err != nil {
				return err
			}
			c, err := flags.open()
			if err != nil {
				return err
			}
			var all enroll.ManifestResult
			for _, part := range parts {
				r, err := c.AddManifest(cmd.Context(), args[0], part, client.IdempotencyKey(uuid.NewString()))
				if err != nil {
					return clientError(err)
				}
				all.Added += r.Added
				all.Unchanged += r.Unchanged
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return printFacts(cmd.OutOrStdout(), "added", fmt.Sprint(all.Added), "there before", fmt.Sprint(all.Unchanged))
		},
	}
	cmd.Flags().StringVar(&file, "csv", "", "the manifest")
	return cmd
}

// readManifest reads a manifest and returns it in parts, each as long as one
// call takes.
func readManifest(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError(err, "--csv names a CSV file: "+enroll.ManifestHint)
	}
	defer f.Close()
	entries, err := enroll.ParseManifest(f)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", path, err), "nothing was sent; "+enroll.ManifestHint)
	}
	var parts []string
	for some := range slices.Chunk(entries, manifestPart) {
		var b bytes.Buffer
		out := csv.NewWriter(&b)
		rows := [][]string{{"deviceId", "subjectSerial", "certificateSerial", "sha256", "workOrder"}}
		for _, e := range some {
			rows = append(rows, []string{e.DeviceID, e.SubjectSerial, string(e.CertificateSerial), e.SHA256, e.WorkOrder})
		}
		if err := out.WriteAll(rows); err != nil {
			return nil, err
		}
		parts = append(parts, b.String())
	}
	return parts, nil
}

// manifestPart is how many lines are sent in one call: what a body of 64 KiB
// holds, whatever is in them.
const manifestPart = 100

func newManifestListCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "devices ID", Short: "List a manufacturer's manifest", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), flags.listing(), c.Manifest(cmd.Context(), args[0]), []column[*enroll.ManifestEntry]{
				{"DEVICE", func(e *enroll.ManifestEntry) string { return e.DeviceID }},
				{"SUBJECT SERIAL", func(e *enroll.ManifestEntry) string { return e.SubjectSerial }},
				{"CERTIFICATE SERIAL", func(e *enroll.ManifestEntry) string { return string(e.CertificateSerial) }},
				{"SHA-256", func(e *enroll.ManifestEntry) string { return e.SHA256 }},
				{"WORK ORDER", func(e *enroll.ManifestEntry) string { return e.WorkOrder }},
				{"ENROLLED", func(e *enroll.ManifestEntry) string {
					if e.EnrolledAt == nil {
						return ""
					}
					return day(*e.EnrolledAt)
				}},
			})
		},
	}
}

func newManifestRemoveCommand(flags *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "remove ID DEVICE...", Short: "Take devices off a manufacturer's manifest", Args: cobra.MinimumNArgs(2),
		Long: `Take devices off a manufacturer's manifest: their certificates of birth enroll
nothing any more, until they are added again. What they are enrolled for stays.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.open()
			if err != nil {
				return err
			}
			m, err := c.RemoveManifest(cmd.Context(), args[0], args[1:], client.IdempotencyKey(uuid.NewString()))
			if err != nil {
				return clientError(err)
			}
			return printManufacturer(cmd, flags, m)
		},
	}
}
