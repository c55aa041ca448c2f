package embedded

import (
	"errors"
	"math"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// newServer makes the MQTT server with our rules hooked in.
func newServer(b *Broker) (*mqtt.Server, error) {
	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumPacketSize = 1 << 20
	capabilities.MaximumSessionExpiryInterval = 24 * 60 * 60
	// Topic aliases are resolved after the check of the topic, and survive in
	// queued messages; without them there is nothing to get wrong.
	capabilities.TopicAliasMaximum = 0
	server := mqtt.New(&mqtt.Options{
		Capabilities:           capabilities,
		Logger:                 quiet(b.log),
		SysTopicResendInterval: 30,
	})
	if err := server.AddHook(&hook{broker: b, server: server}, nil); err != nil {
		return nil, err
	}
	return server, nil
}

// A hook puts our rules into the MQTT server.
type hook struct {
	mqtt.HookBase
	broker *Broker
	server *mqtt.Server
}

// ID names the hook in the server's log.
func (h *hook) ID() string { return "fleetca" }

// Provides lists the hooks below.
func (h *hook) Provides(method byte) bool {
	switch method {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablish, mqtt.OnACLCheck,
		mqtt.OnPublish, mqtt.OnSelectSubscribers, mqtt.OnPacketEncode, mqtt.OnClientExpired:
		return true
	}
	return false
}

var (
	errClientID = errors.New("the client identifier is in use by another identity")
	errWill     = errors.New("the will is for a topic out of reach")
)

// OnConnect decides on CONNECT. A refused client gets a CONNACK that says so.
func (h *hook) OnConnect(client *mqtt.Client, _ packets.Packet) error {
	c, ok := client.Net.Conn.(*conn)
	if !ok {
		return errors.New("not a connection of the embedded broker")
	}
	client.Properties.Username = []byte(c.identity)
	client.Properties.Props.TopicAliasMaximum = 0 // we send none either
	// The certificate may have been revoked since the handshake, and the
	// sessions of its holder ended just before this connection was known.
	if err := h.broker.trust.admit(c.ConnectionState().PeerCertificates); err != nil {
		return h.refuse(client, c, packets.ErrNotAuthorized, err)
	}
	if client.Properties.Will.Flag != 0 && !validWill(c.identity, client.Properties.Will.TopicName) {
		return h.refuse(client, c, packets.ErrNotAuthorized, errWill)
	}
	if !h.broker.sessions.claim(c, client, h.keptFor) {
		return h.refuse(client, c, packets.ErrClientIdentifierNotValid, errClientID)
	}
	return nil
}

func validWill(identity, topic string) bool {
	return topic != "" && mqtt.IsValidFilter(topic, true) && mayPublish(identity, topic)
}

// keptFor returns whose session the server has under this client identifier:
// its subscriptions and queued messages would go to a newcomer.
func (h *hook) keptFor(clientID string) (identity string, ok bool) {
	kept, ok := h.server.Clients.Get(clientID)
	if !ok {
		return "", false
	}
	return string(kept.Properties.Username), true
}

func (h *hook) refuse(client *mqtt.Client, c *conn, reason packets.Code, err error) error {
	h.broker.log.Info("mqtt connect refused", "remote", client.Net.Remote, "serialNumber", c.serial,
		"identity", c.identity, "clientId", client.ID, "cause", err)
	if reason == packets.ErrNotAuthorized && client.Properties.ProtocolVersion < 5 {
		reason = packets.ErrBadUsernameOrPassword // the server translates this one to return code 5
	}
	_ = h.server.SendConnack(client, reason, false, nil)
	return err
}

// OnConnectAuthenticate lets everybody in: the handshake and OnConnect decided.
func (h *hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// OnSessionEstablish comes just before CONNACK, so that a client that has its
// CONNACK is on the list.
func (h *hook) OnSessionEstablish(client *mqtt.Client, _ packets.Packet) {
	c := client.Net.Conn.(*conn)
	h.broker.sessions.begin(c, h.broker.config.Now())
	h.broker.listener.leave(c.raw)
}

// OnACLCheck is asked with a topic to write, with a filter to subscribe to, and
// with a topic before each delivery, retained messages and wills included.
func (h *hook) OnACLCheck(client *mqtt.Client, topic string, write bool) bool {
	identity := string(client.Properties.Username)
	if write {
		return mayPublish(identity, topic)
	}
	return maySubscribe(identity, topic)
}

// OnPublish checks the topic that a message really goes to.
func (h *hook) OnPublish(client *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.TopicName == "" || !mayPublish(string(client.Properties.Username), pk.TopicName) {
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

// OnSelectSubscribers leaves those out of a shared subscription who may not read
// the topic: chosen for a message, they would not get it, and nobody else would.
func (h *hook) OnSelectSubscribers(subscribers *mqtt.Subscribers, pk packets.Packet) *mqtt.Subscribers {
	for group, members := range subscribers.Shared {
		for id := range members {
			client, ok := h.server.Clients.Get(id)
			if !ok || !mayRead(string(client.Properties.Username), pk.TopicName) {
				delete(members, id)
			}
		}
		if len(members) == 0 {
			delete(subscribers.Shared, group)
		}
	}
	return subscribers
}

// OnPacketEncode keeps DISCONNECT from clients older than MQTT 5, for whom it is
// not a packet of the server (MQTT 3.1.1 section 3.14): a type that cannot be
// encoded is not sent.
func (h *hook) OnPacketEncode(client *mqtt.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Disconnect && client.Properties.ProtocolVersion < 5 {
		pk.FixedHeader.Type = math.MaxUint8
	}
	return pk
}

// OnClientExpired drops the subscriptions of an expired session, which the
// server would leave to the next client with its identifier.
func (h *hook) OnClientExpired(client *mqtt.Client) { h.server.UnsubscribeClient(client) }
