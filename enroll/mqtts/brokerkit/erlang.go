package brokerkit

import (
	"fmt"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"
)

// A node is an Erlang virtual machine whose shell reads our pipe: it ends with
// the pipe, even when the test's process is killed.
type node struct{ *process }

// evaluations numbers what nodes were asked, so that answers are told apart.
var evaluations atomic.Int64

// eval runs an expression, without its full stop, in the node's shell and waits
// until it is done.
func (n node) eval(expression string) error {
	number := evaluations.Add(1)
	mark, from := fmt.Sprintf("evaluated %d: ", number), n.out.size()
	// Nothing of the answer is spelled in the question, should the shell echo it.
	line := fmt.Sprintf(`try %s of V -> io:format("~s ~b: ~0p~n", ["evaluated", %d, V])
 catch C:R -> io:format("~s ~b: ~s ~0p~n", ["evaluated", %d, "failed", {C, R}]) end.`+"\n", expression, number, number)
	if _, err := n.stdin.Write([]byte(line)); err != nil {
		return err
	}
	if !n.awaitOutput(from, mark, startTimeout) {
		return fmt.Errorf("%s: no answer in %v: %s", expression, startTimeout, n.out.tail())
	}
	if n.awaitOutput(from, mark+"failed", time.Millisecond) {
		return fmt.Errorf("%s: %s", expression, n.out.since(from))
	}
	return nil
}

// startEPMD runs a port mapper of our own, and returns its port.
func startEPMD(t testing.TB) int {
	t.Helper()
	port := ports(t, 1)[0]
	p := run(t, exec.Command(find(t, "epmd", "erlang-base"), "-address", "127.0.0.1", "-port", fmt.Sprint(port)))
	if err := p.await(port); err != nil {
		t.Fatalf("epmd does not run: %v\n%s", err, p.out.tail())
	}
	return port
}
