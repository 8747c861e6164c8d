package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// FactTable is one table of the facts that a node without a replica is told.
// Two replicas that agree about the table give the same digest, at whichever
// index: neither the index nor ledger time is part of it.
type FactTable struct {
	Name   string
	Digest string // hex SHA-256 of Data
	Data   []byte // records as in a snapshot
	// held names the law packs of a table of packs: what is held under a hash
	// never changes, so the table is written anew only if the hashes do.
	held string
}

// The tables of facts. A node's own tasks and jobs are whole; of others it is
// told what runs for inference, and of that only what routing needs.
const (
	factScalars      = "scalars"
	factPacks        = "packs"
	factRegions      = "regions"
	factNodes        = "nodes"
	factTenants      = "tenants"
	factRevoked      = "revoked"
	factErased       = "erased"
	factServing      = "serving"
	factServingTasks = "serving-tasks"
	factTasks        = "tasks"
	factJobs         = "jobs"
)

// sharedFacts are the tables that all nodes are told, in their order, with the
// record that each consists of.
func sharedFacts() []factKind {
	return []factKind{{factScalars, recScalars}, {factPacks, recPack}, {factRegions, recRegion}, {factNodes, recNode},
		{factTenants, recTenant}, {factRevoked, recRevoked}, {factErased, recErasure}, {factServingTasks, recTask}, {factServing, recJob}}
}

// ownFacts are those of one node.
func ownFacts() []factKind { return []factKind{{factTasks, recTask}, {factJobs, recJob}} }

type factKind struct {
	name   string
	record byte
}

// SharedFacts are the tables that are the same for all nodes of the region.
// before is what an older view gave, or nil; parts of it may be used again.
func (v *View) SharedFacts(before []FactTable) []FactTable {
	tasks, jobs := v.serving()
	return []FactTable{
		fact(factScalars, func(w *recordWriter) {
			w.json(recScalars, scalars{Version: v.Version, Active: v.Active, Voters: v.Voters, Limits: v.Limits, Removed: v.Removed})
		}),
		v.packFacts(before),
		fact(factRegions, func(w *recordWriter) { writeTable(w, recRegion, v.regions) }),
		fact(factNodes, func(w *recordWriter) {
			v.nodes.ascend("", func(_ string, n *placement.Node) bool {
				told := *n
				told.Used = placement.Usage{} // changes with every task, and decides nothing there
				w.json(recNode, told)
				return w.err == nil
			})
		}),
		fact(factTenants, func(w *recordWriter) { writeTable(w, recTenant, v.tenants) }),
		fact(factRevoked, func(w *recordWriter) { writeKeyed(w, recRevoked, v.revoked) }),
		fact(factErased, func(w *recordWriter) {
			v.erasures.ascend("", func(_ string, e *Erasure) bool {
				w.json(recErasure, Erasure{Seq: e.Seq, Job: e.Job})
				return w.err == nil
			})
		}),
		fact(factServingTasks, func(w *recordWriter) { writeTable(w, recTask, tasks) }),
		fact(factServing, func(w *recordWriter) { writeTable(w, recJob, jobs) }),
	}
}

// FactsOf are the tables of one node: its live tasks and their jobs, and the tasks
// at the other end of their moves.
func (v *View) FactsOf(node placement.NodeID) []FactTable {
	jobs := newTable[*jobRecord]()
	tasks := fact(factTasks, func(w *recordWriter) {
		for _, t := range v.withMoves(v.TasksOn(node)) {
			w.json(recTask, taskRecord{Task: *t})
			if j := v.Job(t.Job); j != nil {
				jobs.put(string(j.ID), &jobRecord{Job: *j})
			}
		}
	})
	return []FactTable{tasks, fact(factJobs, func(w *recordWriter) { writeTable(w, recJob, jobs) })}
}

// serving is what inference runs here, waits near the head of the queue, or is
// with another region, without what only the node that runs it needs.
func (v *View) serving() (table[*taskRecord], table[*jobRecord]) {
	tasks, jobs := newTable[*taskRecord](), newTable[*jobRecord]()
	tell := func(id placement.JobID) {
		j := v.Job(id)
		if j == nil || j.Kind != placement.KindInference || jobs.has(string(id)) {
			return
		}
		told := *j
		told.Spec.Command, told.Spec.Env, told.Spec.Image, told.Spec.Setup = nil, nil, "", nil
		jobs.put(string(id), &jobRecord{Job: told})
	}
	v.onNode.ascend("", func(_ string, r *taskRecord) bool {
		if r.Kind == placement.KindInference {
			told := taskRecord{Task: r.Task}
			told.LeaseUntil, told.Notes = time.Time{}, nil
			tasks.put(string(r.ID), &told)
			tell(r.Job)
		}
		return true
	})
	v.away.ascend("", func(_ string, id placement.JobID) bool { tell(id); return true })
	looked := 0
	v.queue.ascend("", func(_ string, id placement.JobID) bool {
		tell(id)
		looked++
		return looked < snapshotJobs
	})
	return tasks, jobs
}

