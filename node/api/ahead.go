package api

import (
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// ahead is what the region's own queue takes before other regions, as last looked
// at: a peer that asks without end costs a plan of the queue a second at most, and
// not one each time.
type ahead struct {
	mu     sync.Mutex
	newest *scheduler.Ahead // guarded by mu
}

// place finds room for a job of another region, behind the own queue.
func (a *ahead) place(v *state.View, now time.Time, job *placement.Job) (*placement.Assignment, scheduler.Explanation) {
	s := v.Snapshot(now)
	return a.of(s).Place(s, job)
}

// of is what comes first. Who asks while it is being worked out waits for it.
func (a *ahead) of(s placement.Snapshot) *scheduler.Ahead {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.newest == nil || !a.newest.Serves(s.Now) {
		a.newest = scheduler.AheadOf(s)
	}
	return a.newest
}
