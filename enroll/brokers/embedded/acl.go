package embedded

import "strings"

// ownLevel is the first topic level below which each identity has its own part.
const ownLevel = "devices"

// mayPublish reports whether an identity may publish to a topic, as a message
// or as its will.
func mayPublish(identity, topic string) bool {
	return !strings.HasPrefix(topic, "$") && inReach(identity, topic)
}

// mayRead reports whether a message with this topic may be delivered to an
// identity, whatever its subscriptions.
func mayRead(identity, topic string) bool { return inReach(identity, topic) }

// maySubscribe reports whether an identity may subscribe with a filter, which
// may be that of a shared subscription ($share/GROUP/FILTER, MQTT 5 section
// 4.8.2). A wildcard in place of the first level is allowed: what it may not
// read is then left out on delivery.
func maySubscribe(identity, filter string) bool {
	if prefix, rest, ok := strings.Cut(filter, "/"); ok && strings.EqualFold(prefix, "$share") {
		if _, filter, ok = strings.Cut(rest, "/"); !ok {
			return false
		}
	}
	return inReach(identity, filter)
}

// inReach is the rule: outside of devices/ everywhere, inside only below
// devices/IDENTITY/. The identity has no wildcard in it, so that a filter with
// one at its place does not compare equal.
func inReach(identity, topic string) bool {
	rest, inside := strings.CutPrefix(topic, ownLevel+"/")
	if !inside {
		return true
	}
	owner, _, below := strings.Cut(rest, "/")
	return below && owner == identity
}
