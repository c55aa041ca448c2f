package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var tokenPrefix = regexp.MustCompile(`^fc[a-z]_`)

// forms are what secrets look like, whoever made them.
var forms = []struct {
	what string
	form *regexp.Regexp
}{
	{"a token", regexp.MustCompile(`\bfc[a-z]_[A-Za-z0-9_-]{40,}`)},
	{"a canary", regexp.MustCompile(`CANARY-[A-Za-z-]+-7f3a9c`)},
	{"a private key", regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)},
	{"a password's hash", regexp.MustCompile(`\$argon2id\$v=`)},
	{"a database's password", regexp.MustCompile(`postgres(ql)?://[^\s/@:"]*:[^\s/@"]+@`)},
	{"a bearer's header", regexp.MustCompile(`(?i)authorization:\s*(bearer|basic)\s+[A-Za-z0-9_+/=-]{16,}`)},
}

// A Leak is a secret that shows.
type Leak struct {
	File string
	What string
	Text string // around it
}

func (l Leak) String() string { return fmt.Sprintf("%s: %s shows: %s", l.File, l.What, l.Text) }

// asked are the commands that print a secret because they were asked for it:
// what they print on their standard output in a script's log is no leak.
var asked = regexp.MustCompile(`(?ms)^\s*> exec fleetca (user token|token create|device renewal-link)\b[^\n]*\n\s*\[stdout\]\n.*?^\s*(> |\[stderr\])`)

// innocent is what a database's URL shows in place of a password.
var innocent = regexp.MustCompile(`:x+@$`)

// find returns the secrets that show in a text.
func find(file, text string, secrets []string) []Leak {
	text = asked.ReplaceAllString(text, "")
	var leaks []Leak
	add := func(what string, at []int) {
		leaks = append(leaks, Leak{file, what, text[max(0, at[0]-120):min(len(text), at[1]+40)]})
	}
	for _, f := range forms {
		for _, at := range f.form.FindAllStringIndex(text, -1) {
			if !innocent.MatchString(text[at[0]:at[1]]) {
				add(f.what, at)
			}
		}
	}
	for _, secret := range secrets {
		if i := strings.Index(text, secret); i >= 0 {
			add("a secret of a test", []int{i, i + len(secret)})
		}
	}
	return leaks
}

// A Scanned is what Scan looked through.
type Scanned struct {
	Files, Bytes, Secrets int
	Leaks                 []Leak
}

// Scan looks through every file of a folder.
func Scan(dir string) (*Scanned, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	s := &Scanned{}
	texts := map[string]string{}
	var secrets []string
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, secretEnd) {
			secrets = append(secrets, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
			continue
		}
		texts[filepath.Base(name)] = string(text)
	}
	slices.Sort(secrets)
	secrets = slices.Compact(secrets)
	s.Secrets = len(secrets)
	for name, text := range texts {
		s.Files++
		s.Bytes += len(text)
		s.Leaks = append(s.Leaks, find(name, text, secrets)...)
	}
	return s, nil
}
