package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// MaxManifestRows is how many lines of a manifest one call adds, in one
// transaction.
const MaxManifestRows = 500

// maxSubjectSerial is ub-serial-number (RFC 5280, appendix A.1).
const maxSubjectSerial = 64

// A ManifestEntry says which device a manufacturer's certificate is. Of what it
// is known by at least one is given, and all that is given must be so.
type ManifestEntry struct {
	DeviceID          string          `json:"deviceId"`
	SubjectSerial     string          `json:"subjectSerial,omitempty"`     // serialNumber of the certificate's subject (X.520)
	CertificateSerial ca.SerialNumber `json:"certificateSerial,omitempty"` // of the certificate itself
	SHA256            string          `json:"sha256,omitempty"`            // of the certificate, hex
	WorkOrder         string          `json:"workOrder,omitempty"`         // whose quota the device takes one of
	SerialNumber      ca.SerialNumber `json:"serialNumber,omitempty"`      // of the certificate that it enrolled for last
	EnrolledAt        *time.Time      `json:"enrolledAt,omitempty"`        // missing while it has not
	AddedAt           time.Time       `json:"addedAt"`
}

// Same reports whether two entries say the same of the same device.
func (e ManifestEntry) Same(o ManifestEntry) bool {
	return e.DeviceID == o.DeviceID && e.SubjectSerial == o.SubjectSerial && e.CertificateSerial == o.CertificateSerial &&
		e.SHA256 == o.SHA256 && e.WorkOrder == o.WorkOrder
}

// manifestColumns say where the text of a column goes.
var manifestColumns = map[string]func(e *ManifestEntry, text string) error{
	"deviceId": func(e *ManifestEntry, text string) error {
		e.DeviceID = text
		return CheckDeviceID("deviceId", text)
	},
	"subjectSerial": func(e *ManifestEntry, text string) error {
		e.SubjectSerial = text
		return checkText("subjectSerial", text, maxSubjectSerial)
	},
	"certificateSerial": func(e *ManifestEntry, text string) (err error) {
		e.CertificateSerial, err = ca.ParseSerialNumber(text)
		return err
	},
	"sha256": func(e *ManifestEntry, text string) error {
		e.SHA256 = strings.ToLower(strings.ReplaceAll(text, ":", ""))
		if b, err := hex.DecodeString(e.SHA256); err != nil || len(b) != sha256.Size {
			return errors.New("sha256 is not 64 hexadecimal digits")
		}
		return nil
	},
	"workOrder": func(e *ManifestEntry, text string) error {
		e.WorkOrder = text
		return checkID("workOrder", text)
	},
}

// ManifestHint says how a manifest is written.
const ManifestHint = "the first line names the columns: deviceId, at least one of subjectSerial, certificateSerial and sha256, and workOrder as needed"

// ParseManifest reads a manifest: CSV (RFC 4180) with a header. It is refused
// whole for a mistake in any line, and for a device or a certificate that is
// there twice. The error names the line.
func ParseManifest(r io.Reader) ([]ManifestEntry, error) {
	lines := csv.NewReader(r)
	lines.TrimLeadingSpace = true
	header, err := lines.Read()
	if err != nil {
		return nil, ca.Errorf(ca.KindMalformed, "csv", ManifestHint, "has no first line that can be read: %w", err)
	}
	columns, err := manifestHeader(header)
	if err != nil {
		return nil, err
	}
	var all []ManifestEntry
	seen := map[string]int{} // lines by what must not be there twice
	for {
		cells, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, ca.Errorf(ca.KindMalformed, "csv", "mend the line; a line has as many cells as the header", "cannot be read: %s", err)
		}
		line, _ := lines.FieldPos(0)
		var e ManifestEntry
		for i, text := range cells {
			if text = strings.TrimSpace(text); text != "" && err == nil {
				err = columns[i](&e, text)
			}
		}
		if err == nil {
			err = e.check(seen, line)
		}
		if err != nil {
			return nil, ca.Errorf(ca.KindMalformed, "csv", "mend the line; nothing was added", "line %d: %s", line, err)
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		return nil, ca.Errorf(ca.KindMalformed, "csv", ManifestHint, "holds no device")
	}
	return all, nil
}

func manifestHeader(header []string) ([]func(*ManifestEntry, string) error, error) {
	header[0] = strings.TrimPrefix(header[0], "\uFEFF") // spreadsheets begin with it
	var columns []func(*ManifestEntry, string) error
	for i, name := range header {
		header[i] = strings.TrimSpace(name)
		set := manifestColumns[header[i]]
		if set == nil || slices.Contains(header[:i], header[i]) {
			return nil, ca.Errorf(ca.KindMalformed, "csv", ManifestHint, "the column %.40q is not known, or is there twice", name)
		}
		columns = append(columns, set)
	}
	if !slices.Contains(header, "deviceId") {
		return nil, ca.Errorf(ca.KindMalformed, "csv", ManifestHint, "there is no column deviceId")
	}
	return columns, nil
}

