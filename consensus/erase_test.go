package consensus

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// holds lists the files of a node in which a text stands.
func (r *region) holds(id placement.NodeID, text string) (files []string) {
	r.t.Helper()
	_ = filepath.WalkDir(string(r.dirs[id].(dir)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // files come and go under a running group
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(text)) {
			files = append(files, filepath.Base(path))
		}
		return nil
	})
	return files
}

// What was erased stands on no replica's disk any more, neither in the ledger nor
// in the raft log nor in a snapshot: not on one that was away meanwhile either.
// The leaves and the root are as they were.
func TestErasedBytesLeaveEveryDisk(t *testing.T) {
	const marker = "marker-7f3a-of-a-person"
	r := newRegion(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	propose := func(c state.Command) state.Result {
		t.Helper()
		res, err := r.leader().Propose(ctx, c, "op")
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	cmd := r.job()
	cmd.Job.Name = marker
	cmd.Job.Spec.Command, cmd.Job.Spec.Env = []string{"run", marker}, map[string]string{"WHO": marker}
	job := placement.JobID(propose(cmd).ID)
	propose(state.StopJob{Job: job, Reason: marker})
	all := []placement.NodeID{"n1", "n2", "n3"}
	r.within("all have it", func() bool {
		for _, id := range all {
			if j := r.at(id).View().Job(job); j == nil || !j.Status.Terminal() {
				return false
			}
		}
		return true
	})
	for _, id := range all {
		if err := r.at(id).raft.Load().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	away := placement.NodeID("n3")
	if r.leader() == r.at(away) {
		away = "n2"
	}
	r.kill(away)
	leaves := r.leader().View().JobLeaves(job)
	for _, id := range all {
		if len(r.holds(id, marker)) == 0 {
			t.Fatalf("%s never had it on disk: the test shows nothing", id)
		}
	}
	propose(state.EraseOpenings{Job: job, Leaves: leaves})
	gone := func(id placement.NodeID) {
		t.Helper()
		r.within("it is off the disk of "+string(id), func() bool { return len(r.holds(id, marker)) == 0 })
	}
	for _, id := range all {
		if id != away {
			gone(id)
		}
	}
	if len(r.holds(away, marker)) == 0 {
		t.Fatal("a node that was away has erased it")
	}
	// It had begun when it stopped: what the ledger hides is erased, raft's files
	// are as they were, and a crash left a snapshot half-written.
	below := string(r.dirs[away].(dir))
	files, err := store.Open(store.Dir(filepath.Join(below, ledgerDir)))
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range leaves {
		if err := files.Erase(leaf); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(below, snapshotsDir, "2-99-1760000000000"+unfinished)
	if err := os.MkdirAll(torn, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(torn, "state.bin"), []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart(away)
	gone(away)
	for _, id := range all {
		s := r.at(id)
		r.within(string(id)+" has the newest leaf", func() bool { return s.Ledger() != nil && s.Ledger().Size() == r.leader().View().LedgerSize() })
		root, size := s.Ledger().Root()
		for _, leaf := range leaves {
			if erased, err := s.Ledger().Erased(leaf); err != nil || !erased {
				t.Errorf("%s: leaf %d is not marked as erased: %v", id, leaf, err)
			}
			if id == away {
				continue // it has no peer to fetch the leaves from that it missed
			}
			if _, err := ledger.ProveInclusion(ctx, s.Ledger(), ledger.Head{Size: size, Root: root}, leaf); err != nil {
				t.Errorf("%s: leaf %d: %v", id, leaf, err)
			}
			if _, err := s.Ledger().Opening(leaf); err != store.ErrErased {
				t.Errorf("%s: the opening of leaf %d: %v", id, leaf, err)
			}
		}
	}
}
