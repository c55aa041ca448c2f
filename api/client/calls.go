package client

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
	"github.com/fleetca/fleetca/enroll/mqtts"
)

// CreateDevice registers a device that will be enrolled later.
func (c *Client) CreateDevice(ctx context.Context, d enroll.NewDevice, opts ...Option) (*enroll.Device, error) {
	return send[enroll.Device](ctx, c, "/devices", d, opts)
}

// Device returns a device with its certificates.
func (c *Client) Device(ctx context.Context, id string) (*enroll.Device, error) {
	return fetch[enroll.Device](ctx, c, at("devices", id))
}

// Devices lists devices.
func (c *Client) Devices(ctx context.Context, f enroll.DeviceFilter) iter.Seq2[*enroll.Device, error] {
	return list[*enroll.Device](ctx, c, "/devices", values("q", f.Query()))
}

// HoldDevice puts a device and its certificates on hold.
func (c *Client) HoldDevice(ctx context.Context, id string, opts ...Option) (*enroll.Device, error) {
	return send[enroll.Device](ctx, c, at("devices", id, "hold"), none, opts)
}

// ReleaseDevice releases a device from hold.
func (c *Client) ReleaseDevice(ctx context.Context, id string, opts ...Option) (*enroll.Device, error) {
	return send[enroll.Device](ctx, c, at("devices", id, "release"), none, opts)
}

// RevokeDevice revokes a device's certificates; Revocation follows the proof.
func (c *Client) RevokeDevice(ctx context.Context, id string, r enroll.RevokeRequest, opts ...Option) (*enroll.Revocation, error) {
	return send[enroll.Revocation](ctx, c, at("devices", id, "revocation"), r, opts)
}

// Revocation returns a revocation with its steps and evidence.
func (c *Client) Revocation(ctx context.Context, id string) (*enroll.Revocation, error) {
	return fetch[enroll.Revocation](ctx, c, at("revocations", id))
}

// Revocations lists revocations, of one device or, when empty, of all.
func (c *Client) Revocations(ctx context.Context, device string) iter.Seq2[*enroll.Revocation, error] {
	return list[*enroll.Revocation](ctx, c, "/revocations", values("device", device))
}

// CreateBroker registers a broker.
func (c *Client) CreateBroker(ctx context.Context, b enroll.NewBroker, opts ...Option) (*enroll.Broker, error) {
	return send[enroll.Broker](ctx, c, "/brokers", b, opts)
}

// Broker returns a broker with its newest certificate and verification.
func (c *Client) Broker(ctx context.Context, id string) (*enroll.Broker, error) {
	return fetch[enroll.Broker](ctx, c, at("brokers", id))
}

// Brokers lists brokers.
func (c *Client) Brokers(ctx context.Context) iter.Seq2[*enroll.Broker, error] {
	return list[*enroll.Broker](ctx, c, "/brokers", nil)
}

// RotateBroker rotates a broker's certificate; Rotation follows it. A dry run
// only says what would be done.
func (c *Client) RotateBroker(ctx context.Context, id string, dryRun bool, opts ...Option) (*enroll.Rotation, error) {
	in := struct {
		DryRun bool `json:"dryRun,omitempty"`
	}{dryRun}
	return send[enroll.Rotation](ctx, c, at("brokers", id, "rotations"), in, opts)
}

// Rotation returns a rotation with its steps.
func (c *Client) Rotation(ctx context.Context, id string) (*enroll.Rotation, error) {
	return fetch[enroll.Rotation](ctx, c, at("rotations", id))
}

// Rotations lists rotations, of one broker or, when empty, of all.
func (c *Client) Rotations(ctx context.Context, broker string) iter.Seq2[*enroll.Rotation, error] {
	return list[*enroll.Rotation](ctx, c, "/rotations", values("broker", broker))
}

// VerifyBroker verifies a broker from the server, and keeps the report there.
// negative tries what must be refused, too.
func (c *Client) VerifyBroker(ctx context.Context, id string, negative bool, opts ...Option) (*mqtts.Report, error) {
	in := struct {
		Negative bool `json:"negative,omitempty"`
	}{negative}
	return send[mqtts.Report](ctx, c, at("brokers", id, "verifications"), in, opts)
}

// Verifications lists a broker's verifications, newest first.
func (c *Client) Verifications(ctx context.Context, broker string) iter.Seq2[*enroll.Verification, error] {
	return list[*enroll.Verification](ctx, c, at("brokers", broker, "verifications"), nil)
}

// CreateWorkOrder opens a work order.
func (c *Client) CreateWorkOrder(ctx context.Context, o enroll.NewWorkOrder, opts ...Option) (*enroll.WorkOrder, error) {
	return send[enroll.WorkOrder](ctx, c, "/work-orders", o, opts)
}

