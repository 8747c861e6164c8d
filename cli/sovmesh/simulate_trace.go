package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement/simulate"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"
)

// replay is what simulate was asked for.
type replay struct {
	simulate.Options
	seeds    []uint64
	regions  int
	machines []simulate.Machine
	jobs     []simulate.Job
}

// simulateDocument is what simulate answers with --json.
type simulateDocument struct {
	Format  string             `json:"format"`
	Policy  string             `json:"policy"`
	Warm    bool               `json:"warm"`
	Regions int                `json:"regions"`
	Nodes   int                `json:"nodes"`
	GPUs    int                `json:"gpus"`
	Jobs    int                `json:"jobs"`
	Load    float64            `json:"churn,omitempty"`
	Runs    []*simulate.Result `json:"runs"`
	Median  simulateMedian     `json:"median"`
	Verdict simulate.Verdict   `json:"verdict"` // the sum over all runs
}

// simulateMedian are the medians over the seeds, in shares of one.
type simulateMedian struct {
	// Allocated is by arrived demand ("1.00"), for a fill.
	Allocated map[string]float64 `json:"allocated,omitempty"`
	// Rejected is the share of the demanded GPUs by what binds the jobs: of a
	// churn as a whole, of a fill by arrived demand.
	Rejected map[string]float64 `json:"rejected"`
}

func (p *program) simulateTrace(c *cli.Context) error {
	r, err := readReplay(c)
	if err != nil {
		return err
	}
	path := c.String("log")
	if path != "" && len(r.seeds) > 1 {
		return usage("write --seed N with --log", "--log is of one seed, and --seeds names %d", len(r.seeds))
	}
	runs, err := p.replayAll(c.Context, r)
	if err != nil {
		return err
	}
	if path != "" {
		if err := os.WriteFile(path, runs[0].Log, 0o644); err != nil {
			return inputFile(err, "name a file that can be written with --log")
		}
	}
	doc := document(r, runs)
	doc.Format, doc.Warm = c.String("format"), r.Warm
	if err := p.show(doc, func(w io.Writer) { p.writeReplay(w, doc) }); err != nil {
		return err
	}
	if v := doc.Verdict; v.Violations+v.Avoidable+v.Impossible > 0 {
		return &outcome{api.ExitFailed, "the decision log does not hold: see the counts above", "write it with --log, and look at the rows; the policy is at fault"}
	}
	return nil
}

// readReplay reads flags and files.
func readReplay(c *cli.Context) (*replay, error) {
	r := &replay{regions: c.Int("regions")}
	r.Options = simulate.Options{Policy: c.String("policy"), Demand: c.Float64("demand"), Churn: c.Float64("churn"), Arrivals: c.Int("arrivals"), Warm: c.Bool("warm")}
	switch {
	case c.String("nodes") == "" || c.String("jobs") == "":
		return nil, usage("name both files: sovmesh simulate --nodes FILE --jobs FILE", "--nodes and --jobs are needed")
	case !slices.Contains(simulate.Policies(), r.Policy):
		hint := "one of: " + strings.Join(simulate.Policies(), ", ")
		if near := nearest(r.Policy, simulate.Policies()); near != "" {
			hint = "did you mean " + near + "? " + hint
		}
		return nil, usage(hint, "there is no policy %s", quoteWord(r.Policy))
	case !(r.Demand > 0 && r.Demand <= 10):
		return nil, usage("write a share of the GPUs: 1.3 is 130 %", "--demand must lie above 0 and be at most 10")
	case c.IsSet("churn") && !(r.Churn > 0 && r.Churn <= 1):
		return nil, usage("write a share of the GPUs: 0.93 is 93 %", "--churn must lie above 0 and be at most 1")
	case r.Arrivals < 3 || r.Arrivals > 10_000_000:
		return nil, usage("write for example 40000", "--arrivals must lie between 3 and 10000000")
	case r.regions < 1 || r.regions > simulate.RegionsMax:
		return nil, usage("write for example 4", "--regions must lie between 1 and %d", simulate.RegionsMax)
	}
	var err error
	if r.seeds, err = readSeeds(c); err != nil {
		return nil, err
	}
	if r.machines, err = readTrace(c.String("nodes"), simulate.ReadMachines); err != nil {
		return nil, err
	}
	r.jobs, err = readTrace(c.String("jobs"), func(f io.Reader, file string) ([]simulate.Job, error) {
		return simulate.ReadJobs(f, file, r.machines, c.Bool("unknown-models"))
	})
	simulate.Place(r.machines, r.jobs, r.regions)
	return r, err
}

