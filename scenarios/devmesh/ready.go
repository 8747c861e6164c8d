package devmesh

import (
	"os"
	"path/filepath"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// ReadyFile is the document of `sovmesh dev --ready FILE`. Its fields are a
// contract with programs outside the project.
type ReadyFile struct {
	Policy  string        `json:"policy"` // path of the auditor's trust policy
	Regions []ReadyRegion `json:"regions"`
}

// ReadyRegion is one region and how to reach it.
type ReadyRegion struct {
	Name    placement.RegionID `json:"name"`
	Country string             `json:"country"`
	Token   string             `json:"token"` // every role, and the permission for ANY
	CA      string             `json:"ca"`    // path of a PEM file
	Nodes   []ReadyNode        `json:"nodes"`
	// Context is the name under which contexts.yaml holds the three; empty where
	// nobody wrote it there.
	Context string `json:"context,omitempty"`
}

// ReadyNode is one node of a region.
type ReadyNode struct {
	Name placement.NodeID `json:"name"`
	API  string           `json:"api"`
	PID  int              `json:"pid"`
}

// ReadyFile is how to reach the mesh; it is complete once [Mesh.Ready] is
// closed.
func (m *Mesh) ReadyFile() ReadyFile {
	out := ReadyFile{Policy: m.policyPath(), Regions: []ReadyRegion{}}
	for _, r := range m.regions {
		one := ReadyRegion{Name: r.Name, Country: r.Country, Token: r.session, CA: r.caPath(), Nodes: []ReadyNode{}}
		for _, n := range r.nodes {
			one.Nodes = append(one.Nodes, ReadyNode{Name: n.Name, API: n.API, PID: os.Getpid()})
		}
		out.Regions = append(out.Regions, one)
	}
	return out
}

// Write writes the document for its owner alone, in one step: whoever sees the
// file sees all of it.
func (f ReadyFile) Write(path string) error { return writeJSON(path, f) }

func (r *region) caPath() string { return filepath.Join(r.dir, "ca.pem") }

func (m *Mesh) policyPath() string { return filepath.Join(m.cfg.Dir, "policy") }

// policy is the auditor's trust policy, as the first region knows the mesh.
func (m *Mesh) policy() (string, error) {
	return api.TrustPolicy(m.regions[0].nodes[0].running().View(), 0)
}