// WorkOrder returns a work order.
func (c *Client) WorkOrder(ctx context.Context, id string) (*enroll.WorkOrder, error) {
	return fetch[enroll.WorkOrder](ctx, c, at("work-orders", id))
}

// WorkOrders lists work orders.
func (c *Client) WorkOrders(ctx context.Context) iter.Seq2[*enroll.WorkOrder, error] {
	return list[*enroll.WorkOrder](ctx, c, "/work-orders", nil)
}

// CreateEnrollmentToken makes an enrollment token; its secret is in the answer
// alone.
func (c *Client) CreateEnrollmentToken(ctx context.Context, order string, t enroll.NewToken, opts ...Option) (*enroll.EnrollmentToken, error) {
	return send[enroll.EnrollmentToken](ctx, c, at("work-orders", order, "tokens"), t, opts)
}

// Certificate returns a certificate by its serial number in hex.
func (c *Client) Certificate(ctx context.Context, serial string) (*ca.Certificate, error) {
	return fetch[ca.Certificate](ctx, c, at("certificates", serial))
}

// Certificates lists certificates.
func (c *Client) Certificates(ctx context.Context, f enroll.CertificateFilter) iter.Seq2[*ca.Certificate, error] {
	return list[*ca.Certificate](ctx, c, "/certificates",
		values("status", f.Status, "device", f.Device, "broker", f.Broker, "profile", f.Profile, "issuer", f.Issuer))
}

// RevokeCertificate revokes one certificate.
func (c *Client) RevokeCertificate(ctx context.Context, serial string, r enroll.RevokeRequest, opts ...Option) (*ca.Certificate, error) {
	return send[ca.Certificate](ctx, c, at("certificates", serial, "revocation"), r, opts)
}

// Events lists the audit trail, newest first.
func (c *Client) Events(ctx context.Context, f enroll.EventFilter) iter.Seq2[*enroll.Event, error] {
	return list[*enroll.Event](ctx, c, "/events", values(
		"actor", f.Actor, "action", f.Action, "actionPrefix", f.ActionPrefix, "subject", f.Subject, "from", timeText(f.From), "to", timeText(f.To)))
}

// timeText writes a time for a query; none is empty.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Issuers lists issuers.
func (c *Client) Issuers(ctx context.Context) iter.Seq2[enroll.IssuerView, error] {
	return list[enroll.IssuerView](ctx, c, "/issuers", nil)
}

// Issuer returns one issuer.
func (c *Client) Issuer(ctx context.Context, id string) (*enroll.IssuerView, error) {
	return fetch[enroll.IssuerView](ctx, c, at("issuers", id))
}

// IssuerPublication has the server fetch and verify what an issuer's
// certificates name.
func (c *Client) IssuerPublication(ctx context.Context, id string) (*enroll.Publication, error) {
	return fetch[enroll.Publication](ctx, c, at("issuers", id, "publication"))
}

// ActivateIssuer lets an issuer sign, once all that its certificates name was
// verified.
func (c *Client) ActivateIssuer(ctx context.Context, id string, opts ...Option) (*enroll.Publication, error) {
	return send[enroll.Publication](ctx, c, at("issuers", id, "activation"), none, opts)
}

// Readiness says who would be left behind by a step of the roll-over of an
// issuer's root.
func (c *Client) Readiness(ctx context.Context, issuer string, step enroll.RolloverStep) (*enroll.Readiness, error) {
	return fetch[enroll.Readiness](ctx, c, at("issuers", issuer, "readiness")+"?"+values("step", step).Encode())
}

// ApproveRollover allows a step of a root's roll-over in spite of stragglers.
func (c *Client) ApproveRollover(ctx context.Context, root string, a enroll.NewApproval, opts ...Option) (*enroll.Readiness, error) {
	return send[enroll.Readiness](ctx, c, at("issuers", root, "approval"), a, opts)
}

// DropRoot takes a root out of the trust bundle.
func (c *Client) DropRoot(ctx context.Context, root string, opts ...Option) (*enroll.TrustBundle, error) {
	return send[enroll.TrustBundle](ctx, c, at("issuers", root, "drop"), none, opts)
}

// TrustBundles lists every trust bundle that there ever was, newest first.
func (c *Client) TrustBundles(ctx context.Context) iter.Seq2[enroll.TrustGeneration, error] {
	return list[enroll.TrustGeneration](ctx, c, "/trust-bundles", nil)
}

// TrustBundleOf returns the trust bundle of a generation.
func (c *Client) TrustBundleOf(ctx context.Context, generation int64) (*enroll.TrustBundle, error) {
	return fetch[enroll.TrustBundle](ctx, c, at("trust-bundles", strconv.FormatInt(generation, 10)))
}

// AcknowledgeTrust notes that a device has taken a trust bundle; a device may say
// so of itself.
func (c *Client) AcknowledgeTrust(ctx context.Context, device string, generation int64, opts ...Option) (*enroll.Device, error) {
	return send[enroll.Device](ctx, c, at("devices", device, "acknowledgement"), acknowledgement{generation}, opts)
}

