package mesh

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"path/filepath"
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
	state   []byte
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

// The delegate: all that the others hear is the state.
func (l *liar) NodeMeta(int) []byte               { return gossip.Meta{}.Marshal() }
func (l *liar) NotifyMsg([]byte)                  {}
func (l *liar) GetBroadcasts(int, int) [][]byte   { return nil }
func (l *liar) LocalState(bool) []byte            { return l.state }
func (l *liar) MergeRemoteState(_ []byte, _ bool) {}

// A node with a good certificate and the region's gossip keys says, signed,
// that it stands in another country: the record is refused where it arrives.
func TestGossipCannotClaimAnotherCountry(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 2))
		var ring api.Keyring
		data, err := os.ReadFile(filepath.Join(m.host("fra-1", "n1").dir, "keyring.json"))
		m.must(err)
		m.must(json.Unmarshal(data, &ring))
		cred := m.stolen("fra-1", "n2")
		r := m.rogue(cred, outside(1))

		tell := func(version uint64, more ...any) (refused int) {
			record := lie(t, placement.Node{ID: "n2", Region: "fra-1", QUIC: m.peer("fra-1", "n2").Addr, Inventory: placement.Inventory{Version: version}}, more...)
			payload, err := json.Marshal(record)
			m.must(err)
			statement, err := identity.Sign(cred, gossip.RecordContext, payload, time.Now())
			m.must(err)
			l := &liar{r: r, at: netip.AddrPortFrom(outside(1), 7443), packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}
			l.state = append(binary.BigEndian.AppendUint32(nil, uint32(len(statement))), statement...)
			c := memberlist.DefaultLANConfig()
			c.Name, c.Transport, c.Label, c.Delegate = "n9", l, "fra-1", l
			c.SecretKey, c.EnableCompression, c.Logger = ring.Keys[0], false, log.New(io.Discard, "", 0)
			list, err := memberlist.Create(c)
			m.must(err)
			defer func() { m.must(list.Shutdown()); time.Sleep(10 * time.Second) }()
			before := m.log.count("fra-1/n1", "inventory record was refused")
			if _, err := list.Join([]string{m.peer("fra-1", "n1").Addr}); err != nil {
				t.Fatalf("the attacker did not get into the pool: %v", err)
			}
			time.Sleep(time.Second)
			return m.log.count("fra-1/n1", "inventory record was refused") - before
		}
		later := uint64(time.Now().Unix()) + 10
		if n := tell(later); n != 0 {
			t.Fatalf("a record that does not lie was refused %d times: the attack below would prove nothing", n)
		}
		for i, claim := range []struct {
			field string
			value any
		}{
			{"country", "US"}, {"operator", map[string]string{"home": "US"}}, {"claims", map[string]string{"gdpr": "yes"}},
			{"assurance", map[string]string{"location": "attested"}}, {"facts", map[string]string{"country": "US"}}, {"region", "iad-1"}, {"name", "n1"},
		} {
			if n := tell(later+uint64(i)+1, claim.field, claim.value); n != 1 {
				t.Errorf("a record that claims %s was refused %d times", claim.field, n)
			}
		}
		if f := m.region("fra-1").newest().Self().Facts; f.Country != "FR" {
			t.Errorf("the region lies in %s now", f.Country)
		}
	})
}
