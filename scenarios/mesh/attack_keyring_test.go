package mesh

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// ring is the gossip keys on the disk of a node.
func (h *host) ring() (ring api.Keyring) {
	h.m.t.Helper()
	path := filepath.Join(h.dir, "keyring.json")
	data, err := os.ReadFile(path)
	h.m.must(err)
	h.m.must(json.Unmarshal(data, &ring))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		h.m.t.Errorf("%s: %v, %v", path, info.Mode(), err)
	}
	return ring
}

// whisper gives a function that sends one packet, sealed with a key that the
// attacker has, to a node of the region, and reports whether it was read: then
// it is answered. Packets need no certificate.
func (m *Mesh) whisper(r *rogue, at netip.Addr, key []byte) (read func(placement.NodeID) bool, stop func()) {
	m.t.Helper()
	l := &liar{r: r, at: netip.AddrPortFrom(at, 7443), packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case in := <-r.endpoint.Gossip().Packets():
				select {
				case l.packets <- &memberlist.Packet{Buf: in.Data, From: net.UDPAddrFromAddrPort(in.From), Timestamp: in.At}:
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	time.Sleep(time.Second) // until the attacker's endpoint runs
	c := memberlist.DefaultLANConfig()
	c.Name, c.Transport, c.Label, c.Delegate = "n66", l, string(r.id.Region), l
	c.SecretKey, c.EnableCompression, c.Logger = key, false, log.New(io.Discard, "", 0)
	list, err := memberlist.Create(c)
	m.must(err)
	read = func(name placement.NodeID) bool {
		to, err := netip.ParseAddrPort(m.peer(r.id.Region, name).Addr)
		m.must(err)
		_, err = list.Ping(string(name), net.UDPAddrFromAddrPort(to))
		var silent memberlist.NoPingResponseError
		if err != nil && !errors.As(err, &silent) {
			m.t.Fatal(err)
		}
		return err == nil
	}
	return read, func() {
		m.must(list.Shutdown())
		time.Sleep(10 * time.Second)
		close(done)
	}
}

// A node that was removed keeps the region's gossip keys on its disk. Seconds
// later they open nothing, anywhere; the pool lives on, through a change of
// leaders in the middle, and who was away comes back by asking a voter.
func TestARemovedNodesGossipKeyOpensNothing(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8))
		stolen := m.host("fra-1", "n7").ring().Keys[0]
		attacker := m.rogue(m.credential("fra-1", "n7", 0), outside(1))
		read, stop := m.whisper(attacker, outside(1), stolen)
		defer stop()
		there := []placement.NodeID{"n1", "n2", "n3", "n4", "n5", "n8"}
		for _, n := range there {
			if !read(n) {
				t.Fatalf("%s does not read a packet sealed with the region's key: the attack below would prove nothing", n)
			}
		}
		m.Kill("fra-1", "n6") // it is away, and nobody waits for it
		m.Kill("fra-1", "n7")
		m.must(m.At("fra-1").RemoveNode(t.Context(), "n7"))
		lost := m.Leader("fra-1")
		m.Kill("fra-1", lost)
		m.Leader("fra-1")
		there = slices.DeleteFunc(there, func(n placement.NodeID) bool { return n == lost })
		m.Within(20*time.Second, "the key that was stolen is dropped everywhere", func() bool {
			return !slices.ContainsFunc(there, func(n placement.NodeID) bool {
				return slices.ContainsFunc(m.host("fra-1", n).ring().Keys, func(k []byte) bool { return string(k) == string(stolen) })
			})
		})
		for _, n := range there {
			if read(n) {
				t.Errorf("%s reads a packet sealed with the removed node's key", n)
			}
		}
		if status, _ := attackerAsks(attacker, m.peer("fra-1", there[0])); status == 200 {
			t.Error("the removed node was handed the new keys")
		}
		m.Restart("fra-1", "n6")
		m.Restart("fra-1", lost)
		m.host("fra-1", "n6").waitReady()
		all := append(there, "n6", lost)
		m.Within(20*time.Second, "who was away has the new keys", func() bool {
			first := m.host("fra-1", all[0]).ring()
			return len(first.Keys) == 1 && !slices.ContainsFunc(all, func(n placement.NodeID) bool { return !m.host("fra-1", n).ring().Equal(first) })
		})
		time.Sleep(30 * time.Second)
		for _, n := range all {
			if c := m.contact("fra-1", n); c != placement.ContactAlive {
				t.Errorf("%s is %s after the rotation", n, c)
			}
		}
		fresh, stopFresh := m.whisper(attacker2(m), outside(2), m.host("fra-1", "n1").ring().Keys[0])
		defer stopFresh()
		for _, n := range all {
			if !fresh(n) {
				t.Errorf("%s does not read the new key", n)
			}
		}
		m.CheckInvariants()
	})
}

// attacker2 is somebody with a good certificate, at another address.
func attacker2(m *Mesh) *rogue { return m.rogue(m.credential("fra-1", "n1", 0), outside(2)) }

func attackerAsks(r *rogue, to transport.Peer) (int, string) {
	res, err := r.ask("GET", to, api.MeshPrefix+"/keyring", nil, nil)
	if err != nil {
		return 0, ""
	}
	return answerOf(res)
}
