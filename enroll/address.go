package enroll

import "net/netip"

// AddressGroup returns whom a request from a peer (host:port, as of
// http.Request.RemoteAddr) counts for: its IPv4 address, or the /64 that its
// IPv6 address is in. What is no network address gives the zero Prefix; all
// such count together. Headers of proxies are not believed.
func AddressGroup(remote string) netip.Prefix {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	address, bits := peer.Addr().Unmap().WithZone(""), 64
	if address.Is4() {
		bits = 32
	}
	prefix, _ := address.Prefix(bits)
	return prefix
}
