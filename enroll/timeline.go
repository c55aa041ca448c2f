package enroll

import "context"

// DeviceTimeline lists the events of a device, of its certificates and of its
// revocations, newest first.
func (s *Service) DeviceTimeline(ctx context.Context, id string, p Page) ([]*Event, string, error) {
	return nil, "", errNotYet
}