func (v *View) packFacts(before []FactTable) FactTable {
	var hashes []string
	v.packs.ascend("", func(hash string, _ *residency.Pack) bool { hashes = append(hashes, hash); return true })
	held := strings.Join(hashes, " ")
	for _, t := range before {
		if t.Name == factPacks && t.held == held {
			return t
		}
	}
	t := fact(factPacks, func(w *recordWriter) {
		v.packs.ascend("", func(_ string, p *residency.Pack) bool { w.json(recPack, packRecord{p.Tables()}); return w.err == nil })
	})
	t.held = held
	return t
}

// fact is one table. What it writes was read from JSON, so it can be written.
func fact(name string, write func(*recordWriter)) FactTable {
	var data bytes.Buffer
	w := &recordWriter{w: bufio.NewWriter(&data), sum: sha256.New()}
	write(w)
	if err := errors.Join(w.err, w.w.Flush()); err != nil {
		panic(fmt.Sprintf("state: facts %s: %v", name, err))
	}
	return FactTable{Name: name, Digest: hex.EncodeToString(w.sum.Sum(nil)), Data: data.Bytes()}
}

// FactDigest is the digest of what a table holds.
func FactDigest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// FactNames are the names of all tables of a set, in their order.
func FactNames() []string {
	var out []string
	for _, k := range append(sharedFacts(), ownFacts()...) {
		out = append(out, k.name)
	}
	return out
}

// RestoreFacts builds the view that a set of tables describes, at an index and
// a time that the caller vouches for. It knows what its node was told, and
// nothing else: its ledger is empty, and nodes seem to hold nothing. It is
// strict like [Restore]; whether the set is true is the caller's to know.
func RestoreFacts(data map[string][]byte, index uint64, at time.Time) (*View, error) {
	s := New()
	for _, name := range FactNames() {
		if _, ok := data[name]; !ok {
			return nil, fmt.Errorf("facts: table %s is missing", name)
		}
	}
	for _, k := range sharedFacts() {
		if err := eachFact(k, data[k.name], func(row []byte) error { return s.restore(k.record, row) }); err != nil {
			return nil, err
		}
	}
	for _, k := range ownFacts() {
		if err := eachFact(k, data[k.name], func(row []byte) error { return s.restoreOwn(k.record, row) }); err != nil {
			return nil, err
		}
	}
	if s.self == nil || !s.packs.has(s.Active) {
		return nil, errors.New("facts: the region itself, or the law pack that decides, is not among them")
	}
	s.Applied, s.Clock = index, at.UTC()
	return s.Freeze(), nil
}

func eachFact(k factKind, data []byte, row func([]byte) error) error {
	r := &recordReader{r: bufio.NewReader(bytes.NewReader(data)), sum: sha256.New()}
	for count := 0; ; count++ {
		if _, err := r.r.Peek(1); err == io.EOF {
			return nil
		}
		record, raw, _, err := r.next()
		if err != nil {
			return fmt.Errorf("facts: table %s: %w", k.name, err)
		}
		if record != k.record || k.record == recScalars && count > 0 {
			return fmt.Errorf("facts: table %s: record %q does not belong there", k.name, record)
		}
		if err := row(raw); err != nil {
			return fmt.Errorf("facts: table %s: %w", k.name, err)
		}
	}
}

// restoreOwn takes a task or job of the node itself. It replaces the shorter one
// that a table of inference has.
func (s *State) restoreOwn(record byte, row []byte) error {
	if record == recJob {
		j := &jobRecord{}
		if err := strict(row, j); err != nil {
			return err
		}
		s.jobs.put(string(j.ID), j)
		return nil
	}
	t := &taskRecord{}
	if err := strict(row, t); err != nil {
		return err
	}
	s.tasks.put(string(t.ID), t)
	if t.Status.Live() {
		s.onNode.put(string(t.Node)+"\x00"+string(t.ID), t)
	}
	return nil
}

// At is the view as it is read at another time. What was told stays as it was;
// the day of the law is another.
func (v *View) At(t time.Time) *View {
	out := *v
	out.Clock = t.UTC()
	return &out
}
