package placement

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Reach is one entry of a [Network]'s allow list, read: a prefix, a region or a
// service, and exactly one of them.
type Reach struct {
	Prefix  netip.Prefix
	Port    uint16 // of the prefix; 0 is every port
	Region  RegionID
	Service string // the name of a job
}

// ParseReach reads an entry: "192.0.2.7", "192.0.2.0/24", "192.0.2.7:443",
// "192.0.2.0/24:443", "2001:db8::7", "[2001:db8::7]:443", "[2001:db8::]/32:443",
// "region:NAME" or "service:NAME". Names of hosts are none: what they mean is
// decided by whoever answers.
func ParseReach(s string) (Reach, error) {
	if name, ok := strings.CutPrefix(s, "region:"); ok {
		if !ValidName(name) {
			return Reach{}, fmt.Errorf("%q is no name of a region", name)
		}
		return Reach{Region: RegionID(name)}, nil
	}
	if name, ok := strings.CutPrefix(s, "service:"); ok {
		if name == "" || len(name) > 128 || strings.ContainsAny(name, "\r\n\t") {
			return Reach{}, fmt.Errorf("%q is no name of a job", name)
		}
		return Reach{Service: name}, nil
	}
	addr, bits, port, err := splitReach(s)
	if err != nil {
		return Reach{}, err
	}
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return Reach{}, errors.New("it is no address")
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if bits != "" {
		if p, err = netip.ParsePrefix(addr + "/" + bits); err != nil {
			return Reach{}, errors.New("it is no prefix")
		}
		if p != p.Masked() {
			return Reach{}, fmt.Errorf("the prefix is %s", p.Masked())
		}
	}
	if err := ReachProblem(p); err != nil {
		return Reach{}, err
	}
	return Reach{Prefix: p, Port: port}, nil
}

// splitReach takes an entry apart: [address] / bits : port.
func splitReach(s string) (addr, bits string, port uint16, err error) {
	addr = s
	rest, brackets := "", false
	if after, ok := strings.CutPrefix(s, "["); ok {
		if addr, rest, brackets = strings.Cut(after, "]"); !brackets {
			return "", "", 0, errors.New("it is no address")
		}
	} else if at := strings.IndexByte(s, '/'); at >= 0 {
		addr, rest = s[:at], s[at:]
	} else if strings.Count(s, ":") == 1 {
		at := strings.IndexByte(s, ':')
		addr, rest = s[:at], s[at:]
	}
	if after, ok := strings.CutPrefix(rest, "/"); ok {
		bits, rest = after, ""
		if at := strings.IndexByte(after, ':'); at >= 0 {
			bits, rest = after[:at], after[at:]
		}
	}
	if rest == "" {
		return addr, bits, 0, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(rest, ":"), 10, 16)
	if err != nil || n == 0 || !strings.HasPrefix(rest, ":") {
		return "", "", 0, errors.New("it has no port from 1 to 65535 after its colon")
	}
	return addr, bits, uint16(n), nil
}

// ReachProblem says why a prefix is none that a workload could be allowed to
// reach; nil if it could be. Link-local addresses are those of a machine's own
// metadata service, loopback is the node itself, and a prefix of everything is
// no allow list.
func ReachProblem(p netip.Prefix) error {
	a := p.Addr().Unmap()
	broadest := 8
	if a.Is6() {
		broadest = 16
	}
	switch {
	case p.Bits() < broadest:
		return fmt.Errorf("it is broader than /%d", broadest)
	case a.IsLoopback():
		return errors.New("loopback is the node's own")
	case a.IsLinkLocalUnicast(), a.IsMulticast(), a.IsUnspecified():
		return errors.New("link-local, multicast and unspecified addresses are never reached")
	}
	return nil
}

// MaxReachRegions bounds the regions in an allow list: each is judged, and the
// judgement is a part of the leaf.
const MaxReachRegions = 16

// Regions are those that the allow list names, each once, in its order; ok is
// false if an entry cannot be read or they are too many. A nil network has none.
func (n *Network) Regions() (out []RegionID, ok bool) {
	if n == nil {
		return nil, true
	}
	for _, entry := range n.Allow {
		r, err := ParseReach(entry)
		if err != nil {
			return nil, false
		}
		if r.Region != "" && !slices.Contains(out, r.Region) {
			out = append(out, r.Region)
		}
	}
	return out, len(out) <= MaxReachRegions
}

// CanonicalResolver is a resolver's address in the one form that it is compared
// in; what is no address stays as it is.
func CanonicalResolver(text string) string {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().String()
	}
	return text
}
