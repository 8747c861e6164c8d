package devmesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// recordFile keeps, below Config.Dir, what a second start needs.
const recordFile = "devmesh.json"

// record is what a mesh remembers of itself. It holds the founders' tokens, as
// the directories beside it hold the regions' keys: it is for its user alone.
type record struct {
	Version int                                `json:"version"`
	Mesh    string                             `json:"mesh"`
	Regions map[placement.RegionID]*regionFile `json:"regions"`
	Ports   map[placement.NodeID]ports         `json:"ports"`
}

type regionFile struct {
	Country     string             `json:"country"`
	Founded     bool               `json:"founded"`
	Token       string             `json:"token"`
	CA          string             `json:"ca"`
	Fingerprint string             `json:"fingerprint"`
	Joined      []placement.NodeID `json:"joined"` // those that have an identity
}

// ports are a node's; zero is any free one.
type ports struct {
	UDP int `json:"udp"`
	TCP int `json:"tcp"`
}

// DataError is a directory that cannot be the one of this mesh.
type DataError struct{ Dir, Why string }

func (e *DataError) Error() string { return fmt.Sprintf("the directory %s %s", e.Dir, e.Why) }

// Hint says what to do.
func (e *DataError) Hint() string {
	return "name the same regions as when it was made, or another directory with --data"
}

// load reads the record, or begins one.
func (m *Mesh) load() error {
	m.record = record{Version: 1, Mesh: m.cfg.Mesh, Regions: map[placement.RegionID]*regionFile{}, Ports: map[placement.NodeID]ports{}}
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("directory of the mesh: %w", err)
	}
	data, err := os.ReadFile(m.recordPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("record of the mesh: %w", err)
	default:
		if err := json.Unmarshal(data, &m.record); err != nil || m.record.Version != 1 || m.record.Regions == nil || m.record.Ports == nil {
			return &DataError{m.cfg.Dir, "holds a damaged " + recordFile}
		}
	}
	if m.record.Mesh != m.cfg.Mesh {
		return &DataError{m.cfg.Dir, "belongs to the mesh " + m.record.Mesh}
	}
	for _, r := range m.regions {
		if m.record.Regions[r.Name] == nil {
			m.record.Regions[r.Name] = &regionFile{Country: r.code()}
		}
		r.file = m.record.Regions[r.Name]
		if r.file.Country != r.code() {
			return &DataError{m.cfg.Dir, fmt.Sprintf("has %s in %s, not in %s; a region does not move", r.Name, r.file.Country, r.code())}
		}
		r.ca = r.file.CA
	}
	return nil
}

func (m *Mesh) recordPath() string { return filepath.Join(m.cfg.Dir, recordFile) }

func (m *Mesh) save() error { return m.change(func() {}) }

// change changes the record and keeps it.
func (m *Mesh) change(do func()) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	do()
	return writeJSON(m.recordPath(), m.record)
}

func (m *Mesh) ports(n placement.NodeID) ports {
	m.saving.Lock()
	defer m.saving.Unlock()
	return m.record.Ports[n]
}

func (m *Mesh) setPorts(n placement.NodeID, p ports) {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.record.Ports[n] = p
}

// writeJSON writes a private file in one step.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, append(data, '\n'))
}

func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new*") // made 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// today is the date that regions' facts are as of.
func today() string { return time.Now().UTC().Format(time.DateOnly) }
