package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// scale is what a region of thousands of nodes costs: to look at, to decide for,
// and to keep in one pool. No bench has so many machines, so these run in one
// process: the state machine alone, three replicas with raft on disk, and a
// thousand gossiping nodes in virtual time.
func (b *bench) scale(ctx context.Context) error {
	return errors.Join(b.scaleView(ctx), b.scaleDecide(ctx), b.scaleGossip(ctx))
}

func (b *bench) scaleView(ctx context.Context) error {
	got, err := benchmarks(ctx, "consensus/state", "^BenchmarkLarge$", "-benchtime", "200x", b.count())
	if err != nil {
		return err
	}
	view, err1 := got.of("Large/view", "ns/op")
	after, err2 := got.of("Large/view-after-a-command", "ns/op")
	snapshot, err3 := got.of("Large/snapshot", "ns/op")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.report.add(Row{Name: "view of 10,000 nodes and 100,000 tasks", Nomad: "not measured", Reach: "1 ms, no copy of the whole",
		Measured: fmt.Sprintf("%.0f us; %.0f us with the command before it; a decision's snapshot %.0f us", view/1e3, after/1e3, snapshot/1e3),
		Reached:  view < 1e6 && snapshot < 1e6,
		Figures:  map[string]float64{"view_us": view / 1e3, "after_command_us": after / 1e3, "snapshot_us": snapshot / 1e3},
		Note:     "BenchmarkLarge in consensus/state: the immutable view that the API and the controller read, and what a placement decision gets of it; medians",
	})
	return nil
}

func (b *bench) scaleDecide(ctx context.Context) error {
	got, err := benchmarks(ctx, "scenarios/bench", "^BenchmarkDecide$", "-benchtime", fmt.Sprintf("%dx", b.times(40_000, 8000)))
	if err != nil {
		return err
	}
	accepted, err1 := got.of("Decide", "accepted/s")
	placed, err2 := got.of("Decide", "placed/s")
	lag, err3 := got.of("Decide", "largest-lag-ms")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.report.add(Row{Name: "decisions through raft, 10,000 nodes", Nomad: "about 250 evaluations/s", Reach: "never 1 s behind accepting",
		Measured: fmt.Sprintf("%.0f/s placed of %.0f/s accepted, at most %.0f ms behind", placed, accepted, lag), Reached: lag <= 1000,
		Figures: map[string]float64{"placed_per_s": placed, "accepted_per_s": accepted, "largest_lag_ms": lag},
		Note:    "64 clients submit as fast as they are answered, without HTTP; three durable replicas in one process on one disk share the processors with them; 10,000 nodes of eight simulated devices in the ledger; from a submit's answer to the commit of its assignment",
	})
	return nil
}

// many is the test, in virtual time, of a pool of many nodes, and what it says.
const many = "TestManyNodesAreQuietAndLearnFast"

var (
	quietLine = regexp.MustCompile(`quiet: (\d+) B/s a node, the most (\d+) B/s`)
	newsLine  = regexp.MustCompile(`news: known everywhere in (\S+) at most`)
)

func (b *bench) scaleGossip(ctx context.Context) error {
	nodes := b.times(1000, 200)
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", "60m", "-run", "^"+many+"$", "github.com/sovmesh/sovmesh/transport/gossip")
	cmd.Env = append(os.Environ(), "SOVMESH_CROWD="+strconv.Itoa(nodes))
	out, err := cmd.CombinedOutput()
	quiet, news := quietLine.FindSubmatch(out), newsLine.FindSubmatch(out)
	if quiet == nil || news == nil {
		return fmt.Errorf("%s with %d nodes said no figures: %w\n%s", many, nodes, err, out)
	}
	rate, err1 := strconv.ParseFloat(string(quiet[1]), 64)
	most, err2 := strconv.ParseFloat(string(quiet[2]), 64)
	took, err3 := time.ParseDuration(string(news[1]))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.report.add(Row{Name: fmt.Sprintf("gossip, %d nodes: a change known everywhere; traffic", nodes), Nomad: "not measured", Reach: "5 s; 4 KB/s a node",
		Measured: fmt.Sprintf("%s; %.2f KB/s, the busiest %.2f KB/s", took, rate/1000, most/1000), Reached: err == nil && took <= 5*time.Second && most <= 4000,
		Figures: map[string]float64{"seconds": took.Seconds(), "bytes_per_s": rate, "busiest_bytes_per_s": most},
		Note:    many + " in transport/gossip: virtual time, real memberlist, keys and signatures over a network in memory; packets count with their headers, streams with a handshake; the slowest of three changes",
	})
	return nil
}
