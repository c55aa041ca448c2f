package brokerkit

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// A process is a program that runs until the end of its test. What it prints is
// shown when the test fails.
type process struct {
	*exec.Cmd
	stdin io.WriteCloser
	out   *output
	ended chan struct{} // closed when it ended
}

// run starts a command. Its standard input stays open until the test ends, or
// the test's process dies.
func run(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, out: &output{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait() // it is killed
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s (%v) printed:\n%s", cmd.Path, cmd.ProcessState, p.out.tail())
		}
	})
	return p
}

// kill ends the process and waits for its end.
func (p *process) kill() {
	p.stdin.Close()
	p.Process.Kill()
	<-p.ended
}

// await waits until something listens on every port.
func (p *process) await(ports ...int) error {
	deadline := time.Now().Add(startTimeout)
	for _, port := range ports {
		for {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-p.ended:
				return fmt.Errorf("%s ended", p.Path)
			case <-time.After(10 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				return err
			}
		}
	}
	return nil
}

// awaitOutput waits until the process has printed text after the first `from`
// bytes, and reports whether it did.
func (p *process) awaitOutput(from int, text string, timeout time.Duration) bool {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); {
		if strings.Contains(p.out.since(from), text) {
			return true
		}
		select {
		case <-p.ended:
			return strings.Contains(p.out.since(from), text)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

// An output keeps what is written to it. It is safe for concurrent use.
type output struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

func (o *output) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.text)
}

// since returns what was written after the first n bytes.
func (o *output) since(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text[n:])
}

// tail returns the end of what was written.
func (o *output) tail() string {
	const most = 8 << 10
	return o.since(max(0, o.size()-most))
}
