package mesh

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/fake"
	"github.com/sovmesh/sovmesh/placement"
)

// What takes over a running task takes it from the node that runs it, while it is
// moved, each stream once: not from another node of the region, not from another
// region, and not from the true node once the move is over.
func TestAMovedTaskIsTakenFromNobodyElse(t *testing.T) {
	Run(t, func(t *testing.T) {
		fleet := fake.NewFleet()
		goOn, reached := make(chan struct{}), make(chan struct{})
		m := New(t, Spec{ID: "fra-1", Country: "FR", Nodes: 8, Machine: func(h *host) {
			h.world.Join(fleet, "7.2")
			h.world.OnMove(func(ctx context.Context, step string, _ placement.TaskID) error {
				if step != fake.StepSend {
					return nil
				}
				close(reached)
				select {
				case <-goOn:
				case <-ctx.Done():
				}
				return ctx.Err()
			})
		}}, Region("ber-1", "DE", 1))
		job := m.on("fra-1", "n2", service)
		old := m.taskOf("fra-1", job.ID)
		_, err := m.At("fra-1").Drain(t.Context(), "n2", api.DrainRequest{})
		m.must(err)
		<-reached
		to := m.taskOf("fra-1", job.ID)
		if to.Replaces != old.ID || to.Move != placement.MoveLive {
			t.Fatalf("the move is to %+v", to)
		}
		at, path := m.peer("fra-1", to.Node), api.MeshPrefix+"/tasks/"+string(to.ID)+"/move"
		refused := func(who string, r *rogue, path string, status int, code string) {
			t.Helper()
			if s, c := r.answer(http.MethodPost, at, path, nil, "x"); s != status || c != code {
				t.Errorf("%s gets %d %s, want %d %s", who, s, c, status, code)
			}
		}
		third := placement.NodeID("n3")
		if to.Node == third {
			third = "n4"
		}
		peer, foreign := m.rogue(m.stolen("fra-1", third), outside(1)), m.rogue(m.stolen("ber-1", "n1"), outside(2))
		thief, worker := m.rogue(m.stolen("fra-1", "n2"), outside(3)), m.rogue(m.stolen("fra-1", "n8"), outside(4))
		for _, stream := range []string{"", "?stream=state", "?stream=more"} {
			refused("another node of the region", peer, path+stream, http.StatusForbidden, api.CodeRole)
			refused("a node of another region", foreign, path+stream, http.StatusForbidden, api.CodeForeignVerb)
		}
		refused("the same stream once more", thief, path+"?stream=state", http.StatusConflict, api.CodeNotReady)
		refused("a name without end", thief, path+"?stream="+strings.Repeat("x", 65), http.StatusBadRequest, api.CodeUsage)
		for _, step := range []state.MoveStep{state.MoveCommit, state.MoveAbort} {
			cmd := state.MoveTask{Node: "n2", Task: old.ID, To: to.ID, Step: step}
			if res, err := worker.propose(m.peer("fra-1", "n1"), cmd, time.Now()); err == nil && res.Refused == nil {
				t.Errorf("a worker speaks for n2: %s is taken", step)
			}
			cmd.Node = third
			if res, err := peer.propose(m.peer("fra-1", "n1"), cmd, time.Now()); err == nil && res.Refused == nil {
				t.Errorf("a node without the task proposes its %s", step)
			}
		}
		if now := m.taskOf("fra-1", job.ID); !now.Moving() || len(fleet.Running(job.ID)) != 1 || fleet.Running(job.ID)[0] != old.ID {
			t.Fatalf("the move is %+v, %v run", now, fleet.Running(job.ID))
		}
		close(goOn)
		m.Within(20*time.Second, "it is moved", func() bool {
			all := fleet.Running(job.ID)
			return len(all) == 1 && all[0] == to.ID
		})
		refused("the node that ran it, afterwards", thief, path+"?stream=state", http.StatusForbidden, api.CodeRole)
		if twice := fleet.Twice(); len(twice) > 0 {
			t.Error(twice)
		}
	})
}
