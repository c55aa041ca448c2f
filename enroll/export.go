package enroll

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Format is how a listing is exported.
type Format string

// The formats.
const (
	FormatCSV  Format = "csv"  // RFC 4180, with a header; text that a spreadsheet would take for a formula begins with '
	FormatJSON Format = "json" // an array, an item a line
)

// exportPage is how many items an export holds in memory.
const exportPage = 500

// ExportDevices writes every device that the filter lets through, page by page
// in the order of Devices, in bounded memory. A device that is added or changed
// meanwhile may or may not be there.
func (s *Service) ExportDevices(ctx context.Context, f DeviceFilter, w io.Writer, format Format) error {
	return export(w, format, func(p Page) ([]*Device, string, error) { return s.store.Devices(ctx, f, p) }, deviceColumns)
}

// ExportEvents is ExportDevices for the audit trail, newest first.
func (s *Service) ExportEvents(ctx context.Context, f EventFilter, w io.Writer, format Format) error {
	return export(w, format, func(p Page) ([]*Event, string, error) { return s.Events(ctx, f, p) }, eventColumns)
}

// An exportColumn is one column of a CSV file.
type exportColumn[T any] struct {
	title string
	text  func(T) string
}

var deviceColumns = []exportColumn[*Device]{
	{"id", func(d *Device) string { return d.ID }},
	{"status", func(d *Device) string { return string(d.Status) }},
	{"group", func(d *Device) string { return d.Group }},
	{"workOrder", func(d *Device) string { return d.WorkOrder }},
	{"expiresAt", func(d *Device) string { return optionalTime(d.ExpiresAt) }},
	{"createdAt", func(d *Device) string { return d.CreatedAt.Format(time.RFC3339) }},
	{"lastSeenAt", func(d *Device) string { return optionalTime(d.LastSeenAt) }},
	{"trustGeneration", func(d *Device) string { return strconv.FormatInt(d.TrustGeneration, 10) }},
	{"attributes", func(d *Device) string { return jsonText(d.Attributes) }},
}

var eventColumns = []exportColumn[*Event]{
	{"id", func(e *Event) string { return e.ID }},
	{"at", func(e *Event) string { return e.At.Format(time.RFC3339Nano) }},
	{"actor", func(e *Event) string { return e.Actor }},
	{"action", func(e *Event) string { return e.Action }},
	{"subject", func(e *Event) string { return e.Subject }},
	{"detail", func(e *Event) string { return string(e.Detail) }},
}

func optionalTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

// jsonText returns a map of texts as JSON, in the order of its keys.
func jsonText(m map[string]string) string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("attributes: %v", err)) // texts always marshal
	}
	return string(text)
}

// export writes a listing.
func export[T any](w io.Writer, format Format, page func(Page) ([]T, string, error), columns []exportColumn[T]) error {
	out := bufio.NewWriter(w)
	var write func(T) error
	var end func() error
	switch format {
	case FormatCSV:
		write, end = csvWriter(out, columns)
	case FormatJSON:
		write, end = jsonWriter[T](out)
	default:
		return ca.Errorf(ca.KindMalformed, "format", "csv or json", "%.40q is no format of an export", string(format))
	}
	for cursor := ""; ; {
		items, next, err := page(Page{Limit: exportPage, Cursor: cursor})
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := write(item); err != nil {
				return fmt.Errorf("write the export: %w", err)
			}
		}
		if next == "" {
			return errors.Join(end(), out.Flush())
		}
		cursor = next
	}
}

// csvWriter writes items as lines of CSV, under a header.
func csvWriter[T any](w io.Writer, columns []exportColumn[T]) (write func(T) error, end func() error) {
	out := csv.NewWriter(w)
	cells := make([]string, len(columns))
	begun := false
	header := func() error {
		if begun {
			return nil
		}
		begun = true
		for i, c := range columns {
			cells[i] = c.title
		}
		return out.Write(cells)
	}
	write = func(item T) error {
		if err := header(); err != nil {
			return err
		}
		for i, c := range columns {
			cells[i] = SpreadsheetText(c.text(item))
		}
		return out.Write(cells)
	}
	return write, func() error {
		err := header()
		out.Flush()
		return errors.Join(err, out.Error())
	}
}

// jsonWriter writes items as an array.
func jsonWriter[T any](w io.Writer) (write func(T) error, end func() error) {
	before := "[\n"
	write = func(item T) error {
		text, err := json.Marshal(item)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, before+string(text))
		before = ",\n"
		return err
	}
	return write, func() error {
		after := "\n]\n"
		if before == "[\n" {
			after = "[]\n"
		}
		_, err := io.WriteString(w, after)
		return err
	}
}

// SpreadsheetText returns text that no spreadsheet takes for a formula: what
// might be one, behind an apostrophe.
func SpreadsheetText(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n", rune(text[0])) {
		return "'" + text
	}
	return text
}
