package enroll

import (
	"context"
)

// An Endpoint is the broker a device connects to.
type Endpoint struct {
	URL         string `json:"url"`
	ServerName  string `json:"serverName"`
	ClientID    string `json:"clientId"`
	TopicPrefix string `json:"topicPrefix"`
}

// brokerToDial returns the broker that devices are sent to: the first by id
// that was verified, and without one, one that this server runs, then any.
func (s *Service) brokerToDial(ctx context.Context) (*Broker, error) {
	all, _, err := s.store.Brokers(ctx, Page{Limit: 100})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	rank := func(b *Broker) int {
		switch {
		case b.Status == BrokerVerified:
			return 0
		case s.cfg.Drivers[b.ID] != nil:
			return 1
		}
		return 2
	}
	best := all[0]
	for _, b := range all[1:] {
		if rank(b) < rank(best) {
			best = b
		}
	}
	return best, nil
}

// topicPrefix is where a client publishes and subscribes; brokers keep it to
// itself.
func topicPrefix(clientID string) string { return "devices/" + clientID + "/" }
