package consensus

import (
	"context"

	"github.com/hashicorp/raft"
)

// standAlone lets the only server of a group stand for election at once. The
// election timeout is a wait for somebody else's heartbeat, and there is nobody
// else: a region of one node would be a second or two late at every start.
func (g *Group) standAlone(ctx context.Context) {
	r, net := g.raft.Load(), g.net.Load()
	members := r.GetConfiguration()
	if members.Error() != nil {
		return
	}
	servers := members.Configuration().Servers
	if len(servers) != 1 || servers[0].ID != raft.ServerID(g.cfg.Self) || r.State() != raft.Follower {
		return
	}
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{RespChan: answer, Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.cfg.Self), Addr: []byte(g.cfg.Advertise),
	}}}
	select {
	case net.consume <- rpc:
	case <-net.stopped:
	case <-ctx.Done():
	}
}