// check refuses an entry that says too little, or the same as one before.
func (e *ManifestEntry) check(seen map[string]int, line int) error {
	if e.DeviceID == "" {
		return errors.New("deviceId is missing")
	}
	if e.SubjectSerial == "" && e.CertificateSerial == "" && e.SHA256 == "" {
		return errors.New("says nothing of the certificate: give subjectSerial, certificateSerial or sha256")
	}
	for _, k := range []struct{ name, value string }{
		{"device", e.DeviceID}, {"subjectSerial", e.SubjectSerial}, {"certificateSerial", string(e.CertificateSerial)}, {"sha256", e.SHA256},
	} {
		if k.value == "" {
			continue
		}
		if before := seen[k.name+" "+k.value]; before != 0 {
			return fmt.Errorf("%s %s is on line %d already", k.name, k.value, before)
		}
		seen[k.name+" "+k.value] = line
	}
	return nil
}

// ManifestRequest adds lines to a manifest.
type ManifestRequest struct {
	CSV string `json:"csv"` // RFC 4180, 500 lines at most
}

// ManifestResult says what became of lines.
type ManifestResult struct {
	Added     int `json:"added"`
	Unchanged int `json:"unchanged"` // were there already, just so
}

// AddManifest adds lines to a manufacturer's manifest, all or none. Lines that
// are there already are no mistake, so that a file can be sent again.
// KindConflict for a device or a certificate that is there otherwise.
func (s *Service) AddManifest(ctx context.Context, c Call, id string, r ManifestRequest) (*ManifestResult, error) {
	entries, err := ParseManifest(strings.NewReader(r.CSV))
	if err != nil {
		return nil, err
	}
	if len(entries) > MaxManifestRows {
		return nil, ca.Errorf(ca.KindTooLarge, "csv", "send it in parts, each with the header", "has %d lines, more than %d", len(entries), MaxManifestRows)
	}
	now := s.now()
	for i := range entries {
		entries[i].AddedAt = now
		if err := c.Principal.mayServe(entries[i].WorkOrder); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256([]byte(r.CSV))
	result := &ManifestResult{Unchanged: len(entries)}
	err = s.repeatable(ctx, c, "manifest.add", map[string]any{"manufacturer": id, "csv": r.CSV}, nil, func(i *Idempotency) error {
		detail := map[string]any{"lines": len(entries), "sha256": hex.EncodeToString(sum[:])}
		added, err := s.store.AddManifest(ctx, id, entries, Change{Idempotency: i,
			Event: newEvent(now, c.Principal.Name, "manifest.add", "manufacturer:"+id, detail)})
		result.Added, result.Unchanged = added, len(entries)-added
		return err
	})
	if again := (*Replay)(nil); errors.As(err, &again) { // added before: nothing is by this call
		return result, nil
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// Manifest lists a manufacturer's manifest by device.
func (s *Service) Manifest(ctx context.Context, id string, p Page) ([]*ManifestEntry, string, error) {
	if _, err := s.store.Manufacturer(ctx, id); err != nil {
		return nil, "", err
	}
	return s.store.Manifest(ctx, id, p)
}

// ManifestRemoval takes lines off a manifest.
type ManifestRemoval struct {
	DeviceIDs []string `json:"deviceIds"` // 1 to 500
}

// RemoveManifest takes devices off a manufacturer's manifest, all or none: their
// certificates of birth enroll nothing any more, until they are added again.
// What they are enrolled for stays.
func (s *Service) RemoveManifest(ctx context.Context, c Call, id string, r ManifestRemoval) (*Manufacturer, error) {
	if len(r.DeviceIDs) == 0 || len(r.DeviceIDs) > MaxManifestRows {
		return nil, ca.Errorf(ca.KindMalformed, "deviceIds", "send more in parts", "must be 1 to %d", MaxManifestRows)
	}
	devices := slices.Compact(slices.Sorted(slices.Values(r.DeviceIDs)))
	if t := c.Principal.Token; t != nil && t.WorkOrder != "" {
		for _, device := range devices {
			e, err := s.store.ManifestOf(ctx, id, device)
			if err != nil {
				return nil, err
			}
			if err := c.Principal.mayServe(e.WorkOrder); err != nil {
				return nil, err
			}
		}
	}
	err := s.repeatable(ctx, c, "manifest.remove", map[string]any{"manufacturer": id, "devices": devices}, nil, func(i *Idempotency) error {
		return s.store.RemoveManifest(ctx, id, devices, Change{Idempotency: i,
			Event: newEvent(s.now(), c.Principal.Name, "manifest.remove", "manufacturer:"+id, map[string]any{"devices": devices})})
	})
	if again := (*Replay)(nil); err != nil && !errors.As(err, &again) {
		return nil, err
	}
	return s.store.Manufacturer(ctx, id)
}
