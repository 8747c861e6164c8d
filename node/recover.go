package node

import (
	"context"
	"fmt"

	"github.com/sovmesh/sovmesh/consensus"
	"github.com/sovmesh/sovmesh/placement"
)

// Recover makes a region that lost its quorum for good out of this one voter's
// data directory; see [consensus.Recover] for what is lost by it. The node must
// be stopped.
func Recover(ctx context.Context, cfg Config, deps Deps) (consensus.Recovered, error) {
	dir := dataDir(cfg.Data)
	who, ok, err := dir.whoami()
	switch {
	case err != nil:
		return consensus.Recovered{}, err
	case !ok:
		return consensus.Recovered{}, fmt.Errorf("%s holds no node; give the data directory of a voter", cfg.Data)
	case who.Node != cfg.Node:
		return consensus.Recovered{}, fmt.Errorf("%s belongs to node %s of region %s, not to %s; give the node's own config", cfg.Data, who.Node, who.Region, cfg.Node)
	case who.Role == placement.RoleWorker || !dir.has(fileCA):
		return consensus.Recovered{}, fmt.Errorf("%s is not that of a voter: it does not hold the region's keys; recover from a voter's", cfg.Data)
	}
	unlock, err := dir.lock()
	if err != nil {
		return consensus.Recovered{}, err
	}
	defer unlock()
	group := consensus.DefaultConfig()
	group.Self, group.Region, group.Advertise = who.Node, who.Region, cfg.QUIC
	group.Storage = deps.Storage
	if group.Storage == nil {
		group.Storage = consensus.Dir(dir.path(dirRaft))
	}
	group.HeartbeatTimeout, group.ElectionTimeout, group.LeaseTimeout = cfg.Heartbeat, cfg.Heartbeat, cfg.Heartbeat
	group.MaxSkew, group.Clock, group.Log = maxSkew, deps.now, deps.Log.With("region", string(who.Region), "node", string(who.Node), "part", "recover")
	return consensus.Recover(ctx, group)
}

// RegionOf is the region that the data directory belongs to.
func RegionOf(cfg Config) (placement.RegionID, error) {
	who, ok, err := dataDir(cfg.Data).whoami()
	if err == nil && !ok {
		err = fmt.Errorf("%s holds no node; give the data directory of a voter", cfg.Data)
	}
	return who.Region, err
}
