package runner

import (
	"maps"
	"sync"

	"github.com/sovmesh/sovmesh/placement"
)

// Memory is a [Store] for meshes that live in one process; it survives the
// node built on it, not the process.
type Memory struct {
	mu      sync.Mutex
	records map[placement.TaskID]Record // guarded by mu
	low     uint64                      // guarded by mu
	fail    error                       // guarded by mu
}

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{records: make(map[placement.TaskID]Record)} }

// Fail makes every later change return err, as a full disk does; nil ends that.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Load returns what was saved.
func (m *Memory) Load() ([]Record, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Record
	for r := range maps.Values(m.records) {
		all = append(all, r)
	}
	return all, m.low, nil
}

// Save keeps the record.
func (m *Memory) Save(r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.records[r.Task] = r
	return nil
}

// Delete forgets the record and raises the floor.
func (m *Memory) Delete(id placement.TaskID, floor uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.low = max(m.low, floor)
	delete(m.records, id)
	return nil
}
