package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/fleetca/fleetca/enroll"
)

// maxPasswordLine bounds what is read of a password's file.
const maxPasswordLine = 1 << 10

// readPassword returns a password: the first line of the file if one is named,
// what a person types at the terminal, or the first line of standard input. A
// new one is asked for twice. It is never an argument: those are in the list
// of processes and in the shell's history.
func readPassword(cmd *cobra.Command, file, prompt string, isNew bool) (enroll.Secret, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", usageError(fmt.Errorf("read the password: %w", err), "give --password-file FILE, or type it at the prompt")
		}
		defer f.Close()
		return firstLine(f)
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return firstLine(cmd.InOrStdin())
	}
	password, err := typedPassword(cmd, in, prompt)
	if err != nil || !isNew {
		return password, err
	}
	again, err := typedPassword(cmd, in, "the same again")
	if err == nil && again != password {
		err = usageError(errors.New("the two are not the same"), "nothing was changed; try again")
	}
	return password, err
}

// typedPassword reads a line from the terminal without showing it.
func typedPassword(cmd *cobra.Command, in *os.File, prompt string) (enroll.Secret, error) {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: ", prompt)
	text, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return enroll.Secret(text), nil
}

func firstLine(r io.Reader) (enroll.Secret, error) {
	text, err := bufio.NewReader(io.LimitReader(r, maxPasswordLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	text = strings.TrimRight(text, "\r\n")
	if text == "" {
		return "", usageError(errors.New("the password is missing"), "give --password-file FILE, or write it to standard input")
	}
	return enroll.Secret(text), nil
}
