//go:build linux

package boundary

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The names of our tables, one inside each namespace, and on the node one for
// each device of a task; and what the names of those devices begin with.
const (
	innerTable = "sovmesh"
	hostPrefix = "sovmesh-"
	vethPrefix = "smv"
)

// The chains and sets of a table. What leaves the task is judged; what is not
// let through there is denied.
const (
	judgeChain = "judge"
	denyChain  = "deny"
)

// table is a set of rules in the making; apply puts all of it in place at once.
type table struct {
	c    *nftables.Conn
	t    *nftables.Table
	sets map[string]*nftables.Set
}

// newTable begins a table that takes the place of one with its name.
func newTable(name string) (*table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	c.AddTable(t) // so that there is one to remove
	c.DelTable(t)
	return &table{c: c, t: c.AddTable(t), sets: make(map[string]*nftables.Set)}, nil
}

func (t *table) chain(name string, hook *nftables.ChainHook, policy nftables.ChainPolicy) *nftables.Chain {
	c := &nftables.Chain{Name: name, Table: t.t}
	if hook != nil {
		c.Type, c.Hooknum, c.Priority, c.Policy = nftables.ChainTypeFilter, hook, nftables.ChainPriorityFilter, &policy
	}
	return t.c.AddChain(c)
}

func (t *table) add(chain *nftables.Chain, parts ...words) {
	t.c.AddRule(&nftables.Rule{Table: t.t, Chain: chain, Exprs: rule(parts...)})
}

// set adds one of destinations: address, protocol and port. Its elements go
// when nothing came for a while; only a set that counts is refreshed by packets.
func (t *table) set(name string, v4, counter bool, size int, timeout time.Duration) error {
	kind := nftables.TypeIP6Addr
	if v4 {
		kind = nftables.TypeIPAddr
	}
	s := &nftables.Set{
		Table: t.t, Name: name, ID: uint32(len(t.sets) + 1), Dynamic: true, Concatenation: true, Counter: counter,
		HasTimeout: true, Timeout: timeout, Size: uint32(size),
		KeyType: nftables.MustConcatSetType(kind, nftables.TypeInetProto, nftables.TypeInetService),
	}
	t.sets[name] = s
	return t.c.AddSet(s, nil)
}

// denying adds the chain that refuses, counts and remembers.
func (t *table) denying(distinct int, remember time.Duration) error {
	for _, f := range []struct {
		denied, first string
		v4            bool
		family        byte
	}{{"denied4", "first4", true, unix.NFPROTO_IPV4}, {"denied6", "first6", false, unix.NFPROTO_IPV6}} {
		if err := t.set(f.denied, f.v4, true, distinct, remember); err != nil {
			return err
		}
		if err := t.set(f.first, f.v4, false, distinct, remember); err != nil {
			return err
		}
	}
	c := t.chain(denyChain, nil, 0)
	t.add(c, neighbours(), drop())
	t.add(c, count()) // all of them: what has no place in the sets is in this alone
	for _, f := range []struct {
		denied, first string
		v4            bool
		family        byte
	}{{"denied4", "first4", true, unix.NFPROTO_IPV4}, {"denied6", "first6", false, unix.NFPROTO_IPV6}} {
		for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			t.add(c, family(f.family), protocol(expr.CmpOpEq, p), note(t.sets[f.first], f.v4, true, false))
			t.add(c, family(f.family), protocol(expr.CmpOpEq, p), note(t.sets[f.denied], f.v4, true, true))
		}
		others := append(protocol(expr.CmpOpNeq, unix.IPPROTO_TCP), protocol(expr.CmpOpNeq, unix.IPPROTO_UDP)...)
		t.add(c, family(f.family), others, note(t.sets[f.first], f.v4, false, false))
		t.add(c, family(f.family), others, note(t.sets[f.denied], f.v4, false, true))
	}
	t.add(c, refuseTCP())
	t.add(c, refuse())
	return nil
}

// judging adds the chain that lets through what the policy allows.
func (t *table) judging(p Policy, doors []netip.AddrPort) {
	c := t.chain(judgeChain, nil, 0)
	for _, n := range never {
		t.add(c, to(n), leave(denyChain))
	}
	for _, d := range doors {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			t.add(c, to(netip.PrefixFrom(d.Addr(), d.Addr().BitLen())), protocol(expr.CmpOpEq, proto), port(d.Port()), leave(denyChain))
		}
	}
	for _, d := range p.destinations() {
		if d.Port == 0 {
			t.add(c, to(d.Prefix), count(), accept())
			continue
		}
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			t.add(c, to(d.Prefix), protocol(expr.CmpOpEq, proto), port(d.Port), count(), accept())
		}
	}
	t.add(c, leave(denyChain))
}

