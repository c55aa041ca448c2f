package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/fleetca/fleetca/enroll"
)

// Enroll enrolls a device by its certification request. Replayed is set when
// the same request was answered before.
func (c *Client) Enroll(ctx context.Context, r enroll.EnrollRequest, opts ...Option) (*enroll.Enrollment, error) {
	return c.enroll(ctx, "/enrollments", r, opts)
}

// Renew renews the device certificate that the client was made with, on the
// machine listener: for a new key when csr (PEM) is given, else for its own.
func (c *Client) Renew(ctx context.Context, csr string, opts ...Option) (*enroll.Enrollment, error) {
	return c.enroll(ctx, "/renewals", csrBody{csr}, opts)
}

// IssueBroker issues a broker's certificate by its certification request.
func (c *Client) IssueBroker(ctx context.Context, broker, csr string, opts ...Option) (*enroll.Enrollment, error) {
	return c.enroll(ctx, at("brokers", broker, "certificates"), csrBody{csr}, opts)
}

type csrBody struct {
	CSR string `json:"csr,omitempty"`
}

func (c *Client) enroll(ctx context.Context, path string, in any, opts []Option) (*enroll.Enrollment, error) {
	e := new(enroll.Enrollment)
	a, err := c.call(ctx, http.MethodPost, path, in, e, opts)
	if err != nil {
		return nil, err
	}
	e.Replayed = a.replayed
	return e, nil
}

// A BatchItem is one device of a batch. The key makes it repeatable, as
// IdempotencyKey does a call.
type BatchItem struct {
	enroll.EnrollRequest
	IdempotencyKey string `json:"idempotencyKey"`
}

// A BatchResult is what became of one item: an Enrollment or a Problem.
type BatchResult struct {
	Index    int    `json:"index"`  // of the item, from 0
	Status   int    `json:"status"` // 201, 200 for a replay, or the problem's
	DeviceID string `json:"deviceId"`
	*enroll.Enrollment
	Problem *Problem `json:"problem"`
}

// EnrollBatch enrolls devices while it reads them, and yields each result when
// the server is done with it, in no order. An error ends the results and is the
// last pair: items without a result may or may not be enrolled, and are
// repeated with their keys. items is read on a goroutine of its own, which ends
// at the next item once the results have ended.
func (c *Client) EnrollBatch(ctx context.Context, items iter.Seq[BatchItem]) iter.Seq2[BatchResult, error] {
	return func(yield func(BatchResult, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in, out := io.Pipe()
		go func() { out.CloseWithError(writeItems(out, items)) }()
		defer in.CloseWithError(context.Canceled)
		resp, err := c.do(ctx, http.MethodPost, "/enrollments/batch", http.Header{"Content-Type": {"application/x-ndjson"}}, in)
		if err != nil {
			yield(BatchResult{}, err)
			return
		}
		defer resp.Body.Close()
		for lines := json.NewDecoder(resp.Body); ; {
			var r BatchResult
			err := lines.Decode(&r)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(BatchResult{}, fmt.Errorf("read the batch's results: %w", c.unreachable(err)))
				return
			}
			if r.Enrollment != nil {
				r.Enrollment.DeviceID = r.DeviceID
				r.Enrollment.Replayed = r.Status == http.StatusOK
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// writeItems writes a line an item.
func writeItems(w io.Writer, items iter.Seq[BatchItem]) error {
	enc := json.NewEncoder(w)
	for item := range items {
		if err := enc.Encode(item); err != nil {
			return err
		}
	}
	return nil
}