// An acknowledgement says which generation of the trust bundle was taken.
type acknowledgement struct {
	Generation int64 `json:"generation"`
}

// AcknowledgeBrokerTrust notes that a broker has taken the CAs of a trust bundle.
func (c *Client) AcknowledgeBrokerTrust(ctx context.Context, broker string, generation int64, opts ...Option) (*enroll.Broker, error) {
	return send[enroll.Broker](ctx, c, at("brokers", broker, "acknowledgement"), acknowledgement{generation}, opts)
}

// RetireIssuer makes an issuer sign CRLs alone.
func (c *Client) RetireIssuer(ctx context.Context, id string, opts ...Option) (*enroll.IssuerView, error) {
	return send[enroll.IssuerView](ctx, c, at("issuers", id, "retirement"), none, opts)
}

// SetCRLShards spreads an issuer's new certificates over a number of CRLs.
func (c *Client) SetCRLShards(ctx context.Context, issuer string, shards int, opts ...Option) (*enroll.IssuerView, error) {
	return send[enroll.IssuerView](ctx, c, at("issuers", issuer, "crl-shards"), enroll.ShardsRequest{Shards: shards}, opts)
}

// Profiles lists the profiles of certificates, each in the version that is in
// force.
func (c *Client) Profiles(ctx context.Context) iter.Seq2[ca.ProfileForm, error] {
	return list[ca.ProfileForm](ctx, c, "/profiles", nil)
}

// A LintedProfile is a profile with what the linter says of it.
type LintedProfile struct {
	ca.ProfileForm
	Findings []ca.ProfileFinding `json:"findings"`
}

// Profile returns the version of a profile that is in force.
func (c *Client) Profile(ctx context.Context, name string) (*LintedProfile, error) {
	return fetch[LintedProfile](ctx, c, at("profiles", name))
}

// ProfileVersions lists the versions of a profile, newest first.
func (c *Client) ProfileVersions(ctx context.Context, name string) iter.Seq2[*enroll.ProfileVersion, error] {
	return list[*enroll.ProfileVersion](ctx, c, at("profiles", name, "versions"), nil)
}

// PlanProfile returns what another version of a profile would do.
func (c *Client) PlanProfile(ctx context.Context, name string, v enroll.NewProfileVersion) (*enroll.ProfilePlan, error) {
	return send[enroll.ProfilePlan](ctx, c, at("profiles", name, "plan"), v, nil)
}

// ApplyProfile makes another version of a profile the one in force.
func (c *Client) ApplyProfile(ctx context.Context, name string, v enroll.NewProfileVersion, opts ...Option) (*enroll.ProfilePlan, error) {
	return send[enroll.ProfilePlan](ctx, c, at("profiles", name, "versions"), v, opts)
}

// CRLs lists each issuer's newest CRL; the status listener serves their bytes.
func (c *Client) CRLs(ctx context.Context) iter.Seq2[*ca.CRL, error] {
	return list[*ca.CRL](ctx, c, "/crls", nil)
}

// TrustBundle returns the roots in the field.
func (c *Client) TrustBundle(ctx context.Context) (*enroll.TrustBundle, error) {
	return fetch[enroll.TrustBundle](ctx, c, "/trust-bundle")
}

// UpdateBroker changes where a broker is dialed, or the names of its next
// certificate.
func (c *Client) UpdateBroker(ctx context.Context, id string, u enroll.BrokerUpdate, opts ...Option) (*enroll.Broker, error) {
	return send[enroll.Broker](ctx, c, at("brokers", id, "update"), u, opts)
}

// Verification returns one verification of a broker.
func (c *Client) Verification(ctx context.Context, broker, id string) (*enroll.Verification, error) {
	return fetch[enroll.Verification](ctx, c, at("brokers", broker, "verifications", id))
}

// UpdateWorkOrder changes a work order's quota, or closes or reopens it.
func (c *Client) UpdateWorkOrder(ctx context.Context, id string, u enroll.WorkOrderUpdate, opts ...Option) (*enroll.WorkOrder, error) {
	return send[enroll.WorkOrder](ctx, c, at("work-orders", id, "update"), u, opts)
}

// EnrollmentTokens lists the tokens of a work order, newest first, without their
// secrets.
func (c *Client) EnrollmentTokens(ctx context.Context, order string) iter.Seq2[*enroll.EnrollmentToken, error] {
	return list[*enroll.EnrollmentToken](ctx, c, at("work-orders", order, "tokens"), nil)
}

// EndEnrollmentToken lets a token expire at once.
func (c *Client) EndEnrollmentToken(ctx context.Context, order, id string, opts ...Option) (*enroll.EnrollmentToken, error) {
	return send[enroll.EnrollmentToken](ctx, c, at("work-orders", order, "tokens", id, "end"), none, opts)
}
