package client

import (
	"context"
	"iter"

	"github.com/fleetca/fleetca/enroll"
)

// RetireDevice ends a device's life; Revocation follows the proof.
func (c *Client) RetireDevice(ctx context.Context, id string, r enroll.RetireRequest, opts ...Option) (*enroll.Revocation, error) {
	return send[enroll.Revocation](ctx, c, at("devices", id, "retirement"), r, opts)
}

// CreateRenewalLink makes a one-time token for a device whose key is lost.
func (c *Client) CreateRenewalLink(ctx context.Context, id string, n enroll.NewRenewalLink, opts ...Option) (*enroll.RenewalLink, error) {
	return send[enroll.RenewalLink](ctx, c, at("devices", id, "renewal-links"), n, opts)
}

// RevocationPlan returns what revoking a device will do.
func (c *Client) RevocationPlan(ctx context.Context, id string) (*enroll.RevocationPlan, error) {
	return fetch[enroll.RevocationPlan](ctx, c, at("devices", id, "revocation-plan"))
}

// DeviceEvents lists the events of a device, newest first.
func (c *Client) DeviceEvents(ctx context.Context, id string) iter.Seq2[*enroll.Event, error] {
	return list[*enroll.Event](ctx, c, at("devices", id, "events"), nil)
}

// PlanBulk returns what a change of many devices would do.
func (c *Client) PlanBulk(ctx context.Context, b enroll.Bulk) (*enroll.BulkPlan, error) {
	return send[enroll.BulkPlan](ctx, c, "/bulk-changes/plan", b, nil)
}

// RunBulk starts a change of many devices; Bulk follows it.
func (c *Client) RunBulk(ctx context.Context, b enroll.Bulk, opts ...Option) (*enroll.BulkResult, error) {
	return send[enroll.BulkResult](ctx, c, "/bulk-changes", b, opts)
}

// Bulk returns a change of many devices, and how far it is.
func (c *Client) Bulk(ctx context.Context, id string) (*enroll.BulkResult, error) {
	return fetch[enroll.BulkResult](ctx, c, at("bulk-changes", id))
}

// Bulks lists changes of many devices, newest first.
func (c *Client) Bulks(ctx context.Context) iter.Seq2[*enroll.BulkResult, error] {
	return list[*enroll.BulkResult](ctx, c, "/bulk-changes", nil)
}

// WorkOrderProgress returns how a work order comes along.
func (c *Client) WorkOrderProgress(ctx context.Context, id string) (*enroll.WorkOrderProgress, error) {
	return fetch[enroll.WorkOrderProgress](ctx, c, at("work-orders", id, "progress"))
}

// Attention returns what needs a person.
func (c *Client) Attention(ctx context.Context) (*enroll.Attentions, error) {
	return fetch[enroll.Attentions](ctx, c, "/attention")
}

// Figures returns counts of what there is.
func (c *Client) Figures(ctx context.Context) (*enroll.Figures, error) {
	return fetch[enroll.Figures](ctx, c, "/figures")
}

// Forecast returns when certificates expire.
func (c *Client) Forecast(ctx context.Context) (*enroll.Forecast, error) {
	return fetch[enroll.Forecast](ctx, c, "/forecast")
}
