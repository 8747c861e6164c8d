package runner_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// cellar keeps things of jobs.
type cellar struct {
	*fake.Driver
	mu   *sync.Mutex
	kept map[placement.JobID]time.Time // guarded by mu
}

func (c cellar) Kept() (map[placement.JobID]time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.kept), nil
}

func (c cellar) Forget(job placement.JobID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.kept, job)
	return nil
}

func (c cellar) left() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, id := range slices.Sorted(maps.Keys(c.kept)) {
		names = append(names, string(id))
	}
	return strings.Join(names, " ")
}

func TestWhatIsKeptOfAJobGoesWithItsEnd(t *testing.T) {
	run(t, func(b *bed) {
		c := cellar{b.world.Driver(), &sync.Mutex{}, map[placement.JobID]time.Time{
			job: time.Now(), "over": time.Now(), "runs": time.Now(), "unknown": time.Now(), "erased": time.Now(), "old": time.Now().Add(-31 * 24 * time.Hour),
		}}
		b.change = func(cfg *runner.Config) { cfg.Drivers = map[string]runner.Driver{"fake": c} }
		erased := map[placement.JobID]bool{}
		b.region.also = func(w *runner.Wanted) {
			w.Erased, w.Whole = maps.Clone(erased), true
			w.Over = func(id placement.JobID) (bool, bool) {
				return id == "over" || id == job, id != "unknown" && id != "old"
			}
		}
		id := b.region.assign(0, nil, "sleep")
		b.agent()
		b.pass(11 * time.Minute)
		b.region.commit(func() {}) // any news of the region
		synctest.Wait()
		if got := c.left(); got != "erased "+string(job)+" runs unknown" {
			b.Errorf("kept: %s", got)
		}
		b.runs(id) // its job is over, as far as the region knows; its task is here
		erased["erased"], erased[job] = true, true
		b.region.commit(func() {})
		synctest.Wait()
		if got := c.left(); got != string(job)+" runs unknown" {
			b.Errorf("after an erasure there is: %s", got)
		}
		b.region.commit(func() { delete(b.region.tasks, id) })
		for range 3 { // it ends, its record is removed, and what was kept of it
			b.pass(time.Minute)
			b.region.commit(func() {})
			synctest.Wait()
		}
		if got := c.left(); got != "runs unknown" {
			b.Errorf("with its last task gone there is: %s", got)
		}
	})
}

func TestAWorkerKeepsWhatItIsNotToldTheEndOf(t *testing.T) {
	run(t, func(b *bed) {
		old := time.Now().Add(-31 * 24 * time.Hour)
		c := cellar{b.world.Driver(), &sync.Mutex{}, map[placement.JobID]time.Time{"elsewhere": old, "erased": old, "over": old}}
		b.change = func(cfg *runner.Config) { cfg.Drivers = map[string]runner.Driver{"fake": c} }
		b.region.also = func(w *runner.Wanted) {
			w.Erased = map[placement.JobID]bool{"erased": true}
			w.Over = func(id placement.JobID) (bool, bool) { return id == "over", id == "over" }
		}
		b.agent()
		b.pass(11 * time.Minute)
		b.region.commit(func() {})
		synctest.Wait()
		if got := c.left(); got != "elsewhere" {
			b.Errorf("kept: %s", got)
		}
	})
}
