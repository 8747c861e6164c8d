package simulate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// WorldFormat names the form of a saved [World].
const WorldFormat = "sovmesh-world/1"

// Bounds of a saved world.
const (
	maxWorldBytes = 512 << 20
	maxWorldNodes = 100_000
	maxWorldJobs  = 1_000_000
)

// World is one region at one moment, with what it knows of the others: all that
// a decision looks at, and nothing that a job carries (no command, no environment).
// It is what a region's operator saves to plan on, offline.
type World struct {
	Format  string             `json:"format"`
	SavedAt time.Time          `json:"saved_at"`
	Region  placement.RegionID `json:"region"`
	// Regions are the own one and its peers, as their facts were pinned.
	Regions []*placement.Region `json:"regions"`
	// Silent are the regions that there was no contact with.
	Silent []placement.RegionID `json:"silent,omitempty"`
	// LawPack is the pack in force, Tables what it consists of, left out for the
	// one that is built in.
	LawPack string            `json:"law_pack"`
	Tables  map[string][]byte `json:"law_tables,omitempty"`
	Nodes   []*placement.Node `json:"nodes"` // sorted by name
	Jobs    []*placement.Job  `json:"jobs"`  // those not over
	Tasks   []*placement.Task `json:"tasks"` // the live ones

	pack *residency.Pack
}

// Pack is the law pack that the world decides by.
func (w *World) Pack() *residency.Pack { return w.pack }

// Self is the region's own record.
func (w *World) Self() *placement.Region {
	for _, r := range w.Regions {
		if r.ID == w.Region {
			return r
		}
	}
	return nil
}

// NewWorld checks what was read of a region, sorts it, and leaves out what no
// decision looks at.
func NewWorld(w World, pack *residency.Pack) (*World, error) {
	w.Format, w.LawPack, w.pack, w.Tables = WorldFormat, pack.Hash(), pack, nil
	if w.LawPack != residency.Embedded().Hash() {
		w.Tables = pack.Tables()
	}
	jobs := make([]*placement.Job, 0, len(w.Jobs))
	for _, j := range w.Jobs {
		if j == nil || j.Status.Terminal() {
			continue
		}
		bare := *j
		bare.Spec.Command, bare.Spec.Env, bare.Spec.Upstream = nil, nil, ""
		jobs = append(jobs, &bare)
	}
	w.Jobs = jobs
	return &w, w.check()
}

// check refuses what no region could hold; it sorts nodes, jobs and tasks.
func (w *World) check() error {
	if w.Self() == nil {
		return fmt.Errorf("the region %.80q is not among the regions", w.Region)
	}
	if len(w.Nodes) > maxWorldNodes || len(w.Jobs) > maxWorldJobs || len(w.Tasks) > maxWorldJobs {
		return fmt.Errorf("%d nodes, %d jobs and %d tasks are more than a region has", len(w.Nodes), len(w.Jobs), len(w.Tasks))
	}
	w.Self().Self = true
	slices.SortFunc(w.Nodes, func(a, b *placement.Node) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(w.Tasks, func(a, b *placement.Task) int { return cmp.Compare(a.ID, b.ID) })
	// The queue's order: priority, then age.
	slices.SortFunc(w.Jobs, func(a, b *placement.Job) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), a.SubmittedAt.Compare(b.SubmittedAt), cmp.Compare(a.ID, b.ID))
	})
	for i, n := range w.Nodes {
		if err := checkNode(n); err != nil {
			return err
		}
		if i > 0 && w.Nodes[i-1].ID == n.ID {
			return fmt.Errorf("the node %s stands twice", n.ID)
		}
	}
	known := make(map[placement.JobID]bool, len(w.Jobs))
	for _, j := range w.Jobs {
		if why, _ := j.Spec.Resources.Problem(); !j.ID.Valid() || known[j.ID] || why != "" || len(j.Policy) == 0 || j.Spec.Members < 0 || j.Spec.Members > placement.MaxMembers {
			return fmt.Errorf("the job %.80q has no valid id, stands twice, has no policy, or asks for the impossible: %s", j.ID, why)
		}
		known[j.ID] = true
	}
	for _, t := range w.Tasks {
		if why, _ := t.Resources.Problem(); why != "" {
			return fmt.Errorf("the task %.80q asks for the impossible: %s", t.ID, why)
		}
	}
	return nil
}

