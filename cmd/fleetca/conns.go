package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// openConns are the connections on which a request is awaited for the first
// time, or being answered. It is safe for concurrent use.
type openConns struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

// note is http.Server.ConnState.
func (o *openConns) note(c net.Conn, state http.ConnState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if state != http.StateNew && state != http.StateActive {
		delete(o.open, c)
		return
	}
	if o.open == nil {
		o.open = map[net.Conn]bool{}
	}
	o.open[c] = true
}

func (o *openConns) none() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.open) == 0
}

// Bounds of drain: a connection that was accepted is seen within drainLeast,
// and one on which nobody asks anything is not waited for longer than drainMost.
const (
	drainLeast = 20 * time.Millisecond
	drainMost  = 5 * time.Second
	drainPause = 5 * time.Millisecond
)

// drain waits until every request on an open connection is answered.
func (o *openConns) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainMost)
	defer cancel()
	for pause := drainLeast; ; pause = drainPause {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if o.none() {
			return
		}
	}
}
