package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// DefragReport is a plan of moves; nothing was changed.
type DefragReport struct {
	Region placement.RegionID `json:"region"`
	scheduler.Defrag
	Index uint64 `json:"index"` // of the state that was planned on
}

// planDefrag shows which few moves would bring the most free GPUs together.
func planDefrag(s *Server, c *call) error {
	moves, err := int64Query(c, "moves")
	if err != nil {
		return err
	}
	if moves == 0 {
		moves = scheduler.DefragMoves
	}
	if moves > scheduler.DefragMovesMax {
		return &InputError{Code: CodeUsage, Message: fmt.Sprintf("%d moves are more than one plan has", moves), Help: fmt.Sprintf("ask for at most %d", scheduler.DefragMovesMax)}
	}
	v, err := s.fresh(c.r.Context())
	if err != nil {
		return err
	}
	out := DefragReport{Region: s.cfg.Region, Defrag: scheduler.PlanDefrag(wholeSnapshot(v, s.now()), int(moves)), Index: v.Index()}
	c.index(v.Index())
	return c.writeJSON(http.StatusOK, out)
}

// wholeSnapshot is a snapshot with every live task and its job.
func wholeSnapshot(v *state.View, now time.Time) placement.Snapshot {
	snap := v.Snapshot(now)
	snap.Tasks = nil
	for _, n := range snap.Nodes {
		for _, t := range v.TasksOn(n.ID) {
			snap.Tasks = append(snap.Tasks, t)
			if snap.Jobs[t.Job] == nil {
				snap.Jobs[t.Job] = v.Job(t.Job)
			}
		}
	}
	return snap
}
