package enroll

import (
	"context"
	"errors"
)

var errNotYet = errors.New("not built yet") // leaves with the commits that follow

// Watch returns a channel that holds one token whenever one of the topics
// changed since the last was taken, on any replica, within about a second. A
// topic is the subject of audit events, such as revocation:ID, rotation:ID,
// broker:ID, bulk:ID, work-order:ID or device:ID; "*" is every event. Changes
// may be told of more than once; none is lost while the server runs. The
// channel is closed when ctx ends. ca.KindMalformed for more than 16 topics,
// KindRateLimited (a *Later) while this process watches too much already.
func (s *Service) Watch(ctx context.Context, topics ...string) (<-chan struct{}, error) {
	return nil, errNotYet
}
