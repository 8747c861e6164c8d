package consensus

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// However many clients submit, and though they came first: what else is proposed
// is in the next batch, and the jobs that wait follow once others are answered.
func TestNewJobsLeaveRoomForWhatPlacesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Group{queue: make(chan *proposal), jobs: make(chan struct{}, jobsInFlight), done: make(chan struct{}), clock: &clockWatch{}}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		propose := func(n int, cmd state.Command) {
			raw, err := state.Encode(state.Head{Version: state.MaxVersion, Time: time.Now(), Actor: "test"}, cmd)
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				all.Go(func() { _, _ = g.commit(ctx, raw) })
			}
			synctest.Wait()
		}
		const others = batchMax - jobsInFlight
		propose(4*batchMax, state.SubmitJob{Job: placement.Job{ID: "fra-1.01kb0000000000000000000001"}})
		propose(others, state.FinishDrain{Node: "n1"})
		for range 2 {
			batch, ok := g.gather(ctx, []*proposal{<-g.queue}, make(chan struct{}, 1))
			jobs := 0
			for _, p := range batch {
				if _, kind, _ := state.DecodeHead(p.raw); kind == state.KindSubmitJob {
					jobs++
				}
			}
			if !ok || jobs != jobsInFlight || len(batch)-jobs != others {
				t.Fatalf("a batch of %d new jobs and %d others, want %d and %d", jobs, len(batch)-jobs, jobsInFlight, others)
			}
			answer(batch, nil)
			propose(others, state.FinishDrain{Node: "n1"})
		}
		cancel()
		all.Wait()
	})
}