// doors are the node's own, those with an address: the others are told by the
// node's own side alone, which knows what its addresses are.
func (b *Boundary) doors() (named []netip.AddrPort, ports []uint16) {
	for _, d := range b.cfg.Never {
		if d.Addr().IsUnspecified() || !d.Addr().IsValid() {
			ports = append(ports, d.Port())
		} else {
			named = append(named, netip.AddrPortFrom(d.Addr().Unmap(), d.Port()))
		}
	}
	return named, ports
}

// ruleInside puts the rules into the namespace that the calling thread is in.
func (b *Boundary) ruleInside(n Net) error {
	t, err := newTable(innerTable)
	if err != nil {
		return err
	}
	if err := t.denying(b.cfg.Distinct, b.cfg.Remember); err != nil {
		return err
	}
	named, _ := b.doors()
	t.judging(n.Policy, named)
	own := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, a := range []netip.Addr{n.Guest4, n.Guest6} {
		if a.IsValid() {
			own = append(own, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	out := t.chain("output", nftables.ChainHookOutput, nftables.ChainPolicyDrop)
	if len(n.Policy.Services) > 0 {
		t.serving(n, out)
	}
	if n.Tap != "" {
		t.add(out, leavesBy(n.Tap), accept()) // to the machine itself, which asks for it
	}
	for _, p := range own {
		t.add(out, leavesBy("lo"), to(p), accept())
	}
	t.add(out, leave(judgeChain))
	in := t.chain("input", nftables.ChainHookInput, nftables.ChainPolicyDrop)
	t.add(in, cameBy("lo"), accept())
	if n.Veth != "" {
		t.add(in, answers(), accept())
	}
	across := t.chain("forward", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	if n.Tap != "" {
		t.judgingMachine(n, in, across)
	}
	if err := t.c.Flush(); err != nil {
		return fmt.Errorf("set the rules of the task's namespace: %w", err)
	}
	return nil
}

// ruleHost puts the rules for a task's device in place on the node, in whose
// namespace the calling thread is. They touch no packet but the task's, and
// those of the devices that forward for its sake alone.
func (b *Boundary) ruleHost(n Net, forwarding []string) error {
	t, err := newTable(hostPrefix + n.Veth)
	if err != nil {
		return err
	}
	if err := t.denying(b.cfg.Distinct, b.cfg.Remember); err != nil {
		return err
	}
	named, ports := b.doors()
	t.judging(n.Policy, named)
	// Asked before a way is looked for, so that what has none is counted too.
	in := t.chain("prerouting", nftables.ChainHookPrerouting, nftables.ChainPolicyAccept)
	for _, a := range []netip.Addr{n.Guest4, n.Guest6} {
		t.add(in, cameBy(n.Veth), notFrom(a), leave(denyChain)) // an address of somebody else
	}
	for _, p := range ports {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			t.add(in, cameBy(n.Veth), toTheNode(), protocol(expr.CmpOpEq, proto), port(p), leave(denyChain))
		}
	}
	t.add(in, cameBy(n.Veth), leave(judgeChain))
	out := t.chain("forward", nftables.ChainHookForward, nftables.ChainPolicyAccept)
	t.add(out, leavesBy(n.Veth), answers(), accept())
	t.add(out, leavesBy(n.Veth), drop())
	for _, d := range devicesOf(forwarding) {
		// It forwards the answers to tasks, and for nobody else.
		t.add(out, cameBy(d), words{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(vethPrefix)}}, drop())
	}
	nat := t.c.AddChain(&nftables.Chain{Name: "postrouting", Table: t.t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	for _, a := range []netip.Addr{n.Guest4, n.Guest6} {
		t.add(nat, from(a), device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, n.Veth), words{&expr.Masq{}})
	}
	if err := t.c.Flush(); err != nil {
		return fmt.Errorf("set the node's rules for %s: %w", n.Veth, err)
	}
	return nil
}

// unruleHost removes the rules of a device; none there is no error.
func unruleHost(veth string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: hostPrefix + veth}
	c.AddTable(t)
	c.DelTable(t)
	return c.Flush()
}

// ruledDevices are the devices for which the node has rules of ours.
func ruledDevices() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, t := range tables {
		if veth, ok := strings.CutPrefix(t.Name, hostPrefix); ok {
			all = append(all, veth)
		}
	}
	return all, nil
}