// seedsMax bounds the replays of one command.
const seedsMax = 1000

func readSeeds(c *cli.Context) ([]uint64, error) {
	text := c.String("seeds")
	if text == "" {
		return []uint64{c.Uint64("seed")}, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	first, err1 := strconv.ParseUint(from, 10, 64)
	last, err2 := first, error(nil)
	if ranged {
		last, err2 = strconv.ParseUint(to, 10, 64)
	}
	if err := errors.Join(err1, err2); err != nil || last < first || last-first >= seedsMax {
		return nil, usage("write two numbers, as in 42-51", "--seeds cannot be %s: it names at most %d seeds, the lowest first", quoteWord(text), seedsMax)
	}
	var out []uint64
	for seed := first; seed-first <= last-first; seed++ {
		out = append(out, seed)
	}
	return out, nil
}

func readTrace[T any](path string, read func(io.Reader, string) ([]T, error)) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, inputFile(err, "name a file that can be read")
	}
	defer f.Close()
	out, err := read(f, path)
	var bad *simulate.FormatError
	if errors.As(err, &bad) {
		return nil, &api.InputError{Code: "input.trace", Message: bad.Error(), Help: bad.Hint()}
	}
	return out, err
}

// replayAll runs the seeds side by side; the results stand in their order.
func (p *program) replayAll(ctx context.Context, r *replay) ([]*simulate.Result, error) {
	runs := make([]*simulate.Result, len(r.seeds))
	l := p.progress()
	defer l.done()
	var mu sync.Mutex // guards l and done
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, seed := range r.seeds {
		g.Go(func() error {
			o := r.Options
			o.Seed = seed
			if p.errTTY && len(r.seeds) == 1 {
				o.Progress = func(n, all int) { l.say("%s %d of %d jobs", bar(n, all), n, all) }
			}
			result, err := simulate.Run(ctx, r.machines, r.jobs, o)
			if err != nil {
				return err
			}
			if len(r.seeds) > 1 {
				result.Log = nil // of many seeds, nobody reads it
			}
			runs[i] = result
			mu.Lock()
			defer mu.Unlock()
			if done++; len(r.seeds) > 1 {
				l.say("%s seeds replayed", bar(done, len(r.seeds)))
			}
			return nil
		})
	}
	return runs, g.Wait()
}

func document(r *replay, runs []*simulate.Result) simulateDocument {
	doc := simulateDocument{Policy: r.Policy, Regions: r.regions, Nodes: len(r.machines), GPUs: runs[0].GPUs, Jobs: len(r.jobs), Load: r.Churn, Runs: runs}
	allocated, rejected := map[string][]float64{}, map[string][]float64{}
	for _, one := range runs {
		doc.Verdict.Rows += one.Verdict.Rows
		doc.Verdict.Violations += one.Verdict.Violations
		doc.Verdict.Avoidable += one.Verdict.Avoidable
		doc.Verdict.Impossible += one.Verdict.Impossible
		for _, m := range one.Marks {
			at := fmt.Sprintf("%.2f", m.Demand)
			allocated[at] = append(allocated[at], m.Allocated)
			for _, g := range m.Rejected {
				rejected[g.Tag+" at "+at] = append(rejected[g.Tag+" at "+at], g.Share())
			}
		}
		for _, g := range one.Churn {
			rejected[g.Tag] = append(rejected[g.Tag], g.Share())
		}
	}
	doc.Median = simulateMedian{Rejected: map[string]float64{}}
	for name, values := range rejected {
		doc.Median.Rejected[name] = simulate.Median(values)
	}
	if r.Churn == 0 {
		doc.Median.Allocated = map[string]float64{}
		for name, values := range allocated {
			doc.Median.Allocated[name] = simulate.Median(values)
		}
	}
	return doc
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 2, 64) }

