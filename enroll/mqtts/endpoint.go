package mqtts

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Schemes of a broker's URL.
const (
	SchemeMQTTS = "mqtts" // MQTT inside TLS
	SchemeWSS   = "wss"   // MQTT inside WebSocket inside TLS (MQTT 5.0 section 6)
)

// An Endpoint is a broker's URL, taken apart.
type Endpoint struct {
	Scheme string // SchemeMQTTS or SchemeWSS
	Host   string // DNS name or IP address, without brackets
	Port   int
	Path   string // with its query, "/" at least; "" for SchemeMQTTS
}

// Address returns host:port.
func (e Endpoint) Address() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// websocket tells whether MQTT goes through a WebSocket.
func (e Endpoint) websocket() bool { return e.Scheme == SchemeWSS }

// authority returns what an HTTP request has as Host (RFC 9110 section 7.2).
func (e Endpoint) authority() string {
	e.Host, _, _ = strings.Cut(e.Host, "%") // the zone of an IPv6 address is this machine's
	if e.Port != DefaultPortWSS {
		return e.Address()
	}
	return strings.TrimSuffix(e.Address(), ":"+strconv.Itoa(DefaultPortWSS))
}

// ParseURL takes mqtts://host[:port], host[:port] or wss://host[:port]/path
// apart. Its errors are for a person.
func ParseURL(raw string) (Endpoint, error) {
	e := Endpoint{Scheme: SchemeMQTTS, Port: DefaultPort}
	rest := raw
	if scheme, after, ok := strings.Cut(raw, "://"); ok {
		e.Scheme, rest = strings.ToLower(scheme), after
	}
	switch e.Scheme {
	case SchemeMQTTS:
		rest = strings.TrimSuffix(rest, "/")
	case SchemeWSS:
		e.Port = DefaultPortWSS
		rest, e.Path = splitPath(rest)
	default:
		return Endpoint{}, schemeError(raw, e.Scheme, rest)
	}
	if err := e.checkPath(raw, rest); err != nil {
		return Endpoint{}, err
	}
	return e, e.splitAuthority(raw, rest)
}

// splitPath cuts a path and query off an authority.
func splitPath(rest string) (authority, path string) {
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return rest, "/"
	}
	if rest[i] == '?' {
		return rest[:i], "/" + rest[i:]
	}
	return rest[:i], rest[i:]
}

// checkPath refuses what does not belong into the URL of a broker.
func (e *Endpoint) checkPath(raw, authority string) error {
	if strings.Contains(authority, "@") {
		return errors.New("the URL carries a user name: it belongs into an option of its own, the password into a file")
	}
	if strings.ContainsAny(authority, "/?#") {
		return fmt.Errorf("%q: an MQTTS URL is mqtts://HOST[:PORT], without a path", raw)
	}
	for i := range len(e.Path) {
		if c := e.Path[i]; c <= ' ' || c > '~' || c == '#' {
			return fmt.Errorf("%q: the path of a WebSocket is printable ASCII without spaces and fragment", raw)
		}
	}
	return nil
}

// splitAuthority reads host[:port].
func (e *Endpoint) splitAuthority(raw, rest string) error {
	bare := strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]")
	switch {
	case rest == "":
		return errors.New("no broker given: use mqtts://HOST[:8883]")
	case net.ParseIP(bare) != nil: // an IPv6 address without a port, or an IPv4 address
		e.Host = bare
		return nil
	case !strings.Contains(rest, ":"):
		rest = net.JoinHostPort(rest, strconv.Itoa(e.Port))
	}
	host, port, err := splitHostPort(rest)
	if err != nil {
		return fmt.Errorf("%q: %w", raw, err)
	}
	e.Host, e.Port = host, port
	return nil
}

// SplitURL returns the host and port of mqtts://host[:port] or host[:port]. Its
// errors are for a person.
func SplitURL(raw string) (host string, port int, err error) {
	e, err := ParseURL(raw)
	if err == nil && e.websocket() {
		err = schemeError(raw, e.Scheme, e.Address())
	}
	if err != nil {
		return "", 0, err
	}
	return e.Host, e.Port, nil
}

// plaintextSchemes are the schemes without TLS, and what to use in their place.
var plaintextSchemes = map[string]struct{ port, instead string }{
	"mqtt": {"1883", SchemeMQTTS},
	"tcp":  {"1883", SchemeMQTTS},
	"ws":   {"80", SchemeWSS},
}

func schemeError(raw, scheme, after string) error {
	if p, ok := plaintextSchemes[scheme]; ok {
		if u, err := url.Parse(raw); err == nil && u.Port() == p.port {
			after = strings.Replace(after, ":"+p.port, "", 1) // the port without TLS
		}
		return fmt.Errorf("%s:// is plaintext MQTT, which is not verified: use %s://%s", scheme, p.instead, after)
	}
	return fmt.Errorf("unknown scheme %q: use mqtts://HOST[:8883] or wss://HOST[:PORT]/PATH", scheme)
}

func splitHostPort(s string) (string, int, error) {
	host, service, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, errors.New("is not HOST:PORT")
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return "", 0, fmt.Errorf("port %q is not a number from 1 to 65535", service)
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n") {
		return "", 0, errors.New("the host is missing or has spaces in it")
	}
	return host, int(port), nil
}

// withScheme returns raw as a URL.
func withScheme(raw string) string {
	if strings.Contains(raw, "://") {
		return raw
	}
	return SchemeMQTTS + "://" + raw
}
