//go:build linux

package boundary

import (
	"bytes"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// BlockedError is a list that leads beyond the node, on a node whose other rules
// drop what is forwarded. No rule of ours can let through what another chain drops.
type BlockedError struct {
	Chain       string // family, table and name
	Destination Destination
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("packets to %s would be lost: the node's own rules drop what is forwarded (chain %s)", e.Destination, e.Chain)
}

// Hint says what the node's operator can do.
func (e *BlockedError) Hint() string {
	return `let the node's operator accept the devices of tasks there, as with: iptables -I FORWARD -i smv+ -j ACCEPT; iptables -I FORWARD -o smv+ -j ACCEPT (for IPv6: ip6tables; with a Docker on the node: in its chain DOCKER-USER)`
}

// blocked is the error of a policy whose packets others drop; nil if they do not.
// The calling thread is in the node's namespace.
func blocked(p Policy) error {
	v4, v6, err := dropsForwarded()
	if err != nil || v4 == "" && v6 == "" {
		return err
	}
	for _, d := range p.destinations() {
		chain := v4
		if d.Prefix.Addr().Is6() {
			chain = v6
		}
		if chain == "" {
			continue
		}
		ways, err := waysTo(d.Prefix)
		if err != nil {
			return err
		}
		if len(ways) > 0 {
			return &BlockedError{Chain: chain, Destination: d}
		}
	}
	return nil
}

// dropsForwarded names, for each of the two families of addresses, a chain of
// somebody else's that drops what is forwarded unless a rule says otherwise, in a
// table where no rule speaks of tasks' devices; empty if there is none. Rules of the
// old iptables are not seen.
func dropsForwarded() (v4, v6 string, err error) {
	c, err := nftables.New()
	if err != nil {
		return "", "", err
	}
	chains, err := c.ListChains()
	if err != nil {
		return "", "", fmt.Errorf("read the node's rules: %w", err)
	}
	families := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
	for _, one := range chains {
		if one.Hooknum == nil || *one.Hooknum != *nftables.ChainHookForward || one.Policy == nil || *one.Policy != nftables.ChainPolicyDrop {
			continue
		}
		family := families[one.Table.Family]
		if family == "" || speaksOfTasks(c, one.Table, chains) {
			continue
		}
		chain := family + " " + one.Table.Name + " " + one.Name
		if v4 == "" && family != "ip6" {
			v4 = chain
		}
		if v6 == "" && family != "ip" {
			v6 = chain
		}
	}
	return v4, v6, nil
}

// speaksOfTasks reports whether some rule of the table names our devices.
func speaksOfTasks(c *nftables.Conn, t *nftables.Table, chains []*nftables.Chain) bool {
	for _, one := range chains {
		if one.Table.Name != t.Name || one.Table.Family != t.Family {
			continue
		}
		rules, err := c.GetRules(t, one)
		if err != nil {
			continue // it has what cannot be read
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if cmp, ok := e.(*expr.Cmp); ok && bytes.HasPrefix(cmp.Data, []byte(vethPrefix)) {
					return true
				}
			}
		}
	}
	return false
}
