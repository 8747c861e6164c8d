package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/scenarios/agents"
)

// binary is the size of the stripped program.
func (b *bench) binary() {
	info, err := os.Stat(b.program)
	if err != nil {
		return
	}
	mb := float64(info.Size()) / 1e6
	b.report.add(Row{
		Name: "stripped binary", Nomad: "105 MiB", Reach: "60 MB", Measured: fmt.Sprintf("%.1f MB", mb), Reached: mb <= 60,
		Figures: map[string]float64{"mb": mb}, Note: "sovmesh, built without cgo, with -s -w",
	})
}

// start is the time from the start of a founded region's only agent to its
// first accepted job.
func (b *bench) start(ctx context.Context) error {
	var first, again []time.Duration
	for i := range b.times(5, 3) {
		f, a, err := b.startOnce(ctx, i)
		if err != nil {
			return err
		}
		first, again = append(first, f), append(again, a)
	}
	took := median(first)
	b.report.add(Row{
		Name: "start of one agent to first accepted job", Nomad: "2.0 s", Reach: "1.0 s", Aim: "0.3 s",
		Measured: fmt.Sprintf("%.2f s (started again: %.2f s)", took.Seconds(), median(again).Seconds()), Reached: took <= time.Second,
		Figures: map[string]float64{"seconds": took.Seconds(), "again_seconds": median(again).Seconds()},
		Note:    "a founded region of one node; from the start of the process to the answer 201, asked every 5 ms",
	})
	return nil
}

func (b *bench) startOnce(ctx context.Context, i int) (first, again time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir := filepath.Join(b.dir, fmt.Sprintf("start-%d", i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, 0, err
	}
	w := agents.New(b.program, dir)
	defer func() { _ = w.Close() }()
	r, err := w.Init(ctx, "fra-1", country)
	if err != nil {
		return 0, 0, err
	}
	wire, err := r.Wire(1)
	if err != nil {
		return 0, 0, err
	}
	defer wire.Close()
	a := r.Agents[0]
	accept := func() (time.Duration, error) {
		began := time.Now()
		if err := a.Launch(); err != nil {
			return 0, err
		}
		err := agents.Until(ctx, func(ctx context.Context) string {
			answer, err := wire.Submit(ctx, a.API, tag, "", job("batch", "exit 0"))
			if err != nil {
				return err.Error()
			}
			if answer.Status/100 != 2 {
				return string(answer.Body)
			}
			return ""
		})
		return time.Since(began), err
	}
	if first, err = accept(); err != nil {
		return 0, 0, err
	}
	if err := a.Stop(ctx); err != nil {
		return 0, 0, err
	}
	again, err = accept()
	return first, again, err
}

// idle is the memory of agents that do nothing.
func (b *bench) idle(ctx context.Context) error {
	leader, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	c.Close()
	select {
	case <-time.After(time.Duration(b.times(10, 4)) * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	figures := map[string]float64{}
	var most int64
	for _, a := range b.region.Agents {
		bytes, err := a.Memory()
		if err != nil {
			return err
		}
		most = max(most, bytes)
		role := "follower_mib"
		if a == leader {
			role = "leader_mib"
		}
		figures[role] = max(figures[role], mib(bytes))
	}
	b.report.add(Row{
		Name: "idle agent memory", Nomad: "120 MiB", Reach: "60 MiB", Aim: "40 MiB",
		Measured: fmt.Sprintf("leader %.0f MiB, followers %.0f MiB", figures["leader_mib"], figures["follower_mib"]), Reached: most <= 60<<20,
		Figures: figures, Note: "resident memory (VmRSS) of each agent some seconds after the region of three was raised",
	})
	return nil
}

// failover kills the leader again and again.
func (b *bench) failover(ctx context.Context) error {
	if err := b.cordon(ctx); err != nil {
		return err
	}
	var took, slowest []time.Duration
	refused, tried := 0, 0
	for i := range b.times(5, 3) {
		f, err := b.failOnce(ctx, i)
		if err != nil {
			return err
		}
		say("failover %d: %v, %d of %d refused, slowest write %v", i+1, f.took.Round(time.Millisecond), f.refused, f.tried, f.slowest.Round(time.Millisecond))
		took, slowest = append(took, f.took), append(slowest, f.slowest)
		refused, tried = refused+f.refused, tried+f.tried
	}
	mid := median(took)
	b.report.add(Row{
		Name: "leader killed to next accepted write, median", Nomad: "2.4 s, half refused", Reach: "1.6 s, none refused", Aim: "1 s",
		Measured: fmt.Sprintf("%.2f s, %d of %d refused, slowest held %.1f s", mid.Seconds(), refused, tried, median(slowest).Seconds()), Reached: mid <= 1600*time.Millisecond && refused == 0,
		Figures: map[string]float64{"seconds": mid.Seconds(), "refused": float64(refused), "tried": float64(tried), "slowest_write_seconds": median(slowest).Seconds()},
		Note:    "kill -9 of the leader; from then on a fresh submit every 50 ms at each of the two others, each with a deadline of 10 s, until one is answered 201; all are waited for",
	})
	return nil
}

// failed is one kill of the leader.
type failed struct {
	took, slowest  time.Duration // to the first accepted write; of any write
	refused, tried int
}

func (b *bench) failOnce(ctx context.Context, run int) (f failed, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	leader, c, err := b.leader(ctx)
	if err != nil {
		return f, err
	}
	c.Close()
	if err := b.region.Whole(ctx); err != nil {
		return f, err
	}
	body := job("batch", "exit 0")
	var (
		mu   sync.Mutex
		all  sync.WaitGroup
		done = make(chan struct{})
	)
	if err := leader.Kill(); err != nil {
		return f, err
	}
	killed := time.Now()
	write := func(a *agents.Agent, key string) {
		asked, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		began := time.Now()
		answer, err := b.wire.Submit(asked, a.API, tag, key, body)
		mu.Lock()
		defer mu.Unlock()
		f.slowest = max(f.slowest, time.Since(began))
		switch {
		case err != nil || answer.Status/100 != 2:
			if f.refused++; f.refused <= 3 {
				say("refused by %s: %d %s %v", a.Name, answer.Status, answer.Body, err)
			}
		case f.took == 0:
			f.took = time.Since(killed)
			close(done)
		}
	}
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for going := true; going; {
		for _, a := range b.region.Others(leader) {
			f.tried++
			key := fmt.Sprintf("failover-%d-%d", run, f.tried)
			all.Go(func() { write(a, key) })
		}
		select {
		case <-every.C:
		case <-done:
			going = false
		case <-ctx.Done():
			going = false
		}
	}
	all.Wait()
	if err := leader.Start(ctx); err != nil {
		return f, err
	}
	return f, b.region.Whole(ctx)
}
