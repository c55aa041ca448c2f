package mqtts

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// isPrint tells a rune that does nothing to a terminal but show.
func isPrint(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }

// printable returns s without control characters and cut to at most limit
// runes: what a broker sent goes to terminals.
func printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == limit {
			b.WriteString("...")
			break
		}
		if !isPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}
