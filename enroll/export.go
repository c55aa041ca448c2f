package enroll

import (
	"context"
	"io"
)

// A Format is how a listing is exported.
type Format string

// The formats.
const (
	FormatCSV  Format = "csv"  // RFC 4180, with a header; text that a spreadsheet would take for a formula begins with '
	FormatJSON Format = "json" // an array, an item a line
)

// ExportDevices writes every device that the filter lets through, page by page
// in the order of Devices, in bounded memory. A device that is added or changed
// meanwhile may or may not be there.
func (s *Service) ExportDevices(ctx context.Context, f DeviceFilter, w io.Writer, format Format) error {
	return errNotYet
}

// ExportEvents is ExportDevices for the audit trail, newest first.
func (s *Service) ExportEvents(ctx context.Context, f EventFilter, w io.Writer, format Format) error {
	return errNotYet
}
