package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// A bulkEnrollment enrolls the devices of a roster over one stream, and over
// another when that breaks: what was not answered is sent again under the same
// idempotency keys, so that nothing is issued twice.
type bulkEnrollment struct {
	client *client.Client
	out    string // folder of the devices' folders
	show   *bulkProgress
	pause  time.Duration // before the first try after a stream that brought nothing; doubled for each more

	pending []rosterDevice // without an answer that holds, in their order
	refused map[string]int // how often a device met what may pass; see deviceTries

	mu      sync.Mutex
	done    map[string]bool // devices with such an answer
	outcome bulkOutcome
}

// bulkTries is how many streams in a row may bring nothing before it is given up,
// deviceTries how often one device is sent that meets a conflict or a broken server.
const (
	bulkTries   = 6
	deviceTries = 4
)

// A bulkOutcome says what became of the devices.
type bulkOutcome struct {
	Enrolled int           `json:"enrolled"` // issued by this run
	Again    int           `json:"again"`    // issued before, and given again
	Kept     int           `json:"kept"`     // in their folders already: not asked for
	Failed   int           `json:"failed"`   // refused; see Failures
	Open     int           `json:"open"`     // not answered
	Failures []bulkFailure `json:"failures"`
}

// A bulkFailure is a device that was refused, could not be sent, or was given a
// certificate again that is not good any more.
type bulkFailure struct {
	DeviceID string `json:"deviceId"`
	Status   int    `json:"status,omitempty"` // of the answer; 0 when it was not sent
	Problem  string `json:"problem"`
	Hint     string `json:"hint,omitempty"`
}

// run enrolls until every device is answered. Its error says why some are not.
func (b *bulkEnrollment) run(ctx context.Context) error {
	b.done, b.refused = map[string]bool{}, map[string]int{}
	for _, d := range b.pending {
		if b.has(d) {
			b.settle(d.DeviceID, func(o *bulkOutcome) { o.Kept++ })
		}
	}
	b.leaveDone()
	b.show.begin()
	for fruitless := 0; len(b.pending) > 0; {
		before := len(b.pending)
		err := b.stream(ctx)
		b.leaveDone()
		switch {
		case len(b.pending) == 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !passes(err):
			return err
		case len(b.pending) < before:
			fruitless = 0
		default:
			fruitless++
		}
		if fruitless == bulkTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(b.pause<<max(0, fruitless-1), retryAfter(err))):
		}
	}
	return nil
}

// leaveDone takes the devices that are done out of what is pending.
func (b *bulkEnrollment) leaveDone() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = slices.DeleteFunc(b.pending, func(d rosterDevice) bool { return b.done[d.DeviceID] })
	b.outcome.Open = len(b.pending)
}

// settle counts a device, which is done by that.
func (b *bulkEnrollment) settle(id string, count func(*bulkOutcome)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done[id] = true
	count(&b.outcome)
	b.show.update(len(b.done), b.outcome.Failed)
}

func (b *bulkEnrollment) fail(f bulkFailure) {
	b.settle(f.DeviceID, func(o *bulkOutcome) {
		o.Failed++
		o.Failures = append(o.Failures, f)
	})
}

// passes reports whether what broke a stream may be over at the next try: no
// connection, a cut one, or a server that said so.
func passes(err error) bool {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return passingStatus(p.Status)
	}
	var invalid x509.CertificateInvalidError
	var hostname x509.HostnameError
	var authority x509.UnknownAuthorityError
	return !errors.As(err, &authority) && !errors.As(err, &hostname) && !errors.As(err, &invalid) &&
		errors.Is(err, ca.IsKind(enroll.KindUnavailable))
}

func passingStatus(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusTooManyRequests
}

// retryAfter is how long the server asked to be left alone.
func retryAfter(err error) time.Duration {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return p.RetryAfter
	}
	return 0
}

// errOpen is why devices are open after a stream that ended well.
var errOpen = ca.Errorf(enroll.KindUnavailable, "", "", "the server did not answer for every device")

