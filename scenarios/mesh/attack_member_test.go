package mesh

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// raftVoice speaks raft's own protocol to the nodes of a region, over streams
// that the attacker's certificate opens.
type raftVoice struct {
	r  *rogue
	to transport.Peer
}

func (v raftVoice) Dial(_ raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(v.r.m.t.Context(), timeout)
	defer cancel()
	c, err := v.r.endpoint.Raft().Dial(ctx, v.to)
	if err == nil {
		_, err = c.Write([]byte{'R'})
	}
	return c, err
}

func (v raftVoice) Accept() (net.Conn, error) { <-v.r.m.t.Context().Done(); return nil, net.ErrClosed }
func (v raftVoice) Close() error              { return nil }
func (v raftVoice) Addr() net.Addr            { return tcpAddr(v.to.Addr) }

func (r *rogue) raft(to transport.Peer) *raft.NetworkTransport {
	n := raft.NewNetworkTransport(raftVoice{r, to}, 1, 5*time.Second, io.Discard)
	r.m.t.Cleanup(func() { n.CloseStreams(); _ = n.Close() })
	return n
}

// usurp asks a voter for its vote, for a term and log beyond all others, under
// any name and address.
func usurp(n *raft.NetworkTransport, id placement.NodeID, addr string) (granted bool, err error) {
	var vote raft.RequestVoteResponse
	err = n.RequestVote("", "", &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr)},
		Term:      1 << 20, LastLogIndex: 1 << 40, LastLogTerm: 1 << 20, LeadershipTransfer: true,
	}, &vote)
	return vote.Granted, err
}

// A voter that speaks as another is refused by the certificate on its stream,
// and the region's leader leads on.
func TestAVoterThatSpeaksAsAnotherIsRefused(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 3))
		leader := m.Leader("fra-1")
		var others []placement.NodeID
		for _, n := range []placement.NodeID{"n1", "n2", "n3"} {
			if n != leader {
				others = append(others, n)
			}
		}
		victim, forger := others[0], others[1]
		r := m.rogue(m.stolen("fra-1", forger), outside(1))
		out := r.raft(m.peer("fra-1", victim))
		for _, tc := range []struct {
			name string
			id   placement.NodeID
			addr string
		}{
			{"as the leader", leader, m.peer("fra-1", leader).Addr},
			{"as the leader from its own address", leader, m.peer("fra-1", forger).Addr},
			{"as itself from the leader's address", forger, m.peer("fra-1", leader).Addr},
			{"as nobody", "", ""},
		} {
			if granted, err := usurp(out, tc.id, tc.addr); err == nil || granted {
				t.Errorf("%s: granted %v, err %v", tc.name, granted, err)
			}
		}
		time.Sleep(5 * time.Second)
		if now := m.Leader("fra-1"); now != leader {
			t.Errorf("the attack moved the leadership from %s to %s", leader, now)
		}
		m.CheckInvariants()
	})
}

// In a region of eight the eighth is a worker: it runs tasks through its
// voters and passes requests on to them, but it speaks no raft, and it proposes
// nothing but what it says of itself.
func TestAWorkerWorksAndSpeaksNoRaft(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8))
		view := m.host("fra-1", "n1").node.View()
		roles := map[placement.NodeRole]int{}
		for _, n := range view.Nodes() {
			roles[n.Role]++
		}
		if roles[placement.RoleVoter] != 3 || roles[placement.RoleStandby] != 4 || view.Node("n8").Role != placement.RoleWorker {
			t.Fatalf("roles %v", roles)
		}
		worker := m.AtNode("fra-1", "n8")
		doc, err := worker.TrySubmit(`{"kind":"fake","residency":"FR","node":"n8","command":["run","2s"]}`)
		m.must(err)
		m.Within(10*time.Second, "the worker runs a task", doc.Is(placement.JobRunning))
		if !slices.ContainsFunc(m.host("fra-1", "n8").world.Running(), func(id placement.TaskID) bool { return id.Job() == doc.ID }) {
			t.Error("the task runs elsewhere")
		}
		m.Within(10*time.Second, "the worker's task ends", doc.Exited(0))
		if s, err := worker.Status(t.Context()); err != nil || s.Voters != 3 {
			t.Errorf("status through a worker: %+v, %v", s, err)
		}

		r := m.rogue(m.stolen("fra-1", "n8"), outside(1))
		for _, n := range []placement.NodeID{"n1", "n2", "n3", "n4"} {
			mustRefuse(m, "a worker that speaks raft to "+string(n), r.knock(identity.ClassRaft, m.peer("fra-1", n)))
		}
		if err := r.knock(identity.ClassHTTP, m.peer("fra-1", "n1")); err != nil {
			t.Fatalf("its certificate is good for HTTP/3: %v", err)
		}
		leader := m.peer("fra-1", m.Leader("fra-1"))
		before := view.Index()
		for _, cmd := range []state.Command{
			state.SetRole{Node: "n8", Role: placement.RoleVoter},
			state.StopJob{Job: doc.ID},
			state.RevokeToken{ID: "founder"},
			state.ReportTasks{Node: "n1", Reports: []placement.TaskReport{{Task: doc.ID.Task(0, 0), Status: placement.TaskFailed}}},
			state.RenewLeases{Node: "n1", Until: time.Now().Add(time.Minute)},
		} {
			if _, err := r.propose(leader, cmd, time.Now()); Code(err) != api.CodeRole {
				t.Errorf("a worker proposes %s: %v (code %q)", cmd.Kind(), err, Code(err))
			}
		}
		if status, code := r.answer(http.MethodGet, leader, api.MeshPrefix+"/authority", nil, ""); status != http.StatusForbidden {
			t.Errorf("a worker asks for the CA: %d %s", status, code)
		}
		if got := m.region("fra-1").newest().Node("n8").Role; got != placement.RoleWorker {
			t.Errorf("after index %d the worker is %s", before, got)
		}
		m.CheckInvariants()
	})
}

