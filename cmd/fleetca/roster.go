package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fleetca/fleetca/enroll"
)

// A roster is the devices of a CSV file: a header line, then a line a device.
type roster struct{ devices []rosterDevice }

// A rosterDevice is one line.
type rosterDevice struct {
	enroll.EnrollRequest        // its CSR is empty until it is sent
	csrFile              string // empty for a key that is made here
}

// attributeColumn is how the name of a column of attributes begins.
const attributeColumn = "attributes."

// rosterColumns say where the text of a column goes. An empty cell leaves what
// the flags say.
var rosterColumns = map[string]func(d *rosterDevice, text string){
	"deviceId":  func(d *rosterDevice, text string) { d.DeviceID = text },
	"csr":       func(d *rosterDevice, text string) { d.csrFile = text },
	"workOrder": func(d *rosterDevice, text string) { d.WorkOrder = text },
	"profile":   func(d *rosterDevice, text string) { d.Profile = text },
}

// readRoster reads a CSV file (RFC 4180), and refuses it whole for a mistake
// in any line. Paths in it are relative to its folder; defaults hold where a
// cell is empty.
func readRoster(path string, defaults enroll.EnrollRequest) (*roster, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError(err, "--csv names a CSV file with the columns deviceId, csr, workOrder, profile, attributes.NAME")
	}
	defer f.Close()
	lines := csv.NewReader(f)
	lines.TrimLeadingSpace = true
	header, err := lines.Read()
	if errors.Is(err, io.EOF) {
		return nil, usageError(fmt.Errorf("%s is empty", path), "its first line names the columns, deviceId among them, for example: deviceId,workOrder")
	}
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", path, err), "its first line names the columns, for example: deviceId,workOrder")
	}
	if err := checkUTF8(path, lines, header); err != nil {
		return nil, err
	}
	columns, err := columnsOf(header)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", path, err), "columns are deviceId, csr, workOrder, profile and attributes.NAME")
	}
	r := &roster{}
	seen := map[string]int{}
	for {
		cells, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, usageError(fmt.Errorf("%s: %w", path, err), "mend the line; a line has as many cells as the header")
		}
		if err := checkUTF8(path, lines, cells); err != nil {
			return nil, err
		}
		d := rosterDevice{EnrollRequest: defaults}
		for i, text := range cells {
			if text = strings.TrimSpace(text); text != "" {
				columns[i](&d, text)
			}
		}
		if d.csrFile != "" && !filepath.IsAbs(d.csrFile) {
			d.csrFile = filepath.Join(filepath.Dir(path), d.csrFile)
		}
		at, _ := lines.FieldPos(0)
		if err := d.check(seen, at); err != nil {
			return nil, usageError(fmt.Errorf("%s line %d: %w", path, at, err), "mend the line; nothing was sent")
		}
		r.devices = append(r.devices, d)
	}
	return r, nil
}

// checkUTF8 refuses a line that was just read and is not UTF-8: what JSON cannot
// carry would be enrolled as U+FFFD.
func checkUTF8(path string, lines *csv.Reader, cells []string) error {
	for i, text := range cells {
		if !utf8.ValidString(text) {
			line, _ := lines.FieldPos(i)
			return usageError(fmt.Errorf("%s line %d: %q is not UTF-8", path, line, text), "save the file as UTF-8; nothing was sent")
		}
	}
	return nil
}

// columnsOf returns what to do with the cells of each column.
func columnsOf(header []string) ([]func(*rosterDevice, string), error) {
	header[0] = strings.TrimPrefix(header[0], "\uFEFF") // spreadsheets begin with it
	for i, name := range header {
		header[i] = strings.TrimSpace(name)
	}
	var columns []func(*rosterDevice, string)
	for i, name := range header {
		attribute, isAttribute := strings.CutPrefix(name, attributeColumn)
		set := rosterColumns[name]
		switch {
		case slices.Contains(header[:i], name):
			return nil, fmt.Errorf("the column %q is there twice", name)
		case isAttribute && attribute != "":
			set = func(d *rosterDevice, text string) {
				// A map of its own: that of the defaults is everybody's.
				own := map[string]string{attribute: text}
				for k, v := range d.Attributes {
					if k != attribute {
						own[k] = v
					}
				}
				d.Attributes = own
			}
		case set == nil:
			return nil, fmt.Errorf("the column %q is not known", name)
		}
		columns = append(columns, set)
	}
	if !slices.Contains(header, "deviceId") {
		return nil, errors.New("there is no column deviceId")
	}
	return columns, nil
}

// check refuses a device without a usable id, which is also its folder's name, or
// whose folder would be in the report's place, and one that was seen before; seen has the lines of those.
func (d *rosterDevice) check(seen map[string]int, line int) error {
	if err := enroll.CheckDeviceID("deviceId", d.DeviceID); err != nil {
		return err
	}
	if strings.EqualFold(d.DeviceID, failuresFile) {
		return fmt.Errorf("device %s would have its folder where the report %s is written: enroll it by itself", d.DeviceID, failuresFile)
	}
	if before := seen[d.DeviceID]; before != 0 {
		return fmt.Errorf("device %s is on line %d already", d.DeviceID, before)
	}
	seen[d.DeviceID] = line
	return nil
}