// stream sends what is pending, and notes the answers.
func (b *bulkEnrollment) stream(ctx context.Context) error {
	sent := &sentDevices{}
	over := make(chan struct{})
	items := func(yield func(client.BatchItem) bool) {
		defer close(over)
		for _, d := range b.pending {
			item, err := b.item(d)
			if err != nil {
				b.fail(bulkFailure{DeviceID: d.DeviceID, Problem: err.Error(), Hint: hintOf(err)})
				continue
			}
			sent.add(d)
			if !yield(item) {
				return
			}
		}
	}
	err := error(errOpen)
	for r, broken := range b.client.EnrollBatch(ctx, items) {
		if broken == nil {
			broken = b.answered(sent.at(r.Index), r)
		}
		if broken != nil {
			err = broken
			break
		}
	}
	<-over // no key is being made any more: the next stream begins with the same
	return err
}

// item returns what is sent for a device, whose key is made if need be.
func (b *bulkEnrollment) item(d rosterDevice) (client.BatchItem, error) {
	var err error
	if d.CSR, err = deviceCSR(d.csrFile, filepath.Join(b.folder(d), "key.pem"), d.DeviceID); err != nil {
		return client.BatchItem{}, err
	}
	return client.BatchItem{EnrollRequest: d.EnrollRequest, IdempotencyKey: requestKey(d.CSR)}, nil
}

// answered keeps what was answered for a device. A refusal that passes leaves
// the device pending. Its error is one of this machine's disk.
func (b *bulkEnrollment) answered(d rosterDevice, r client.BatchResult) error {
	switch {
	case d.DeviceID == "":
		return nil // about a line that was cut off
	case r.Problem != nil && b.mayPass(d.DeviceID, r):
		return nil
	case r.Problem != nil:
		b.fail(bulkFailure{DeviceID: d.DeviceID, Status: r.Status, Problem: r.Problem.Error(), Hint: r.Problem.Hint()})
		return nil
	}
	if err := notGood(r.Enrollment); err != nil {
		b.fail(bulkFailure{DeviceID: d.DeviceID, Status: r.Status, Problem: err.Error(), Hint: hintOf(err)})
		return nil
	}
	if err := writeEnrollment(b.folder(d), r.Enrollment); err != nil {
		return err
	}
	b.settle(d.DeviceID, func(o *bulkOutcome) {
		if r.Replayed {
			o.Again++
		} else {
			o.Enrolled++
		}
	})
	return nil
}

// mayPass reports whether a device that was refused is to be sent again: under the
// same key the next answer may be another. A server that is full, or that sends
// clients away, says so to many, and no device is given up for that.
func (b *bulkEnrollment) mayPass(id string, r client.BatchResult) bool {
	switch {
	case r.Status == http.StatusServiceUnavailable, r.Status == http.StatusTooManyRequests:
		return true
	case r.Problem.Kind() != enroll.KindConflict && !passingStatus(r.Status):
		return false
	}
	b.refused[id]++
	return b.refused[id] < deviceTries
}

func (b *bulkEnrollment) folder(d rosterDevice) string { return filepath.Join(b.out, d.DeviceID) }

// has reports whether a device's folder holds everything that an enrollment
// brings, for the key that is there.
func (b *bulkEnrollment) has(d rosterDevice) bool {
	var files [3][]byte
	for i, name := range []string{"trust-bundle.pem", "chain.pem", "certificate.pem"} {
		var err error
		if files[i], err = os.ReadFile(filepath.Join(b.folder(d), name)); err != nil {
			return false
		}
	}
	keyFile := filepath.Join(b.folder(d), "key.pem")
	if _, err := os.Stat(keyFile); err != nil && d.csrFile == "" {
		return false
	}
	text, err := deviceCSR(d.csrFile, keyFile, d.DeviceID)
	if err != nil {
		return false
	}
	request, err := ca.ParseRequest("csr", []byte(text))
	block, _ := pem.Decode(files[2])
	first, _ := pem.Decode(files[1])
	if err != nil || block == nil || first == nil || !bytes.Equal(first.Bytes, block.Bytes) || !x509.NewCertPool().AppendCertsFromPEM(files[0]) {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	key, comparable := request.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return err == nil && comparable && key.Equal(cert.PublicKey)
}

// sentDevices are the devices of one stream by their index in it. It is safe
// for concurrent use.
type sentDevices struct {
	mu  sync.Mutex
	all []rosterDevice
}

func (s *sentDevices) add(d rosterDevice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d)
}

// at returns a device; the zero one for an index that was never sent.
func (s *sentDevices) at(index int) rosterDevice {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index < 0 || index >= len(s.all) {
		return rosterDevice{}
	}
	return s.all[index]
}