// A node that was removed keeps its program, its keys and its open
// connections: nobody listens to it any more, whichever of its certificates it
// shows.
func TestARemovedNodeIsNotHeard(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 4), Region("ber-1", "DE", 1))
		last, older := m.stolen("fra-1", "n4"), m.credential("fra-1", "n4", 0)
		a, b := m.rogue(last, outside(1)), m.rogue(older, outside(2))
		to := m.peer("fra-1", "n1")
		for _, class := range identity.Classes() {
			m.must(a.knock(class, to))
			m.must(b.knock(class, to))
		}
		open, err := a.endpoint.Gossip().Dial(t.Context(), to)
		m.must(err)
		m.must(m.At("fra-1").RemoveNode(t.Context(), "n4"))
		m.Within(5*time.Second, "what it had open is closed", func() bool {
			_ = open.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err := open.Read(make([]byte, 1))
			nerr, ok := err.(net.Error)
			return err != nil && !(ok && nerr.Timeout())
		})
		time.Sleep(2 * time.Second) // until it has left raft's configuration too
		for _, class := range identity.Classes() {
			mustRefuse(m, "the removed node's last certificate on "+string(class), a.knock(class, to))
			mustRefuse(m, "an older certificate of the removed node on "+string(class), b.knock(class, to))
		}
		time.Sleep(20 * time.Second)
		for _, h := range m.region("fra-1").hosts[:3] {
			if n := h.node.View().Node("n4"); n != nil {
				t.Errorf("on %s it is a member again", h.name)
			}
		}
		if _, err := a.mesh.Propose(t.Context(), to, []byte("x")); err == nil {
			t.Error("a removed node proposed")
		}
		job := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["run","1s"]}`)
		m.Within(10*time.Second, "the region works on", job.Exited(0))
	})
}

// A node that joins again under its old name does not revive the certificates
// that it, or who took it over, had before: they are refused, the new one counts.
func TestARejoinedNodeDoesNotReviveOldCertificates(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 4))
		old := m.credential("fra-1", "n4", 0)
		r := m.rogue(old, outside(1))
		to := m.peer("fra-1", "n1")
		m.must(r.knock(identity.ClassHTTP, to))
		time.Sleep(10 * time.Minute)
		h := m.host("fra-1", "n4")
		h.end(false)
		m.must(m.At("fra-1").RemoveNode(t.Context(), "n4"))
		m.must(os.RemoveAll(h.dir))
		tok, err := m.At("fra-1").CreateNodeToken(t.Context(), api.NodeTokenRequest{Node: "n4"})
		m.must(err)
		m.must(h.join(tok.Token))
		h.start()
		h.waitReady()
		m.must(m.rogue(m.stolen("fra-1", "n4"), outside(2)).knock(identity.ClassHTTP, to))
		for _, class := range identity.Classes() {
			mustRefuse(m, "a certificate from before the node joined again on "+string(class), r.knock(class, to))
		}
	})
}
