package client

import (
	"context"
	"iter"

	"github.com/fleetca/fleetca/enroll"
)

// AddManufacturer registers the authority of a manufacturer.
func (c *Client) AddManufacturer(ctx context.Context, m enroll.NewManufacturer, opts ...Option) (*enroll.Manufacturer, error) {
	return send[enroll.Manufacturer](ctx, c, "/manufacturers", m, opts)
}

// Manufacturer returns a manufacturer.
func (c *Client) Manufacturer(ctx context.Context, id string) (*enroll.Manufacturer, error) {
	return fetch[enroll.Manufacturer](ctx, c, at("manufacturers", id))
}

// Manufacturers lists manufacturers.
func (c *Client) Manufacturers(ctx context.Context) iter.Seq2[*enroll.Manufacturer, error] {
	return list[*enroll.Manufacturer](ctx, c, "/manufacturers", nil)
}

// UpdateManufacturer disables or enables a manufacturer, or says whether its
// devices enroll again.
func (c *Client) UpdateManufacturer(ctx context.Context, id string, u enroll.ManufacturerUpdate, opts ...Option) (*enroll.Manufacturer, error) {
	return send[enroll.Manufacturer](ctx, c, at("manufacturers", id, "update"), u, opts)
}

// DisableManufacturer keeps a manufacturer's certificates from enrolling
// devices.
func (c *Client) DisableManufacturer(ctx context.Context, id string, opts ...Option) (*enroll.Manufacturer, error) {
	return send[enroll.Manufacturer](ctx, c, at("manufacturers", id, "disabling"), none, opts)
}

// Manifest lists which of a manufacturer's certificates is which device's.
func (c *Client) Manifest(ctx context.Context, id string) iter.Seq2[*enroll.ManifestEntry, error] {
	return list[*enroll.ManifestEntry](ctx, c, at("manufacturers", id, "manifest"), nil)
}

// AddManifest adds lines, enroll.MaxManifestRows at most, to a manufacturer's
// manifest.
func (c *Client) AddManifest(ctx context.Context, id, csv string, opts ...Option) (*enroll.ManifestResult, error) {
	return send[enroll.ManifestResult](ctx, c, at("manufacturers", id, "manifest"), enroll.ManifestRequest{CSV: csv}, opts)
}

// RemoveManifest takes devices off a manufacturer's manifest.
func (c *Client) RemoveManifest(ctx context.Context, id string, devices []string, opts ...Option) (*enroll.Manufacturer, error) {
	return send[enroll.Manufacturer](ctx, c, at("manufacturers", id, "manifest", "removal"), enroll.ManifestRemoval{DeviceIDs: devices}, opts)
}