func (p *program) writeReplay(w io.Writer, d simulateDocument) {
	mode := "fill"
	if d.Load > 0 {
		mode = "churn at " + percent(d.Load) + " % of the GPUs"
	}
	p.facts(w, "policy", d.Policy, "replay", mode, "cluster", fmt.Sprintf("%d nodes, %d GPUs, %d regions", d.Nodes, d.GPUs, d.Regions), "jobs", strconv.Itoa(d.Jobs))
	fmt.Fprintln(w)
	if d.Load > 0 {
		p.writeChurn(w, d)
	} else {
		p.writeFill(w, d)
	}
	fmt.Fprintln(w)
	p.facts(w, "decisions", strconv.Itoa(d.Verdict.Rows), "residency violations", strconv.Itoa(d.Verdict.Violations),
		"avoidable rejections", strconv.Itoa(d.Verdict.Avoidable), "impossible rows", strconv.Itoa(d.Verdict.Impossible))
}

// writeFill: the share of the GPUs allocated when so much demand had arrived,
// and what was rejected of the demand then.
func (p *program) writeFill(w io.Writer, d simulateDocument) {
	if len(d.Runs[0].Marks) == 0 {
		fmt.Fprintf(w, "%d jobs arrived, %d found no place; the GPU demand ended below 90 %%\n", d.Runs[0].Arrived, d.Runs[0].Rejected)
		return
	}
	head := []string{"ARRIVED GPU DEMAND %", "ALLOCATED %"}
	tags := p.tags(d.Runs[0].Marks[0].Rejected)
	for _, tag := range tags {
		head = append(head, "REJECTED % "+strings.ToUpper(tag))
	}
	t := p.table(head...)
	for _, m := range d.Runs[0].Marks {
		at := fmt.Sprintf("%.2f", m.Demand)
		row := []string{percent(m.Demand), percent(d.Median.Allocated[at])}
		for _, tag := range tags {
			row = append(row, percent(d.Median.Rejected[tag+" at "+at]))
		}
		t.add(row...)
	}
	t.write(w)
	if len(d.Runs) > 1 {
		fmt.Fprintf(w, "medians of %d seeds\n", len(d.Runs))
	}
}

func (p *program) writeChurn(w io.Writer, d simulateDocument) {
	head := []string{"SEED"}
	tags := p.tags(d.Runs[0].Churn)
	for _, tag := range tags {
		head = append(head, "REJECTED % "+strings.ToUpper(tag))
	}
	t := p.table(append(head, "HELD %")...)
	for _, one := range d.Runs {
		row := []string{strconv.FormatUint(one.Seed, 10)}
		for _, g := range one.Churn {
			row = append(row, percent(g.Share()))
		}
		t.add(append(row, percent(one.Allocated))...)
	}
	if len(d.Runs) > 1 {
		row, held := []string{"median"}, []float64{}
		for _, tag := range tags {
			row = append(row, percent(d.Median.Rejected[tag]))
		}
		for _, one := range d.Runs {
			held = append(held, one.Allocated)
		}
		t.add(append(row, percent(simulate.Median(held)))...)
	}
	t.write(w)
	p.writeUnheld(w, d)
}

// writeUnheld says of which seeds the figures are not those of the load that was
// asked for: a cluster that is not full rejects less, and one that cannot be
// filled so far rejects what no departure would have made room for.
func (p *program) writeUnheld(w io.Writer, d simulateDocument) {
	never, late := 0, 0
	for _, one := range d.Runs {
		switch {
		case one.Full == 0:
			never++
		case one.Full > one.Arrived/3:
			late++
		}
	}
	if never > 0 {
		fmt.Fprintf(w, "\nnever held %s %% of the GPUs: %d of %d replays; nothing ended in them, and these are not the figures of that load: raise --arrivals, or lower --churn\n", percent(d.Load), never, len(d.Runs))
	}
	if late > 0 {
		fmt.Fprintf(w, "\nheld %s %% of the GPUs only after a third of the jobs: %d of %d replays; what came before counts in these figures: raise --arrivals\n", percent(d.Load), late, len(d.Runs))
	}
}

func (p *program) tags(groups []simulate.Group) []string {
	var out []string
	for _, g := range groups {
		out = append(out, g.Tag)
	}
	return out
}
