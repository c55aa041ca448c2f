package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/fleetca/fleetca/enroll"
)

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// A column is one column of a listing.
type column[T any] struct {
	title string
	text  func(T) string
}

// A format is how a listing is written.
type format int

const (
	asTable format = iota
	asJSON         // the items whole
	asCSV          // RFC 4180, the table's columns
)

// printList writes a listing.
func printList[T any](w io.Writer, as format, items iter.Seq2[T, error], columns []column[T]) error {
	all := []T{}
	for item, err := range items {
		if err != nil {
			return clientError(err)
		}
		all = append(all, item)
	}
	if as == asJSON {
		return printJSON(w, all)
	}
	rows := make([][]string, 1, len(all)+1)
	for _, c := range columns {
		rows[0] = append(rows[0], c.title)
	}
	for _, item := range all {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = printable(c.text(item))
		}
		rows = append(rows, cells)
	}
	if as == asCSV {
		return printCSV(w, rows)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range rows {
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// printCSV writes rows, in which no text is a formula to a spreadsheet.
func printCSV(w io.Writer, rows [][]string) error {
	for _, cells := range rows {
		for i, text := range cells {
			cells[i] = enroll.SpreadsheetText(text)
		}
	}
	out := csv.NewWriter(w)
	return out.WriteAll(rows)
}

// printFacts writes names and values, aligned.
func printFacts(w io.Writer, facts ...string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(facts); i += 2 {
		fmt.Fprintf(tw, "%s\t%s\n", facts[i], printable(facts[i+1]))
	}
	return tw.Flush()
}

// printable replaces control characters: text from elsewhere must not steer
// the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}

// day writes a time for a table.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// isTerminal reports whether a person looks at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && isatty.IsTerminal(f.Fd())
}

// isColourTerminal reports whether w is a terminal whose user has not asked
// for plain text (https://no-color.org).
func isColourTerminal(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
