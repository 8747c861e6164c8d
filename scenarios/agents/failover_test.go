package agents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// A leader is killed with -9 in the middle of submits from several clients. No
// acknowledged job is lost, none runs twice, and no submit fails inside its
// client's deadline: those held by living nodes are answered by them.
func TestProcesses_leaderKilledUnderSubmits(t *testing.T) {
	const clients, each, before, deadline = 6, 25, 30, 10 * time.Second
	w := newWorld(t)
	r := found(t, w, "fra-1", "FR", 3)
	leader, err := r.Leader(within(t, startLimit))
	if err != nil {
		t.Fatal(err)
	}
	wire, err := r.Wire(clients)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	files := w.Shared()

	type accepted struct {
		id   placement.JobID
		file string
	}
	var (
		mu      sync.Mutex
		all     []accepted
		acked   atomic.Int64
		refused atomic.Int64
		slowest atomic.Int64
		enough  = make(chan struct{})
		g       sync.WaitGroup
	)
	for c := range clients {
		// Every client has a node of its own that it speaks to first, the leader
		// among them.
		nodes := append([]*Agent{}, r.Agents[c%3:]...)
		nodes = append(nodes, r.Agents[:c%3]...)
		g.Go(func() {
			for i := range each {
				key := fmt.Sprintf("c%d-%d", c, i)
				file := filepath.Join(files, key)
				body := shell(t, key, "FR", `echo "$SOVMESH_JOB" >> `+file, nil)
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				tally, err := wire.Persist(ctx, nodes, "FR", key, body)
				cancel()
				if err != nil {
					t.Errorf("submit %s failed after %v: %v", key, tally.Took, err)
					continue
				}
				refused.Add(int64(tally.Refused))
				for old := slowest.Load(); int64(tally.Took) > old && !slowest.CompareAndSwap(old, int64(tally.Took)); old = slowest.Load() {
				}
				mu.Lock()
				all = append(all, accepted{tally.Job, file})
				mu.Unlock()
				if acked.Add(1) == before {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-within(t, startLimit).Done():
		t.Fatal("the submits do not get on")
	}
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	g.Wait()
	t.Logf("%d submits accepted, %d refused by living nodes, slowest %v; %s", len(all), refused.Load(), time.Duration(slowest.Load()), Machine())
	if n := refused.Load(); n > 0 {
		t.Errorf("%d submits were refused by living nodes", n)
	}

	if err := leader.Start(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, r, r.Others(leader)[0])
	for _, a := range all {
		becomes(t, c, a.id, "complete", startLimit, is(placement.JobComplete))
		lines := linesOf(a.file)
		if len(lines) != 1 || lines[0] != string(a.id) {
			t.Errorf("job %s: its file holds %q, want its id once", a.id, lines)
		}
	}
	written, err := os.ReadDir(files)
	if err != nil || len(written) != clients*each {
		t.Errorf("%d files were written, %v; want %d", len(written), err, clients*each)
	}
}
