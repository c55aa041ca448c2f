package enroll

import "context"

// DeviceTimeline lists the events of a device, of its certificates and of its
// revocations, newest first.
func (s *Service) DeviceTimeline(ctx context.Context, id string, p Page) ([]*Event, string, error) {
	if _, err := s.store.Device(ctx, id); err != nil {
		return nil, "", err
	}
	return s.store.DeviceEvents(ctx, id, p)
}
