//go:build linux

package boundary

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Denied says what the task tried to reach and was refused, the most packets
// first. The kernel counts, so nothing is lost while no agent is there; the sum
// outlives the network until the task is forgotten.
func (b *Boundary) Denied(task placement.TaskID) ([]runner.Denial, error) {
	unlock, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := load(b.statePath(task))
	if err != nil {
		return nil, fmt.Errorf("count what task %s was refused: %w", task, err)
	}
	if !s.Over {
		inside, outside, earlier := s.Inside, s.Outside, s.Earlier
		if err := b.collect(&s); err != nil {
			return nil, err
		}
		s.Earlier = b.refusals.take(task, s.Earlier)
		// Hundreds of tasks are asked for this over and over: most were refused nothing.
		if !slices.Equal(inside, s.Inside) || !slices.Equal(outside, s.Outside) || !slices.Equal(earlier, s.Earlier) {
			if err := b.save(s); err != nil {
				return nil, err
			}
		}
	}
	return sum(s.Earlier, s.Inside, s.Outside), nil
}

// collect reads the kernel's counters into the state: those inside, and those
// on the node, which are of what came past the ones inside.
func (b *Boundary) collect(s *state) error {
	read := func(table string, into *[]runner.Denial) func() error {
		return func() error {
			now, err := readDenied(table, b.cfg.Remember, time.Now())
			if errors.Is(err, unix.ENOENT) {
				return nil // the task took its rules away, or there never were any
			}
			*into = renew(*into, now)
			return err
		}
	}
	ns, err := os.Open(s.Path)
	if err == nil && mounted(s.Path) {
		err = errors.Join(inside(ns, read(innerTable, &s.Inside)), ns.Close())
	} else if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = nil // gone with a boot of the machine: what was read last is kept
	}
	if err == nil && s.Veth != "" {
		err = inside(b.host, read(hostPrefix+s.Veth, &s.Outside))
	}
	if err != nil {
		return fmt.Errorf("count what task %s was refused: %w", s.Task, err)
	}
	return nil
}

// rest is the destination of what did not fit the sets.
const rest = "*"

// denials are what one table counted.
type denials map[string]runner.Denial

// readDenied reads one table, of the namespace that the calling thread is in.
func readDenied(name string, remember time.Duration, now time.Time) (denials, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	total, err := deniedTotal(c, t)
	if err != nil {
		return nil, err
	}
	d := make(denials)
	if total == 0 {
		return d, nil
	}
	var told uint64
	for _, f := range []struct {
		denied, first string
		size          int
	}{{"denied4", "first4", 4}, {"denied6", "first6", 16}} {
		elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: f.denied})
		if err != nil {
			return nil, err
		}
		firsts, err := c.GetSetElements(&nftables.Set{Table: t, Name: f.first})
		if err != nil {
			return nil, err
		}
		since := make(map[string]time.Time)
		for _, e := range firsts {
			since[string(e.Key)] = now.Add(e.Expires - remember)
		}
		for _, e := range elements {
			dest, ok := destination(e.Key, f.size)
			if !ok || e.Counter == nil {
				continue
			}
			told += e.Counter.Packets
			one := runner.Denial{Destination: dest, Packets: e.Counter.Packets, Last: now.Add(e.Expires - remember)}
			if one.First = since[string(e.Key)]; one.First.IsZero() || one.First.After(one.Last) {
				one.First = one.Last
			}
			d[dest] = one
		}
	}
	if total > told {
		d[rest] = runner.Denial{Destination: rest, Packets: total - told, First: now, Last: now}
	}
	return d, nil
}

// deniedTotal is the counter at the head of the chain that refuses.
func deniedTotal(c *nftables.Conn, t *nftables.Table) (uint64, error) {
	rules, err := c.GetRules(t, &nftables.Chain{Name: denyChain, Table: t})
	if err != nil {
		return 0, err
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if n, ok := e.(*expr.Counter); ok {
				return n.Packets, nil
			}
		}
	}
	return 0, unix.ENOENT
}

// destination reads a set's key: the address, then the protocol and the port,
// each at the beginning of four bytes.
func destination(key []byte, size int) (string, bool) {
	if len(key) < size+8 {
		return "", false
	}
	a, ok := netip.AddrFromSlice(key[:size])
	if !ok {
		return "", false
	}
	proto, port := key[size], binary.BigEndian.Uint16(key[size+4:])
	if port == 0 && proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_UDP {
		return a.String() + "/" + protocolName(proto), true
	}
	return netip.AddrPortFrom(a, port).String() + "/" + protocolName(proto), true
}

func protocolName(n byte) string {
	switch n {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmp6"
	case unix.IPPROTO_SCTP:
		return "sctp"
	default:
		return "protocol-" + strconv.Itoa(int(n))
	}
}

// renew puts what a table says now in the place of what was known of it. A table
// counts from its beginning, so what is less comes of one that was made anew:
// then what was known stands.
func renew(known []runner.Denial, now denials) []runner.Denial {
	for _, k := range known {
		d, ok := now[k.Destination]
		if !ok || d.Packets <= k.Packets {
			now[k.Destination] = k
			continue
		}
		d.First = earlier(d.First, k.First)
		now[k.Destination] = d
	}
	return bounded(sorted(now))
}

// sum adds up lists by destination.
func sum(lists ...[]runner.Denial) []runner.Denial {
	all := make(denials)
	for _, list := range lists {
		for _, d := range list {
			if had, ok := all[d.Destination]; ok {
				d.Packets += had.Packets
				d.First, d.Last = earlier(had.First, d.First), later(had.Last, d.Last)
			}
			all[d.Destination] = d
		}
	}
	return sorted(all)
}

// sorted has the most packets first.
func sorted(d denials) []runner.Denial {
	return slices.SortedFunc(maps.Values(d), func(a, b runner.Denial) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), strings.Compare(a.Destination, b.Destination))
	})
}

// maxDenied bounds what is kept of one task.
const maxDenied = 4096

// bounded sums up the least of too many.
func bounded(all []runner.Denial) []runner.Denial {
	if len(all) <= maxDenied {
		return all
	}
	last := runner.Denial{Destination: rest}
	kept := make([]runner.Denial, 0, maxDenied)
	for _, d := range all {
		if d.Destination != rest && len(kept) < maxDenied-1 {
			kept = append(kept, d)
			continue
		}
		last.Packets += d.Packets
		last.First, last.Last = earlier(last.First, d.First), later(last.Last, d.Last)
	}
	return append(kept, last)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
