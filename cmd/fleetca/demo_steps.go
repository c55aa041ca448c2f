package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// showBroker takes step 3: the broker is up, and known to the server.
func (d *demo) showBroker(ctx context.Context) (string, error) {
	b, err := d.admin.Broker(ctx, d.broker().id)
	if err != nil {
		return "", clientError(err)
	}
	d.endpoints.MQTTS = b.URL
	kind := b.Kind
	if d.mosquitto != nil {
		// It does not start without a certificate.
		if err := d.server.certify(ctx, d.broker()); err != nil {
			return "", err
		}
		if kind, err = d.mosquitto.start(ctx, b.URL); err != nil {
			return "", err
		}
	}
	return kind + " at " + b.URL + ": client certificates mandatory, CRL checked on every handshake", nil
}

// verifyBroker takes step 4: the broker's first certificate, and the eight steps.
func (d *demo) verifyBroker(ctx context.Context) (string, error) {
	b, err := d.admin.Broker(ctx, d.broker().id)
	if err != nil {
		return "", clientError(err)
	}
	csr, err := d.broker().driver.CertificateRequest(ctx, b.Names)
	if err != nil {
		return "", err
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	issued, err := d.admin.IssueBroker(ctx, d.broker().id, text, client.IdempotencyKey(uuid.NewString()))
	if err != nil {
		return "", clientError(err)
	}
	if err := d.broker().driver.Install(ctx, derChain(issued.Chain)); err != nil {
		return "", err
	}
	if d.report, err = d.admin.VerifyBroker(ctx, d.broker().id, false); err != nil {
		return "", clientError(err)
	}
	if d.report.Verdict != mqtts.VerdictPass {
		return "", errors.New("the broker does not verify")
	}
	d.endpoints.BrokerSerials.Before = string(issued.Certificate.SerialNumber)
	return fmt.Sprintf("certificate %s issued and installed; the verifier got its CONNACK", issued.Certificate.SerialNumber), nil
}

// derChain returns the certificates of a PEM chain.
func derChain(text string) [][]byte {
	var chain [][]byte
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	return chain
}

// enrollFleet takes step 5: a work order with a quota, devices by CSR over the
// REST API, each connected with its own key; one too many is refused.
func (d *demo) enrollFleet(ctx context.Context) (string, error) {
	order, err := d.admin.CreateWorkOrder(ctx, enroll.NewWorkOrder{Product: "demo sensor", Quantity: int64(d.cfg.devices)}, client.IdempotencyKey(uuid.NewString()))
	if err != nil {
		return "", clientError(err)
	}
	d.endpoints.WorkOrder = order.ID
	for n := range d.cfg.devices {
		dev, err := d.enrollDevice(ctx, order.ID)
		if err != nil {
			return "", err
		}
		d.fleet = append(d.fleet, dev)
		d.endpoints.Devices = append(d.endpoints.Devices, dev.id)
		d.out.progress(n+1, d.cfg.devices)
	}
	if _, err := d.enrollDevice(ctx, order.ID); !errors.Is(err, ca.IsKind(enroll.KindQuotaReached)) {
		return "", fmt.Errorf("one device more than the quota was not refused: %w", err)
	}
	for _, dev := range d.fleet {
		report := dev.verify(ctx, d)
		if report.Verdict != mqtts.VerdictPass {
			d.report = report
			return "", fmt.Errorf("device %s does not get through", dev.id)
		}
		if err := dev.connect(d); err != nil {
			return "", fmt.Errorf("device %s: %w", dev.id, err)
		}
	}
	return fmt.Sprintf("%d devices of work order %s got a certificate, a CONNACK and a message back; one more was refused (quota-reached)", len(d.fleet), order.ID), nil
}

// enrollDevice makes a key, and enrolls the next device.
func (d *demo) enrollDevice(ctx context.Context, order string) (*demoDevice, error) {
	dev := &demoDevice{id: d.nextID()}
	dev.dir = d.dir.path("devices", dev.id)
	csr, err := deviceCSR("", dev.file("key.pem"), dev.id)
	if err != nil {
		return nil, err
	}
	e, err := d.factory.Enroll(ctx, enroll.EnrollRequest{DeviceID: dev.id, CSR: csr, WorkOrder: order}, client.IdempotencyKey(requestKey(csr)))
	if err != nil {
		return nil, errors.Join(clientError(err), os.RemoveAll(dev.dir))
	}
	return dev, dev.keep(e)
}

// nextID returns the first device id that has no folder yet.
func (d *demo) nextID() string {
	for n := len(d.fleet) + 1; ; n++ {
		id := fmt.Sprintf("sensor-%04d", n)
		if _, err := os.Stat(d.dir.path("devices", id)); errors.Is(err, os.ErrNotExist) {
			return id
		}
	}
}

// rotateBroker takes step 6: another broker certificate while the devices
// stay connected and publish.
func (d *demo) rotateBroker(ctx context.Context) (string, error) {
	before, err := d.settledSessions(ctx)
	if err != nil {
		return "", err
	}
	for _, dev := range d.fleet {
		dev.startTraffic()
	}
	r, err := d.startRotation(ctx)
	if err != nil {
		return "", clientError(err)
	}
	if r, err = waitRotation(ctx, d.admin, r, demoStepTimeout, stepWatch{}); err != nil {
		return "", clientError(err)
	}
	sent := 0
	for _, dev := range d.fleet {
		n, err := dev.stopTraffic()
		if err != nil {
			return "", fmt.Errorf("device %s: %w", dev.id, err)
		}
		sent += n
	}
	if r.State != enroll.RotationDone {
		return "", fmt.Errorf("rotation %s: %s", r.State, lastDetail(r.Steps))
	}
	after, err := d.settledSessions(ctx)
	if err != nil {
		return "", err
	}
	if !slices.Equal(before, after) {
		return "", fmt.Errorf("the broker's list of connections changed: %v before, %v after", before, after)
	}
	report := d.fleet[0].verify(ctx, d)
	if report.ServerCertificate == nil || report.ServerCertificate.SerialNumber != string(r.NewSerial) {
		return "", errors.New("the broker does not serve the new certificate")
	}
	d.endpoints.BrokerSerials = serialChange{string(r.OldSerial), string(r.NewSerial)}
	return fmt.Sprintf("%s -> %s; the same %d connections before and after; %d messages at QoS 1, none missing", r.OldSerial, r.NewSerial, len(after), sent), nil
}

// startRotation starts a rotation, once one that an interrupted demo left
// behind has ended.
func (d *demo) startRotation(ctx context.Context) (*enroll.Rotation, error) {
	for {
		r, err := d.admin.RotateBroker(ctx, d.broker().id, false, client.IdempotencyKey(uuid.NewString()))
		if !errors.Is(err, ca.IsKind(enroll.KindConflict)) || ctx.Err() != nil {
			return r, err
		}
		time.Sleep(pollPause)
	}
}

// lastDetail returns the detail of the step that failed, or of the last that ran.
func lastDetail(steps []enroll.Step) string {
	detail := ""
	for _, st := range steps {
		if st.State == enroll.StepFailed {
			return st.Name + ": " + st.Detail
		}
		if st.Detail != "" {
			detail = st.Name + ": " + st.Detail
		}
	}
	return detail
}

// settledSessions returns the fleet's connections once the broker has let go
// of those that ended: one a device.
func (d *demo) settledSessions(ctx context.Context) (ids []string, err error) {
	for deadline := time.Now().Add(deviceWait); ; time.Sleep(devicePace) {
		if ids, err = d.sessions(ctx); err != nil || len(ids) == len(d.fleet) || time.Now().After(deadline) {
			return ids, err
		}
	}
}

// sessions returns the fleet's connections, from the broker's own list.
func (d *demo) sessions(ctx context.Context) ([]string, error) {
	all, err := d.broker().driver.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, session := range all {
		if session.Identity != enroll.CanaryID {
			ids = append(ids, session.Identity+" "+session.ID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// revokeDevice takes step 7: one device is revoked, its session closed, and
// the broker seen to refuse it and to admit another.
func (d *demo) revokeDevice(ctx context.Context) (string, error) {
	d.deaf.deaf.Store(d.cfg.fault == faultCRLReload)
	bad, good := d.fleet[len(d.fleet)-1], d.fleet[0]
	r, err := d.admin.RevokeDevice(ctx, bad.id, enroll.RevokeRequest{Reason: string(ca.ReasonKeyCompromise), Comment: "demo"}, client.IdempotencyKey(uuid.NewString()))
	if err != nil {
		return "", clientError(err)
	}
	if r, err = waitRevocation(ctx, d.admin, r, demoStepTimeout, stepWatch{}); err != nil {
		return "", clientError(err)
	}
	if r.State != enroll.RevocationProven {
		return "", hinted(fmt.Errorf("device %s is revoked, but the broker was not seen to refuse it (%s): %s", bad.id, r.State, lastDetail(r.Steps)), "see that the broker loads the CRL: "+d.dir.crl())
	}
	if !bad.lost(5 * time.Second) {
		return "", fmt.Errorf("the live session of %s is still open", bad.id)
	}
	refused, admitted := bad.verify(ctx, d), good.verify(ctx, d)
	refusal := refused.Refusal()
	switch {
	case refusal == nil:
		d.report = refused
		return "", fmt.Errorf("the revoked device %s was not refused", bad.id)
	case admitted.Verdict != mqtts.VerdictPass:
		d.report = admitted
		return "", fmt.Errorf("the good device %s does not get through any more", good.id)
	}
	d.report = refused
	d.endpoints.RevokedDevice = bad.id
	return fmt.Sprintf("%s: CRL %s loaded, session closed; now refused at %s with TLS alert %d (%s); %s still gets its CONNACK",
		bad.id, crlNumbers(r), refusal.Step, refusal.Alert, refusal.AlertName, good.id), nil
}

// crlNumbers writes the CRL numbers of a revocation's evidence.
func crlNumbers(r *enroll.Revocation) string {
	text := ""
	for issuer, number := range r.Evidence.CRLNumbers {
		text += fmt.Sprintf("%d of issuer %s", number, issuer)
	}
	return text
}

// summarize takes step 8: DIR/endpoints.json, and what to do next.
func (d *demo) summarize(context.Context) (string, error) {
	var text bytes.Buffer
	if err := printJSON(&text, d.endpoints); err != nil {
		return "", err
	}
	if err := ca.ReplaceFile(d.dir.path("endpoints.json"), text.Bytes(), 0o600); err != nil {
		return "", err
	}
	return "everything is in " + d.cfg.data, nil
}
