package boundary

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// Destination is what a task may reach: the addresses of a prefix, at one port
// of TCP and UDP, or at all of them (and by any protocol) if Port is 0.
type Destination struct {
	Prefix netip.Prefix `json:"prefix"`
	Port   uint16       `json:"port,omitempty"`
}

// String is in the form that [Parse] reads.
func (d Destination) String() string {
	text := d.Prefix.String()
	if d.Prefix.IsSingleIP() {
		text = d.Prefix.Addr().String()
		if d.Port != 0 {
			return netip.AddrPortFrom(d.Prefix.Addr(), d.Port).String()
		}
	}
	if d.Port != 0 {
		return text + " port " + strconv.Itoa(int(d.Port))
	}
	return text
}

// Policy is a task's list. The empty one allows nothing.
type Policy struct {
	Allow []Destination `json:"allow,omitempty"`
	DNS   []netip.Addr  `json:"dns,omitempty"` // port 53 of these, besides Allow
	// Named: some of it stands for names, whose addresses change; see [Boundary.Renew].
	Named bool `json:"named,omitempty"`
	// Services have an address within the namespace; see [Boundary.Serve]. They need
	// no way out.
	Services []placement.ServiceAt `json:"services,omitempty"`
}

// Bounds of a policy.
const (
	MaxAllow = 256
	MaxDNS   = 8
)

// Empty reports whether the task may reach nothing, now and later.
func (p Policy) Empty() bool { return !p.leads() && len(p.Services) == 0 }

// leads reports whether packets of the task may leave its namespace, now or later.
func (p Policy) leads() bool { return len(p.Allow) > 0 || len(p.DNS) > 0 || p.Named }

// destinations are all that the policy allows, in order and once each.
func (p Policy) destinations() []Destination {
	all := slices.Clone(p.Allow)
	for _, a := range p.DNS {
		all = append(all, Destination{Prefix: netip.PrefixFrom(a, a.BitLen()), Port: 53})
	}
	slices.SortFunc(all, func(a, b Destination) int {
		if c := a.Prefix.Compare(b.Prefix); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	return slices.Compact(all)
}

// Resolver turns the names of regions that a job may allow ("region:NAME") into
// addresses, as they are now; none is one that may get some later. An error is a
// name that stands for nothing and will not.
type Resolver func(name string) ([]Destination, error)

// EntryError is an entry of a job's list that cannot be held to.
type EntryError struct{ Entry, Reason string }

func (e *EntryError) Error() string { return fmt.Sprintf("network: %q: %s", e.Entry, e.Reason) }

// Hint says what can be written.
func (e *EntryError) Hint() string {
	return "write an address or a prefix, with or without a port: 192.0.2.7:443, 192.0.2.0/24, [2001:db8::7]:443"
}

// Parse reads what a job says of its network. Nil allows nothing. Names need a
// resolver.
func Parse(n *placement.Network, resolve Resolver) (Policy, error) {
	var p Policy
	if n == nil {
		return p, nil
	}
	if len(n.Allow) > MaxAllow || len(n.DNS) > MaxDNS {
		return p, fmt.Errorf("network: at most %d entries are allowed, and %d resolvers", MaxAllow, MaxDNS)
	}
	var problems []error
	p.Services = n.Services()
	for _, entry := range n.Allow {
		if name, is := strings.CutPrefix(entry, "service:"); is {
			problems = append(problems, p.hasService(entry, name))
			continue
		}
		some, err := parseEntry(entry, resolve)
		problems = append(problems, err)
		p.Named = p.Named || named(entry)
		p.Allow = append(p.Allow, some...)
	}
	for _, entry := range n.DNS {
		a, err := netip.ParseAddr(entry)
		if err == nil {
			err = reachable(netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), entry)
		} else {
			err = &EntryError{entry, "is no address of a resolver"}
		}
		problems = append(problems, err)
		p.DNS = append(p.DNS, a.Unmap())
	}
	if len(p.Allow) > MaxAllow {
		problems = append(problems, fmt.Errorf("network: its names stand for more than %d addresses", MaxAllow))
	}
	if err := errors.Join(problems...); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// hasService refuses a service that has no address: its name is none that a
// workload could look up, or there are too many.
func (p Policy) hasService(entry, name string) error {
	if !placement.ValidName(name) {
		return &EntryError{entry, "is no name of a service that could be looked up"}
	}
	if !slices.ContainsFunc(p.Services, func(s placement.ServiceAt) bool { return s.Name == name }) {
		return &EntryError{entry, fmt.Sprintf("is beyond the %d services that a list may have", placement.MaxServices)}
	}
	return nil
}

// named reports whether an entry is a name, which a [Resolver] has to turn into addresses.
func named(entry string) bool { return strings.HasPrefix(entry, "region:") }

func parseEntry(entry string, resolve Resolver) ([]Destination, error) {
	if named(entry) {
		if resolve == nil {
			return nil, &EntryError{entry, "this node resolves no names of regions"}
		}
		some, err := resolve(entry)
		if err != nil {
			return nil, &EntryError{entry, err.Error()}
		}
		for _, d := range some {
			if err := reachable(d.Prefix, entry); err != nil {
				return nil, err
			}
		}
		return some, nil
	}
	d, err := parseDestination(entry)
	if err != nil {
		return nil, err
	}
	return []Destination{d}, reachable(d.Prefix, entry)
}

// parseDestination reads ADDRESS, ADDRESS:PORT, PREFIX or PREFIX:PORT; an IPv6
// one before a port stands in brackets.
func parseDestination(entry string) (Destination, error) {
	bad := &EntryError{entry, "is no address and no prefix"}
	text, port := entry, ""
	if rest, ok := strings.CutPrefix(entry, "["); ok {
		inner, after, found := strings.Cut(rest, "]")
		if !found || (after != "" && !strings.HasPrefix(after, ":")) {
			return Destination{}, bad
		}
		text, port = inner, after
	} else if i := strings.LastIndexByte(entry, ':'); i >= 0 && strings.Count(entry, ":") == 1 {
		text, port = entry[:i], entry[i:]
	}
	var d Destination
	if port != "" {
		n, err := strconv.ParseUint(port[1:], 10, 16)
		if err != nil || n == 0 {
			return d, &EntryError{entry, "has a port that is not between 1 and 65535"}
		}
		d.Port = uint16(n)
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		d.Prefix = netip.PrefixFrom(a, a.BitLen())
		return d, nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return d, bad
	case p != p.Masked():
		return d, &EntryError{entry, "has bits behind its prefix; did you mean " + p.Masked().String() + "?"}
	}
	d.Prefix = p
	return d, nil
}

// The ranges that no task reaches, whatever its list says: the machine's own
// link, where clouds answer with credentials, and groups of receivers.
var never = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("::/128"), netip.MustParsePrefix("0.0.0.0/8"),
}

// reachable refuses what lies within a range that is never reached. A wider
// prefix is taken: the rules leave those ranges out of it.
func reachable(p netip.Prefix, entry string) error {
	if p.Addr().IsLoopback() {
		return &EntryError{entry, "is the task's own loopback; the node's is reached with network: host only"}
	}
	for _, n := range never {
		if n.Bits() <= p.Bits() && n.Contains(p.Addr()) {
			return &EntryError{entry, "is link-local, a group or the machine's own metadata, which no task reaches"}
		}
	}
	return nil
}
