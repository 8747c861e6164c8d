package mesh

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/gossip"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// liar is a member of a region's gossip that says what it likes: memberlist on
// the attacker's endpoint, with the region's own keys.
type liar struct {
	r       *rogue
	at      netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn

	mu     sync.Mutex
	meta   gossip.Meta // guarded by mu
	pieces [][]byte    // guarded by mu
	sent   int         // guarded by mu
}

func (l *liar) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return l.at.Addr().AsSlice(), int(l.at.Port()), nil
}

func (l *liar) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	return time.Now(), l.r.endpoint.Gossip().WriteTo(b, to)
}

func (l *liar) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.r.m.t.Context(), timeout)
	defer cancel()
	return l.r.endpoint.Gossip().Dial(ctx, transport.Peer{ID: identity.ID{Region: l.r.id.Region, Mesh: Domain}, Addr: addr})
}

func (l *liar) PacketCh() <-chan *memberlist.Packet { return l.packets }
func (l *liar) StreamCh() <-chan net.Conn           { return l.streams }
func (l *liar) Shutdown() error                     { return nil }

// The delegate: it says what record is its newest, and gives the pieces of it to
// everybody, again and again.
func (l *liar) NodeMeta(int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.meta.Marshal()
}
func (l *liar) NotifyMsg([]byte) {}
func (l *liar) GetBroadcasts(_, limit int) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pieces) == 0 {
		return nil
	}
	piece := l.pieces[l.sent%len(l.pieces)]
	if len(piece) > limit {
		return nil
	}
	l.sent++
	return [][]byte{piece}
}
func (l *liar) LocalState(bool) []byte            { return nil }
func (l *liar) MergeRemoteState(_ []byte, _ bool) {}

// A node with a good certificate and the region's gossip keys says, signed,
// that it stands in another country: the record is refused where it arrives.
func TestGossipCannotClaimAnotherCountry(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		var ring api.Keyring
		data, err := os.ReadFile(filepath.Join(m.host("fra-1", "n1").dir, "keyring.json"))
		m.must(err)
		m.must(json.Unmarshal(data, &ring))
		cred := m.stolen("fra-1", "n2")
		m.Kill("fra-1", "n2")
		time.Sleep(time.Minute) // until its name is free in the pool

		l := &liar{r: m.rogue(cred, outside(1)), at: netip.AddrPortFrom(outside(1), 7443), packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}
		c := memberlist.DefaultLANConfig()
		c.Name, c.Transport, c.Label, c.Delegate = "n2", l, "fra-1", l
		c.SecretKey, c.EnableCompression, c.Logger = ring.Keys[0], false, log.New(io.Discard, "", 0)
		list, err := memberlist.Create(c)
		m.must(err)
		defer func() { m.must(list.Shutdown()); time.Sleep(10 * time.Second) }()
		if _, err := list.Join([]string{m.peer("fra-1", "n1").Addr, m.peer("fra-1", "n3").Addr}); err != nil {
			t.Fatalf("the attacker did not get into the pool: %v", err)
		}

		tell := func(version uint64, more ...any) (taken, refused float64) {
			record := lie(t, placement.Node{ID: "n2", Region: "fra-1", QUIC: m.peer("fra-1", "n2").Addr, Inventory: placement.Inventory{Version: version}}, more...)
			payload, err := json.Marshal(record)
			m.must(err)
			statement, err := identity.Sign(cred, gossip.RecordContext, payload, time.Now())
			m.must(err)
			pieces, err := gossip.Pieces("n2", statement)
			m.must(err)
			had, before := m.gossiped("sovmesh_gossip_records_total"), m.log.count("fra-1/n1", "inventory record was refused")
			l.mu.Lock()
			l.meta, l.pieces = gossip.MetaOf(version, statement), pieces
			l.mu.Unlock()
			m.must(list.UpdateNode(10 * time.Second))
			time.Sleep(5 * time.Second)
			return m.gossiped("sovmesh_gossip_records_total") - had, float64(m.log.count("fra-1/n1", "inventory record was refused") - before)
		}
		later := uint64(time.Now().Unix()) + 10
		if taken, refused := tell(later); refused != 0 || taken != 1 {
			t.Fatalf("a record that does not lie was refused %v times and taken in %v times: the attack below would prove nothing", refused, taken)
		}
		for i, claim := range []struct {
			field string
			value any
		}{
			{"country", "US"}, {"operator", map[string]string{"home": "US"}}, {"claims", map[string]string{"gdpr": "yes"}},
			{"assurance", map[string]string{"location": "attested"}}, {"facts", map[string]string{"country": "US"}}, {"region", "iad-1"}, {"name", "n1"},
		} {
			if taken, refused := tell(later+uint64(i)+1, claim.field, claim.value); refused != 1 || taken != 0 {
				t.Errorf("a record that claims %s was refused %v times and taken in %v times", claim.field, refused, taken)
			}
		}
		if f := m.region("fra-1").newest().Self().Facts; f.Country != "FR" {
			t.Errorf("the region lies in %s now", f.Country)
		}
	})
}

// gossiped reads a counter of fra-1's first node.
func (m *Mesh) gossiped(name string) (value float64) {
	m.t.Helper()
	_, text := m.scrape("fra-1", "n1", m.region("fra-1").token)
	_, rest, found := strings.Cut(text, "\n"+name+"{")
	_, rest, _ = strings.Cut(rest, "} ")
	digits, _, _ := strings.Cut(rest, "\n")
	value, err := strconv.ParseFloat(digits, 64)
	if !found || err != nil {
		m.t.Fatalf("no %s: %v", name, err)
	}
	return value
}
