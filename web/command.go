package web

import (
	"encoding/json"
	"regexp"
	"strings"
)

// A command is what a page does, for a terminal: with curl, and with the
// program. Both read the API token from the file "token", and trust the root in
// trust-bundle.pem.
type command struct{ Curl, CLI string }

// command returns the command of a POST to a path of the REST API, with a body
// unless that is nil. cli are the program's arguments; none when it has no such
// command.
func (s *Site) command(path string, body any, cli ...string) command {
	curl := []string{"curl", "-sS", "--cacert", "trust-bundle.pem", "-H", `"Authorization: Bearer $(cat token)"`}
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			panic("body of a command: " + err.Error()) // our own types
		}
		curl = append(curl, "-H", shellWord("Content-Type: application/json"), "-d", shellWord(string(text)))
	}
	c := command{Curl: strings.Join(append(curl, "-X", "POST", shellWord(s.cfg.APIURL+"/api/v1"+path)), " ")}
	if len(cli) > 0 {
		c.CLI = s.program(cli...)
	}
	return c
}

// program returns a command of the program, with the flags of the connection.
func (s *Site) program(arguments ...string) string {
	words := []string{"fleetca"}
	for _, a := range arguments {
		words = append(words, shellWord(a))
	}
	return strings.Join(append(words, "--server", shellWord(s.cfg.APIURL), "--ca", "trust-bundle.pem", "--token-file", "token"), " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,-]+$`)

// shellWord quotes a text for a POSIX shell, where that is needed.
func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
