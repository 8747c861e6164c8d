package runner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// reportBatch bounds the reports sent at once.
const reportBatch = 256

// reports sends what happened as soon as it happened: there is no tick. What
// happens while a send is in flight goes out together in the next one.
type reports struct {
	to            Reporter
	retry, longer time.Duration
	log           *slog.Logger
	wake          chan struct{}

	mu      sync.Mutex
	pending []placement.TaskReport // guarded by mu; in order; at most two per task
	flying  map[placement.TaskID]bool
}

func newReports(to Reporter, retry, longest time.Duration, log *slog.Logger) *reports {
	return &reports{to: to, retry: retry, longer: longest, log: log, wake: make(chan struct{}, 1)}
}

// add queues a report. A later one of the same task replaces an earlier one
// that was not sent, but an end does not replace "running": when a task began
// is worth knowing too.
func (q *reports) add(rep placement.TaskReport) {
	q.mu.Lock()
	kept := q.pending[:0]
	for _, p := range q.pending {
		if p.Task != rep.Task || (p.Status == placement.TaskRunning && rep.Status != placement.TaskRunning) {
			kept = append(kept, p)
		}
	}
	q.pending = append(kept, rep)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// busy reports whether something about the task is still to be accepted.
func (q *reports) busy(id placement.TaskID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.pending {
		if p.Task == id {
			return true
		}
	}
	return q.flying[id]
}

func (q *reports) take() []placement.TaskReport {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.pending), reportBatch)
	batch := append([]placement.TaskReport(nil), q.pending[:n]...)
	q.pending = append(q.pending[:0], q.pending[n:]...)
	q.flying = make(map[placement.TaskID]bool, n)
	for _, rep := range batch {
		q.flying[rep.Task] = true
	}
	return batch
}

func (q *reports) landed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying = nil
}

// run sends until ctx ends. A batch is sent again until it is accepted.
func (q *reports) run(ctx context.Context) {
	for {
		batch := q.take()
		if len(batch) == 0 {
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		pause := q.retry
		for {
			err := q.to.Report(ctx, batch)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			q.log.Warn("report tasks; trying again", "tasks", len(batch), "err", err)
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, q.longer)
		}
		q.landed()
	}
}
