package consensus

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
)

// Memory keeps everything in memory, over restarts of the group within one
// process. It is for tests and simulations.
func Memory() Storage {
	return &memory{log: raft.NewInmemStore(), snapshots: &memorySnapshots{}, ledger: store.Memory()}
}

type memory struct {
	log       *raft.InmemStore
	snapshots *memorySnapshots
	ledger    store.Files
}

func (m *memory) Open(Identity, *slog.Logger) (*Stores, error) {
	return &Stores{Log: m.log, Stable: m.log, Snapshots: m.snapshots, Close: func() error { return nil }, Ledger: m.ledger}, nil
}

// memorySnapshots keeps the newest snapshot. Raft's own store in memory is
// written while it is read: a follower could be sent half of one snapshot and
// half of the next.
type memorySnapshots struct {
	mu   sync.Mutex
	meta raft.SnapshotMeta // guarded by mu
	data []byte            // guarded by mu; never written again; nil: there is none
}

// Create begins a snapshot, which counts once its sink is closed.
func (m *memorySnapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta := raft.SnapshotMeta{Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term, Configuration: members, ConfigurationIndex: membersIndex}
	return &memorySink{to: m, meta: meta}, nil
}

// List gives the newest one.
func (m *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return nil, nil
	}
	meta := m.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

// Open reads the newest one, if it has the id.
func (m *memorySnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil || m.meta.ID != id {
		return nil, nil, fmt.Errorf("there is no snapshot %s, or a newer one", id)
	}
	meta := m.meta
	return &meta, io.NopCloser(bytes.NewReader(m.data)), nil
}

// memorySink is one snapshot being written.
type memorySink struct {
	bytes.Buffer
	to   *memorySnapshots
	meta raft.SnapshotMeta
	over bool
}

// ID is the snapshot's.
func (s *memorySink) ID() string { return s.meta.ID }

// Cancel drops what was written.
func (s *memorySink) Cancel() error {
	s.over = true
	return nil
}

// Close makes the snapshot the newest one.
func (s *memorySink) Close() error {
	if s.over {
		return nil
	}
	s.over = true
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	s.meta.Size = int64(s.Len())
	s.to.meta, s.to.data = s.meta, append([]byte{}, s.Bytes()...)
	return nil
}
