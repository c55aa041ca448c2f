package mosquitto

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Topics of the dynamic security plugin.
const (
	controlTopic  = "$CONTROL/dynamic-security/v1"
	responseTopic = "$CONTROL/dynamic-security/v1/response"
)

// MQTT 3.1.1 packet types, with the flags that they have here (section 2.2).
const (
	packetConnect   = 0x10
	packetConnack   = 0x20
	packetPublish   = 0x30
	packetSubscribe = 0x82
	packetSuback    = 0x90
	goodbye         = "\xe0\x00" // DISCONNECT
	maxPacket       = 1 << 20
)

// A command is one for the plugin; a response has its name and an error.
type command struct {
	Command  string `json:"command"`
	Username string `json:"username,omitempty"`
	// CorrelationData comes back in the response.
	CorrelationData string `json:"correlationData,omitempty"`
	Error           string `json:"error,omitempty"`
}

// kick ends all sessions of an identity. The plugin does so when a client of
// that name is deleted, and to be deleted it must first exist: one that a crash
// left behind is as good.
func (d *Driver) kick(ctx context.Context, identity string) error {
	if d.options.Certificate == nil {
		return errors.New("the driver was opened without a certificate that Mosquitto admits")
	}
	certificate, err := d.options.Certificate(ctx)
	if err != nil {
		return fmt.Errorf("get a certificate for %s: %w", d.settings.Control, err)
	}
	tag := rand.Text()
	responses, err := d.control(ctx, certificate, []command{
		{Command: "createClient", Username: identity, CorrelationData: tag},
		{Command: "deleteClient", Username: identity, CorrelationData: tag},
	})
	if err != nil {
		return err
	}
	for _, response := range responses {
		if response.Command == "deleteClient" {
			if response.Error != "" {
				return fmt.Errorf("the dynamic security plugin refuses: %s", response.Error)
			}
			return nil
		}
	}
	return errors.New("the dynamic security plugin has not answered the command")
}

// control sends commands to the plugin and returns its responses, which Mosquitto
// sends when it has carried the commands out. The listener is that of the process
// in the pid file; its certificate is not held against anything, so that sessions
// can be closed also in the middle of a rotation.
func (d *Driver) control(ctx context.Context, certificate *tls.Certificate, commands []command) ([]command, error) {
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", d.settings.address())
	if err != nil {
		return nil, err
	}
	defer tcp.Close()
	defer context.AfterFunc(ctx, func() { tcp.Close() })()
	conn := tls.Client(tcp, &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	})
	responses, err := converse(conn, commands)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("control Mosquitto as %s on %s: %w", d.settings.Control, d.settings.address(), err)
	}
	return responses, nil
}

func converse(conn *tls.Conn, commands []command) ([]command, error) {
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	connect := []byte{0, 4, 'M', 'Q', 'T', 'T', 4, 1 << 1, 0, 30} // 3.1.1, clean session, keep-alive of 30 s
	connect = appendString(connect, "fleetca-control-"+rand.Text()[:8])
	answer, err := exchange(conn, reader, packetConnect, connect, packetConnack)
	if err != nil {
		return nil, fmt.Errorf("CONNECT: %w", err)
	}
	if len(answer) != 2 || answer[1] != 0 {
		return nil, fmt.Errorf("CONNECT: refused with % x", answer)
	}
	subscribe := append(appendString([]byte{0, 1}, responseTopic), 0)
	answer, err = exchange(conn, reader, packetSubscribe, subscribe, packetSuback)
	if err != nil {
		return nil, fmt.Errorf("SUBSCRIBE: %w", err)
	}
	if len(answer) != 3 || answer[2] >= 0x80 {
		return nil, fmt.Errorf("SUBSCRIBE: refused with % x", answer)
	}
	payload, err := json.Marshal(map[string]any{"commands": commands})
	if err != nil {
		return nil, err
	}
	if err := send(conn, packetPublish, append(appendString(nil, controlTopic), payload...)); err != nil {
		return nil, err
	}
	// Without a right to publish there is no answer at all.
	_ = conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	for {
		message, err := receive(reader, packetPublish)
		if err != nil {
			return nil, fmt.Errorf("no answer from the dynamic security plugin, see the access list: %w", err)
		}
		if responses := ours(message, commands[0].CorrelationData); responses != nil {
			_, _ = io.WriteString(conn, goodbye)
			return responses, nil
		}
	}
}

// ours returns the responses in a message if they are to our commands.
func ours(message []byte, tag string) []command {
	if len(message) < 2 {
		return nil
	}
	topic := int(binary.BigEndian.Uint16(message))
	if len(message) < 2+topic {
		return nil
	}
	var answer struct {
		Responses []command `json:"responses"`
	}
	if json.Unmarshal(message[2+topic:], &answer) != nil ||
		!slices.ContainsFunc(answer.Responses, func(c command) bool { return c.CorrelationData == tag }) {
		return nil
	}
	return answer.Responses
}

// exchange sends a packet and returns the body of the answer.
func exchange(w io.Writer, r *bufio.Reader, kind byte, body []byte, answer byte) ([]byte, error) {
	if err := send(w, kind, body); err != nil {
		// A refusal says more than a failed write.
		if _, reason := receive(r, answer); reason != nil {
			return nil, reason
		}
		return nil, err
	}
	return receive(r, answer)
}

func send(w io.Writer, kind byte, body []byte) error {
	packet := binary.AppendUvarint([]byte{kind}, uint64(len(body))) // section 2.2.3 is the same code
	_, err := w.Write(append(packet, body...))
	return err
}

// receive returns the body of the next packet of this type, and skips others.
func receive(r *bufio.Reader, kind byte) ([]byte, error) {
	for {
		first, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		length, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, err
		}
		if length > maxPacket {
			return nil, fmt.Errorf("a packet of %d bytes", length)
		}
		var body bytes.Buffer
		if _, err := io.CopyN(&body, r, int64(length)); err != nil {
			return nil, err
		}
		if first&0xf0 == kind&0xf0 {
			return body.Bytes(), nil
		}
	}
}

func appendString(b []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
}