func checkNode(n *placement.Node) error {
	i := &n.Inventory
	if !placement.ValidName(string(n.ID)) || i.CPU < 0 || i.Memory < 0 || len(i.Devices) > placement.MaxGPUs {
		return fmt.Errorf("the node %.80q has no valid name, or an inventory that is not plausible", n.ID)
	}
	seen := make(map[string]bool, len(i.Devices))
	for k := range i.Devices {
		d := &i.Devices[k]
		if d.UUID == "" || seen[d.UUID] || d.Memory < 0 {
			return fmt.Errorf("a device of node %s has no UUID, one that stands twice, or negative memory", n.ID)
		}
		seen[d.UUID] = true
	}
	return nil
}

// Write saves the world.
func (w *World) Write(to io.Writer) error {
	e := json.NewEncoder(to)
	e.SetIndent("", " ")
	return e.Encode(w)
}

// ReadWorld reads what [World.Write] wrote. Name is that of the file, for errors.
func ReadWorld(r io.Reader, name string) (*World, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxWorldBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxWorldBytes {
		return nil, &FormatError{File: name, Line: 1, Column: 1, Message: "the file has more than 512 MiB", Help: "save a smaller region"}
	}
	var w World
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return nil, worldError(name, data, offsetOf(err, d, int64(len(data))), err)
	}
	if w.Format != WorldFormat {
		return nil, &FormatError{File: name, Line: 1, Column: 1, Message: fmt.Sprintf("the format is %.40q, not %q", w.Format, WorldFormat), Help: worldHelp}
	}
	for _, list := range []bool{slices.Contains(w.Nodes, nil), slices.Contains(w.Jobs, nil), slices.Contains(w.Tasks, nil), slices.Contains(w.Regions, nil)} {
		if list {
			return nil, &FormatError{File: name, Line: 1, Column: 1, Message: "a list has an entry that is null", Help: worldHelp}
		}
	}
	w.pack = residency.Embedded()
	if w.LawPack != w.pack.Hash() {
		if w.pack, err = residency.LoadPack(w.Tables); err != nil || w.pack.Hash() != w.LawPack {
			return nil, &FormatError{File: name, Line: 1, Column: 1, Message: fmt.Sprintf("the tables are not those of law pack %.80s", w.LawPack), Help: worldHelp}
		}
	}
	if err := w.check(); err != nil {
		return nil, &FormatError{File: name, Line: 1, Column: 1, Message: err.Error(), Help: worldHelp}
	}
	return &w, nil
}

const worldHelp = "save it anew: sovmesh simulate --live --save FILE"

func offsetOf(err error, d *json.Decoder, size int64) int64 {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset
	case errors.As(err, &kind):
		return kind.Offset
	case errors.Is(err, io.ErrUnexpectedEOF):
		return size
	}
	return d.InputOffset()
}

// worldError names the line and column of an offset.
func worldError(name string, data []byte, offset int64, err error) error {
	before := data[:min(max(offset, 0), int64(len(data)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n')
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		err = fmt.Errorf("the field %s cannot be a %s", kind.Field, kind.Value)
	}
	return &FormatError{File: name, Line: line, Column: max(1, column), Message: err.Error(), Help: worldHelp}
}

// Snapshot is the world as the scheduler sees it at a time and under a pack, with
// the jobs that wait.
func (w *World) Snapshot(now time.Time, pack *residency.Pack) placement.Snapshot {
	s := placement.Snapshot{
		Region: w.Region, Facts: w.Self().Facts, Now: now, Pack: pack, Nodes: slices.Clone(w.Nodes), Tasks: slices.Clone(w.Tasks),
		Jobs: make(map[placement.JobID]*placement.Job, len(w.Jobs)), Held: map[placement.JobID]placement.Hold{},
	}
	for _, j := range w.Jobs {
		s.Jobs[j.ID] = j
		if waits(j) {
			s.Wanted = append(s.Wanted, j)
		}
	}
	return s
}

// waits reports whether a job waits for a place here.
func waits(j *placement.Job) bool {
	return j.Status == placement.JobPending && !j.StopRequested && !away(j)
}

// away reports whether another region has the job, or was asked for a place.
func away(j *placement.Job) bool {
	return j.Forward != nil && j.Forward.State != placement.ForwardWaiting
}
