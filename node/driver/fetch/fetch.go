// Package fetch is the way to servers that jobs name: registries, images and
// files by URL.
//
// The rule: an agent fetches for whoever may submit a job, so it is no way into
// its own machine or its operator's network. An address that is not public, or
// that is the machine's own, is reached only where the operator allowed it, and it
// is the address itself that is judged, after the name was resolved and again
// after every redirection. Where a proxy resolves the names, it judges: it is asked
// for the ports of the web alone, and for no such address.
// Drivers rely on it for all that they fetch by a job's word.
package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// Allowed is what the operator lets be fetched from beside public addresses:
// hosts as they are named, with or without a port, addresses, and prefixes.
type Allowed []string

// Error is an address that is not fetched from.
type Error struct {
	Address string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s is no public address of another machine, and nothing is fetched from there by a job's word", e.Address)
}

// Hint says who can change that.
func (e *Error) Hint() string {
	return "name a server with a public address, or ask the node's operator to add it to registries: {allow: [...]}"
}

// guard judges where a connection goes.
type guard struct {
	names    map[string]bool // host, or host:port
	prefixes []netip.Prefix
	dialer   net.Dialer
	own      func() ([]net.Addr, error) // the machine's addresses
	proxy    func(*http.Request) (*url.URL, error)
}

// Transport reaches public addresses and what is allowed. Proxies of the
// environment are used as always, for ports 80 and 443; what they reach there is
// theirs to decide. They must be allowed if their own addresses are not public.
func Transport(allow Allowed) *http.Transport {
	g := newGuard(allow)
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext, t.Proxy = g.dial, g.through
	return t
}

func newGuard(allow Allowed) *guard {
	g := &guard{names: make(map[string]bool), dialer: net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}, own: net.InterfaceAddrs, proxy: http.ProxyFromEnvironment}
	for _, a := range allow {
		if p, err := netip.ParsePrefix(a); err == nil {
			g.prefixes = append(g.prefixes, p.Masked())
		} else if ip, err := netip.ParseAddr(a); err == nil {
			g.prefixes = append(g.prefixes, netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()))
		} else {
			g.names[strings.ToLower(a)] = true
		}
	}
	return g
}

// through names the proxy of a request, if there is one for it, and judges what of
// the request's destination is known before the proxy resolves it.
func (g *guard) through(req *http.Request) (*url.URL, error) {
	by, err := g.proxy(req)
	if by == nil || err != nil {
		return by, err
	}
	host, port := strings.ToLower(req.URL.Hostname()), req.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
	}
	if g.names[host] || g.names[net.JoinHostPort(host, port)] {
		return by, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if err := g.allows(ip); err != nil {
			return nil, err
		}
	} else if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return nil, &Error{Address: host}
	}
	if port != "80" && port != "443" {
		return nil, &PortError{Host: host, Port: port}
	}
	return by, nil
}

// PortError is a port that no proxy is asked for.
type PortError struct{ Host, Port string }

func (e *PortError) Error() string {
	return fmt.Sprintf("port %s of %s is not asked of this node's proxy: only 80 and 443 are", e.Port, e.Host)
}

// Hint says who can change that.
func (e *PortError) Hint() string {
	return "name a server at the port of its scheme, or ask the node's operator to add the host to registries: {allow: [...]}"
}

// dial connects to a host that the operator named, or to an address that may be
// fetched from.
func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	d := g.dialer
	if !g.names[strings.ToLower(host)] && !g.names[strings.ToLower(addr)] {
		d.Control = g.judge
	}
	return d.DialContext(ctx, network, addr)
}

// judge is asked with the very address that is about to be connected to.
func (g *guard) judge(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return g.allows(at.Addr())
}

// allows judges an address.
func (g *guard) allows(ip netip.Addr) error {
	ip = ip.WithZone("").Unmap()
	for _, p := range g.prefixes {
		if p.Contains(ip) {
			return nil
		}
	}
	if !Public(ip) {
		return &Error{Address: ip.String()}
	}
	own, err := g.own()
	if err != nil {
		return fmt.Errorf("see which addresses are this machine's own: %w", err)
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip {
			return &Error{Address: ip.String()}
		}
	}
	return nil
}

// special are the ranges that lead to no public server and that net/netip does
// not name. https://www.iana.org/assignments/iana-ipv4-special-registry
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("100::/64"),
}

// The ranges of addresses that carry another one: NAT64's and 6to4's.
var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	nat64Up = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFo = netip.MustParsePrefix("2002::/16")
	teredo  = netip.MustParsePrefix("2001::/32")
)

// Public reports whether an address is one of the public internet's.
func Public(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return false
	}
	for _, p := range special {
		if p.Contains(ip) {
			return false
		}
	}
	if !ip.Is6() {
		return true
	}
	raw := ip.As16()
	switch {
	case nat64.Contains(ip):
		return Public(netip.AddrFrom4([4]byte(raw[12:])))
	case sixToFo.Contains(ip):
		return Public(netip.AddrFrom4([4]byte(raw[2:6])))
	case nat64Up.Contains(ip), teredo.Contains(ip):
		return false
	}
	// ::a.b.c.d, which nobody uses any more and some systems still follow.
	return raw[0] != 0 || raw[1] != 0 || raw[2] != 0 || raw[3] != 0
}
