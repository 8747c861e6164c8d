package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// running is the time from a submit to the answer that says running.
func (b *bench) running(ctx context.Context) error {
	a, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	c.Close()
	var each []time.Duration
	n := b.times(150, 30)
	for i := range n + 3 {
		began := time.Now()
		if _, err := b.runOne(ctx, a, fmt.Sprintf("run-%d", i), job("batch", "exec sleep 3")); err != nil {
			return err
		}
		if i >= 3 { // the first ones find no supervisor in reserve
			each = append(each, time.Since(began))
		}
	}
	slices.Sort(each)
	p50, p99 := quantile(each, 0.5), quantile(each, 0.99)
	b.report.add(Row{
		Name: "submit to running, p50 / p99", Nomad: "1,059 / 1,066 ms", Reach: "40 / 150 ms", Aim: "15 ms",
		Measured: fmt.Sprintf("%.1f / %.1f ms", ms(p50), ms(p99)), Reached: p50 <= 40*time.Millisecond && p99 <= 150*time.Millisecond,
		Figures: map[string]float64{"p50_ms": ms(p50), "p99_ms": ms(p99), "n": float64(n)},
		Note:    "kind process (sh, then sleep), one job after the other, submit at the leader and then the API's waiting read; on any of the three nodes",
	})
	return nil
}

// runOne submits a job and returns once an answer says that it runs, or ran.
func (b *bench) runOne(ctx context.Context, a *agents.Agent, key string, body []byte) (*placement.Job, error) {
	answer, err := b.wire.Submit(ctx, a.API, tag, key, body)
	if err != nil {
		return nil, err
	}
	j, err := answer.Job()
	for err == nil && (j.Status == placement.JobPending || j.Status == placement.JobStarting) {
		j, err = b.wire.Wait(ctx, a.API, j.ID, j.Index)
	}
	if err == nil && j.Status != placement.JobRunning && j.Status != placement.JobComplete {
		err = fmt.Errorf("job %s is %s: %s", j.ID, j.Status, j.Reason)
	}
	return j, err
}

// drained is how many service jobs are moved.
const drained = 50

// drain moves services off a node; each writes down when it began and ended, so
// that a gap is seen from the services themselves.
func (b *bench) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	leader, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	victim := b.region.Others(leader)[0]
	for _, a := range b.region.Others(victim) {
		if _, err := c.Cordon(ctx, placement.NodeID(a.Name)); err != nil {
			return err
		}
	}
	marks := filepath.Join(b.dir, "marks")
	if err := os.MkdirAll(marks, 0o700); err != nil {
		return err
	}
	jobs, err := b.services(ctx, leader, marks)
	if err != nil {
		return err
	}
	for _, a := range b.region.Others(victim) {
		if _, err := c.Resume(ctx, placement.NodeID(a.Name)); err != nil {
			return err
		}
	}
	began := time.Now()
	if _, err := c.Drain(ctx, placement.NodeID(victim.Name), api.DrainRequest{Reason: "bench"}); err != nil {
		return err
	}
	answered := time.Since(began)
	if err := b.moved(ctx, leader, jobs, victim); err != nil {
		return err
	}
	took := time.Since(began)
	if err := b.over(ctx, c, victim); err != nil {
		return err
	}
	gaps, longest, err := gapsIn(marks)
	if err != nil {
		return err
	}
	b.report.add(Row{
		Name: "drain of 50 one-task jobs, until all replacements run", Nomad: "4.5 s, with gaps", Reach: "2 s, no gap", Aim: "1 s",
		Measured: fmt.Sprintf("%.2f s, %d gaps", took.Seconds(), gaps), Reached: took <= 2*time.Second && gaps == 0,
		Figures: map[string]float64{"seconds": took.Seconds(), "gaps": float64(gaps), "longest_gap_ms": ms(longest), "answered_ms": ms(answered)},
		Note:    "from the request until every job runs on another node; a gap is a service that ended before its replacement had begun, by their own clocks",
	})
	for _, id := range jobs {
		if _, err := c.StopJob(ctx, id, "the bench goes on"); err != nil {
			return err
		}
	}
	_, err = c.Resume(ctx, placement.NodeID(victim.Name))
	return err
}

// services starts the jobs that shall move. Each start of one makes a file with
// its begin in nanoseconds, and its end behind it.
func (b *bench) services(ctx context.Context, a *agents.Agent, marks string) ([]placement.JobID, error) {
	jobs := make([]placement.JobID, drained)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range jobs {
		g.Go(func() error {
			script := fmt.Sprintf(`f=%s/%d.$$; date +%%s%%N > $f; trap 'date +%%s%%N >> $f; exit 0' TERM; while :; do sleep 3600 & wait; done`, marks, i)
			j, err := b.runOne(gctx, a, fmt.Sprintf("service-%d", i), job("service", script))
			if err == nil {
				jobs[i] = j.ID
			}
			return err
		})
	}
	return jobs, g.Wait()
}

// moved returns once every job runs on another node.
func (b *bench) moved(ctx context.Context, a *agents.Agent, jobs []placement.JobID, from *agents.Agent) error {
	for _, id := range jobs {
		j, err := b.wire.Wait(ctx, a.API, id, 0)
		for err == nil && (j.Status != placement.JobRunning || j.Node == placement.NodeID(from.Name)) {
			j, err = b.wire.Wait(ctx, a.API, id, j.Index)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// over returns once the drained node holds nothing.
func (b *bench) over(ctx context.Context, c *api.Client, a *agents.Agent) error {
	return agents.Until(ctx, func(ctx context.Context) string {
		d, err := c.DrainStatus(ctx, placement.NodeID(a.Name), api.ListOptions{})
		if err != nil {
			return err.Error()
		}
		if !d.Done {
			return fmt.Sprintf("%d tasks are left on %s", len(d.Tasks), a.Name)
		}
		return ""
	})
}

// gapsIn compares when each service's first copy ended and its second began.
func gapsIn(marks string) (gaps int, longest time.Duration, err error) {
	for i := range drained {
		files, err := filepath.Glob(filepath.Join(marks, strconv.Itoa(i)+".*"))
		if err != nil {
			return 0, 0, err
		}
		var begins, ends []int64
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				return 0, 0, err
			}
			for k, word := range strings.Fields(string(data)) {
				at, err := strconv.ParseInt(word, 10, 64)
				if err != nil {
					return 0, 0, err
				}
				if k == 0 {
					begins = append(begins, at)
				} else {
					ends = append(ends, at)
				}
			}
		}
		slices.Sort(begins)
		if len(begins) != 2 || len(ends) != 1 {
			return 0, 0, fmt.Errorf("service %d began %d times and ended %d times; want twice and once", i, len(begins), len(ends))
		}
		if gap := time.Duration(begins[1] - ends[0]); gap > 0 {
			gaps, longest = gaps+1, max(longest, gap)
		}
	}
	return gaps, longest, nil
}
