package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// ledger is what the evidence costs. These are benchmarks within one process,
// beside the code that they measure: from outside, nothing can be switched off
// to compare with.
func (b *bench) ledger(ctx context.Context) error {
	return errors.Join(b.ledgerCost(ctx), b.ledgerStore(ctx), b.ledgerProofs(ctx), b.ledgerVerify(ctx), b.ledgerReceipts(ctx), b.ledgerAlone(ctx))
}

func (b *bench) count() string { return fmt.Sprintf("-count=%d", b.times(5, 3)) }

// inside is a row that has no figure of Nomad's.
func inside(name, reach, measured string, reached bool, figures map[string]float64, note string) Row {
	return Row{Name: name, Nomad: "keeps none", Reach: reach, Measured: measured, Reached: reached, Figures: figures, Note: note}
}

func (b *bench) ledgerCost(ctx context.Context) error {
	got, err := benchmarks(ctx, "consensus", "^BenchmarkPropose$/^64", "-benchtime", fmt.Sprintf("%dx", b.times(10000, 4000)), b.count())
	if err != nil {
		return err
	}
	with, err1 := got.of("Propose/64", "commits/s")
	without, err2 := got.of("Propose/64-without-ledger", "commits/s")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	cost := 100 * (1 - with/without)
	b.report.add(inside("cost of the ledger on accepted submits", "10 %", fmt.Sprintf("%.1f %% (%.0f/s with, %.0f/s without)", cost, with, without), cost <= 10,
		map[string]float64{"percent": cost, "with_per_s": with, "without_per_s": without},
		"64 callers, three durable replicas in one process on one disk, with the store of leaves and without; the leaf itself, a few microseconds of a submit's 300, is made and hashed in both; medians; a difference below the noise of the disk can be negative"))
	return nil
}

func (b *bench) ledgerStore(ctx context.Context) error {
	got, err := benchmarks(ctx, "consensus/ledger/store", "^BenchmarkAppend$", b.count())
	if err != nil {
		return err
	}
	rate, err1 := got.of("Append", "appends/s")
	bytes, err2 := got.of("Append", "overhead-B/entry")
	tree, err3 := benchmarks(ctx, "consensus/ledger", "^BenchmarkAppend$", b.count())
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	ns, err := tree.of("Append", "ns/op")
	if err != nil {
		return err
	}
	b.report.add(inside("append in Apply", "200,000/s", fmt.Sprintf("%.0f/s; store %.0f/s", 1e9/ns, rate), min(1e9/ns, rate) >= 200_000,
		map[string]float64{"range_per_s": 1e9 / ns, "store_per_s": rate}, "leaves of jobs on one processor: the compact range; and the files of entries and tiles, written and not yet synced, 16 leaves at a time"))
	b.report.add(inside("disk per entry beyond its bytes", "40 B", fmt.Sprintf("%.1f B", bytes), bytes <= 40,
		map[string]float64{"bytes": bytes}, "places and hashes of three levels; what stands behind a leaf's commitment comes on top"))
	return nil
}

func (b *bench) ledgerProofs(ctx context.Context) error {
	got, err := benchmarks(ctx, "consensus/ledger", "^BenchmarkInclusion$", b.count())
	if err != nil {
		return err
	}
	made, err1 := got.of("Inclusion/make", "ns/op")
	checked, err2 := got.of("Inclusion/check", "ns/op")
	size, err3 := got.of("Inclusion/check", "proof-B")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.report.add(inside("inclusion proof at 1,000,000 entries: make / check / size", "1 ms / 50 us / 700 B",
		fmt.Sprintf("%.2f ms / %.1f us / %.0f B", made/1e6, checked/1e3, size), made <= 1e6 && checked <= 50e3 && size <= 700,
		map[string]float64{"make_us": made / 1e3, "check_us": checked / 1e3, "bytes": size}, "the proof alone, without its checkpoint; made from tiles, each read again"))
	return nil
}

func (b *bench) ledgerVerify(ctx context.Context) error {
	got, err := benchmarks(ctx, "consensus/evidence", "^BenchmarkVerify$/^1000000$", "-benchtime", fmt.Sprintf("%dx", b.times(3, 1)))
	if err != nil {
		return err
	}
	each, err1 := got.of("Verify/1000000", "ns/leaf")
	memory, err2 := got.of("Verify/1000000", "MiB")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	seconds := each / 1e3
	b.report.add(inside("audit verify of 1,000,000 entries, one core", "20 s, 200 MiB", fmt.Sprintf("%.1f s, %.0f MiB", seconds, memory), seconds <= 20 && memory <= 200,
		map[string]float64{"seconds": seconds, "mib": memory}, "a pack of placements, each judged again; GOMAXPROCS 1; the most that the runtime held"))
	return nil
}

func (b *bench) ledgerReceipts(ctx context.Context) error {
	got, err := benchmarks(ctx, "node/receipts", "^BenchmarkReceipt$", b.count())
	if err != nil {
		return err
	}
	ns, err := got.of("Receipt", "ns/op")
	if err != nil {
		return err
	}
	b.report.add(inside("inference receipts, on the gateway's path", "5 us a request", fmt.Sprintf("%.1f us", ns/1e3), ns <= 5e3,
		map[string]float64{"us": ns / 1e3}, "hashing question and answer, the leaf, its place in the segment and the write-ahead file; one request after the other"))
	return nil
}

// alone is the test, in virtual time, of a region cut off from its witnesses.
const alone = "TestARegionCutOffFromItsWitnessesCatchesUp"

func (b *bench) ledgerAlone(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^"+alone+"$", "github.com/sovmesh/sovmesh/scenarios/mesh").CombinedOutput()
	passed := err == nil && strings.Contains(string(out), "--- PASS: "+alone)
	measured := "placement unaffected, caught up by itself"
	if !passed {
		measured = "failed"
		say("%s", out)
	}
	b.report.add(inside("one hour cut off from all witnesses", "placement unaffected; catches up", measured, passed, nil, alone+" in scenarios/mesh, one hour of virtual time"))
	if !passed {
		return fmt.Errorf("%s did not pass", alone)
	}
	return nil
}
