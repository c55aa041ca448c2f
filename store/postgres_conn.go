package store

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Times after which a connection that fell silent is given up. A network that
// drops packets is noticed by TCP; a peer that takes them and does not answer,
// by whoever waits for the answer with a deadline.
const (
	connectTimeout = 5 * time.Second  // to one host, unless the URL has connect_timeout
	pingTimeout    = 2 * time.Second  // of a connection that was idle, before it is used
	unanswered     = 10 * time.Second // of what was sent, by TCP
	probeAfter     = 10 * time.Second // of silence; then every probeEvery
	probeEvery     = 5 * time.Second
	probes         = 3
	closeTimeout   = time.Second // of a broken connection, which keeps its place in the pool meanwhile

	statementBound = 2 * time.Minute // longer than any takes that serves a request or a job
)

// watchSilence makes the connections of a pool notice that they fell silent. The
// pool is stored in the result once it is there.
func watchSilence(config *pgxpool.Config) *silence {
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probeEvery, Count: probes},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			return boundUnanswered(c, unanswered)
		},
	}
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return dialed{conn}, nil
	}
	if config.PingTimeout == 0 {
		config.PingTimeout = pingTimeout
	}
	w := &silence{bound: statementBound}
	config.ConnConfig.Tracer = w
	return w
}

// A dialed connection to the server. pgx sets a deadline in the future for
// nothing but the farewell of a broken connection, and a long one.
type dialed struct{ net.Conn }

func (c dialed) SetDeadline(t time.Time) error {
	if soon := time.Now().Add(closeTimeout); t.After(soon) {
		t = soon
	}
	return c.Conn.SetDeadline(t)
}

// A silence ends statements that nobody gave a deadline, and looks at how all
// end. When one is not answered by its deadline the idle connections are replaced
// too: what silenced the one, as the restart of a firewall does, has probably
// silenced all.
type silence struct {
	bound time.Duration // of a statement without a deadline, except atLeisure
	pool  atomic.Pointer[pgxpool.Pool]
}

// An atLeisureKey marks contexts of work whose statements take as long as there
// are rows.
type atLeisureKey struct{}

func atLeisure(ctx context.Context) context.Context {
	return context.WithValue(ctx, atLeisureKey{}, true)
}

// A boundKey is where a statement's context has its cancel.
type boundKey struct{}

// TraceQueryStart implements pgx.QueryTracer. The statement runs with the context
// that it returns.
func (w *silence) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if _, bounded := ctx.Deadline(); bounded || ctx.Value(atLeisureKey{}) != nil {
		return ctx
	}
	ctx, cancel := context.WithTimeout(ctx, w.bound)
	return context.WithValue(ctx, boundKey{}, cancel)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (w *silence) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryEndData) {
	if cancel, ok := ctx.Value(boundKey{}).(context.CancelFunc); ok {
		cancel()
	}
	if pool := w.pool.Load(); pool != nil && errors.Is(q.Err, context.DeadlineExceeded) && !pgconn.SafeToRetry(q.Err) {
		pool.Reset()
	}
}

// setSession makes up for what the server's defaults leave out; stricter ones
// stay. It turns on the wait for the disk (I1), and makes the server end the
// session, with its locks, of a client that is gone without a word (I2).
func setSession(ctx context.Context, c *pgx.Conn) error {
	types := c.TypeMap()
	types.TryWrapEncodePlanFuncs = append([]pgtype.TryWrapEncodePlanFunc{planRoomy}, types.TryWrapEncodePlanFuncs...)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_, err := c.Exec(ctx, `SELECT set_config(name, ours, false)
		FROM (VALUES ('synchronous_commit', 'off', 'on'), ('tcp_user_timeout', '0', '15s'), ('tcp_keepalives_idle', '7200', '10'),
			('tcp_keepalives_interval', '75', '5'), ('tcp_keepalives_count', '9', '3')) AS s (name, lax, ours)
		WHERE current_setting(name) = lax`)
	return err
}
