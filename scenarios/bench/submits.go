package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// single is one client, one submit after the other, at the leader.
func (b *bench) single(ctx context.Context) error {
	if err := b.cordon(ctx); err != nil {
		return err
	}
	a, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	c.Close()
	var p50s, p99s []time.Duration
	for range b.times(3, 1) {
		o, err := b.load(ctx, a, 1, time.Duration(b.times(3, 1))*time.Second, 1<<30)
		if err != nil {
			return err
		}
		p50s, p99s = append(p50s, quantile(o.each, 0.5)), append(p99s, quantile(o.each, 0.99))
	}
	p50 := median(p50s)
	b.report.add(Row{
		Name: "one client, p50", Nomad: "3.3 ms", Reach: "2.5 ms", Aim: "1 ms",
		Measured: fmt.Sprintf("%.2f ms (p99 %.1f ms)", ms(p50), ms(median(p99s))), Reached: p50 <= 2500*time.Microsecond,
		Figures: map[string]float64{"p50_ms": ms(p50), "p99_ms": ms(median(p99s))},
		Note:    "one kept connection to the leader, all nodes cordoned so that nothing is started; median of the runs' medians",
	})
	return nil
}

// many is 64 clients at once, at the leader.
func (b *bench) many(ctx context.Context) error {
	if err := b.cordon(ctx); err != nil {
		return err
	}
	a, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	c.Close()
	var rates, cpus []float64
	accepted := 0
	var p50s, p99s []time.Duration
	for range b.times(3, 1) {
		before, err := b.cpu()
		if err != nil {
			return err
		}
		o, err := b.load(ctx, a, 64, time.Duration(b.times(4, 2))*time.Second, 25_000)
		if err != nil {
			return err
		}
		after, err := b.cpu()
		if err != nil {
			return err
		}
		accepted += o.accepted
		cpus = append(cpus, float64((after-before).Microseconds())/float64(max(1, o.accepted)))
		rates, p50s, p99s = append(rates, o.rate()), append(p50s, quantile(o.each, 0.5)), append(p99s, quantile(o.each, 0.99))
	}
	rate, p99, cpu := median(rates), median(p99s), median(cpus)
	b.report.add(Row{
		Name: "accepted and committed submits, 64 clients", Nomad: "590/s, p99 201 ms", Reach: "5,000/s, p99 60 ms", Aim: "10,000/s",
		Measured: fmt.Sprintf("%.0f/s, p50 %.1f ms, p99 %.0f ms; %.0f us of processor each", rate, ms(median(p50s)), ms(p99), cpu),
		Reached:  rate >= 5000 && p99 <= 60*time.Millisecond,
		Figures:  map[string]float64{"per_second": rate, "p50_ms": ms(median(p50s)), "p99_ms": ms(p99), "cpu_us": cpu, "accepted": float64(accepted)},
		Note:     "64 kept TLS connections to the leader with prepared requests (not the project's client, which judges each job itself first); accepted = 201 after the commit; all nodes cordoned, as Nomad was measured with jobs of no task; processor time is that of the three agents and of the load together",
	})
	return nil
}

// cpu is the processor time that the region's agents and this process have used.
func (b *bench) cpu() (time.Duration, error) {
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return 0, fmt.Errorf("own processor time: %w", err)
	}
	sum := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	for _, a := range b.region.Agents {
		used, err := a.CPU()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// queueMax is how many jobs a region queues unless it was told otherwise.
const queueMax = 100_000

// pending fills the queue.
func (b *bench) pending(ctx context.Context) error {
	if err := b.cordon(ctx); err != nil {
		return err
	}
	a, c, err := b.leader(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	full := false
	for began := time.Now(); !full && time.Since(began) < 10*time.Minute; {
		o, err := b.load(ctx, a, 64, 20*time.Second, 1<<30)
		if err != nil {
			return err
		}
		full = o.full > 0
		say("filling the queue: %.0f/s", o.rate())
	}
	answer, err := b.wire.Submit(ctx, a.API, tag, "one-too-many", job("batch", "exit 0"))
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(b.times(5, 2)) * time.Second) // what a garbage collector gives back by itself
	bytes, err := a.Memory()
	if err != nil {
		return err
	}
	pressed := answer.Status == http.StatusTooManyRequests && answer.RetryAfter != ""
	b.report.add(Row{
		Name: "100,000 pending jobs", Nomad: "leader 5.9 GiB at 69,000", Reach: "400 MiB, then 429 + Retry-After",
		Measured: fmt.Sprintf("leader %.0f MiB, then %d, Retry-After %q", mib(bytes), answer.Status, answer.RetryAfter),
		Reached:  pressed && bytes <= 400<<20,
		Figures:  map[string]float64{"leader_mib": mib(bytes), "status": float64(answer.Status), "jobs": queueMax},
		Note:     "resident memory of the leader's process once the queue is full, all nodes cordoned",
	})
	return nil
}
