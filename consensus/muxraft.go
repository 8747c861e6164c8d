package consensus

import (
	"io"

	"github.com/hashicorp/raft"
)

// at is a target as the outgoing stream layer reads it.
func at(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(string(id) + "@" + string(addr))
}

// Consumer implements raft.Transport.
func (m *mux) Consumer() <-chan raft.RPC { return m.consume }

// LocalAddr implements raft.Transport.
func (m *mux) LocalAddr() raft.ServerAddress { return raft.ServerAddress(m.g.cfg.Advertise) }

// AppendEntriesPipeline implements raft.Transport.
func (m *mux) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := m.out.AppendEntriesPipeline(id, at(id, to))
	if err != nil {
		return nil, err
	}
	return newTeller(p, m.g.machine.applied), nil
}

// AppendEntries implements raft.Transport.
func (m *mux) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return m.out.AppendEntries(id, at(id, to), args, resp)
}

// RequestVote implements raft.Transport.
func (m *mux) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return m.out.RequestVote(id, at(id, to), args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (m *mux) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return m.out.RequestPreVote(id, at(id, to), args, resp)
}

// InstallSnapshot implements raft.Transport.
func (m *mux) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return m.out.InstallSnapshot(id, at(id, to), args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (m *mux) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return m.out.TimeoutNow(id, at(id, to), args, resp)
}

// EncodePeer implements raft.Transport.
func (m *mux) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }

// DecodePeer implements raft.Transport.
func (m *mux) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (m *mux) SetHeartbeatHandler(f func(raft.RPC)) {
	if f == nil {
		m.beat.Store(nil)
		return
	}
	m.beat.Store(&f)
}
