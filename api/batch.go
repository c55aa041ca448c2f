package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A BatchItem is one line of a batch.
type BatchItem struct {
	enroll.EnrollRequest
	IdempotencyKey string `json:"idempotencyKey"`
}

// A BatchResult is one line of a batch's answer. The lines come in the order
// in which the items are done.
type BatchResult struct {
	Index    int    `json:"index"`  // of the item, from 0; empty lines do not count
	Status   int    `json:"status"` // 201, 200 for a replay, or the problem's
	DeviceID string `json:"deviceId,omitempty"`
	*enroll.Enrollment
	Problem *Problem `json:"problem,omitempty"`
}

// batchPause is how long either side of a batch may be silent or full.
const batchPause = time.Minute

// A line is one item on its way to a worker.
type line struct {
	index int
	text  []byte
	err   error // it could not be read
}

// postEnrollmentBatch enrolls what it reads, a line an item, and answers each
// when it is done, while more is read. One item's failure is its own line; the
// stream as a whole fails only when it cannot be read or written.
func (a *API) postEnrollmentBatch(x *exchange) error {
	if err := checkMediaType(x.r, "application/x-ndjson", "application/ndjson"); err != nil {
		return err
	}
	if x.key != "" {
		return ca.Errorf(ca.KindMalformed, keyHeader, `give each item its own "idempotencyKey"`, "cannot stand for a whole batch")
	}
	control := http.NewResponseController(x.w)
	if err := control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("read and write at the same time: %w", err)
	}
	ctx, cancel := context.WithCancel(x.ctx())
	defer cancel()
	// Over HTTP/1.1 a read that fails ends ctx, and its result is still to come.
	reading, stopReading := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReading()
	defer context.AfterFunc(a.stopping, func() {
		stopReading()
		_ = control.SetReadDeadline(time.Now()) // wakes the reader
	})()

	var never time.Time
	_ = control.SetWriteDeadline(never) // that of the listener is for one answer; see writeResults
	lines := make(chan line)
	results := make(chan BatchResult, a.workers)
	var reader, workers sync.WaitGroup
	reader.Go(func() {
		defer close(lines)
		_ = control.SetReadDeadline(time.Now().Add(a.pause))
		readLines(reading, x.r.Body, lines, func() { _ = control.SetReadDeadline(time.Now().Add(a.pause)) })
	})
	for range a.workers {
		workers.Go(func() {
			for l := range lines {
				results <- a.enrollLine(ctx, x, l)
			}
		})
	}
	go func() {
		workers.Wait()
		close(results)
	}()

	err := a.writeResults(x.w, control, results)
	if err != nil {
		cancel()
		stopReading()
		_ = control.SetReadDeadline(time.Now()) // wakes the reader
		for range results {                     // lets the workers end
		}
	}
	reader.Wait()
	_ = errors.Join(control.SetReadDeadline(never), control.SetWriteDeadline(never)) // the connection lives on
	if err == nil && a.stopping.Err() != nil {
		err = errors.New("the server stops")
	}
	if err != nil {
		a.log.InfoContext(x.ctx(), "batch broken off", "requestId", requestID(x.ctx()), "error", err)
		panic(http.ErrAbortHandler) // the answer has begun: only the broken stream says so
	}
	return nil
}

// readLines sends each line that is not empty, until the end, an error, or ctx
// is done. A line over the limit is skipped and sent as its error.
func readLines(ctx context.Context, body io.Reader, lines chan<- line, progress func()) {
	r := bufio.NewReaderSize(body, itemLimit)
	for index := 0; ; {
		text, err := r.ReadSlice('\n')
		l := line{index: index, text: trimLine(text)}
		if errors.Is(err, bufio.ErrBufferFull) {
			l = line{index: index, err: ca.Errorf(ca.KindTooLarge, "", "shorten the line", "the line is longer than %d bytes", itemLimit)}
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.ReadSlice('\n')
			}
		}
		if err != nil && ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, io.EOF) {
			l = line{index: index, err: ca.Errorf(ca.KindMalformed, "", "send the rest again", "the batch ended early: %w", err)}
		}
		if l.err != nil || len(l.text) > 0 {
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
			index++
		}
		if err != nil {
			return
		}
		if progress(); ctx.Err() != nil { // in this order: the deadline is the canceller's to set last
			return
		}
	}
}

// enrollLine enrolls one item. A panic is the item's alone.
func (a *API) enrollLine(ctx context.Context, x *exchange, l line) (result BatchResult) {
	var item BatchItem
	defer func() {
		if v := recover(); v != nil {
			result = a.failedItem(ctx, l.index, item, &panicError{v, debug.Stack()})
		}
	}()
	err := l.err
	if err == nil {
		err = decodeJSON(l.text, &item)
	}
	if err == nil {
		err = checkKey("idempotencyKey", item.IdempotencyKey)
	}
	if err != nil {
		return a.failedItem(ctx, l.index, item, err)
	}
	call := enroll.Call{Principal: x.principal, IdempotencyKey: item.IdempotencyKey}
	e, err := a.service.EnrollDevice(ctx, call, item.EnrollRequest)
	a.metrics.issued("enroll", e, err)
	if err != nil {
		return a.failedItem(ctx, l.index, item, nameKey(err, "idempotencyKey"))
	}
	result = BatchResult{Index: l.index, Status: created, DeviceID: item.DeviceID, Enrollment: e}
	if e.Replayed {
		result.Status = http.StatusOK
	}
	return result
}

func (a *API) failedItem(ctx context.Context, index int, item BatchItem, err error) BatchResult {
	p := problemOf(err, requestID(ctx))
	a.logError(ctx, p, err)
	return BatchResult{Index: index, Status: p.Status, DeviceID: item.DeviceID, Problem: &p}
}

// writeResults writes the results as they come, and flushes when none waits. A
// deadline holds while there is something to write alone: silence of the client
// is its reader's to see, which then says so in a last result.
func (a *API) writeResults(w http.ResponseWriter, control *http.ResponseController, results <-chan BatchResult) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	for r := range results {
		_ = control.SetWriteDeadline(time.Now().Add(a.pause))
		if _, err := w.Write(encodeJSON(r)); err != nil {
			return fmt.Errorf("write result %d: %w", r.Index, err)
		}
		if len(results) > 0 {
			continue
		}
		if err := control.Flush(); err != nil {
			return fmt.Errorf("flush result %d: %w", r.Index, err)
		}
		_ = control.SetWriteDeadline(time.Time{})
	}
	return nil
}

// trimLine returns a copy of a line without the white space around it.
func trimLine(text []byte) []byte { return bytes.Clone(bytes.TrimSpace(text)) }
