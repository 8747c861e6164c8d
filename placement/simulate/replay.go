// Package simulate replays traces of jobs on traces of clusters, offline and at
// once: for planning capacity, and to measure the placement engine against
// published policies.
//
// The rule that must hold: what it measures is what ranks. The policy sovmesh is
// package engine, by whose costs the scheduler of a live region ranks its nodes,
// in an index of its own and behind tags and wishes, which traces have none of.
// Every figure can be counted again from the decision log, and [Check] does so
// without any part of the engine.
//
// The command simulate and the benchmark rely on it. It is pure: it reads what
// it is given, and the same seed gives the same log.
package simulate

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/sovmesh/sovmesh/placement/engine"
)

// Options say what is replayed.
type Options struct {
	Policy string
	Seed   uint64
	// Demand is how much GPU demand arrives in a fill, against the capacity.
	Demand float64
	// Churn, if above 0, replays departures too: the share of the GPUs that is
	// held when the next job arrives.
	Churn    float64
	Arrivals int // of a churn
	// Warm lets the engine know the mix of the jobs beforehand, as a region that
	// has run for a while does.
	Warm bool
	// Progress, if not nil, is told now and then how far it is.
	Progress func(done, all int)
}

// ChurnArrivals is how many jobs arrive in a churn unless told otherwise; the
// last two thirds count.
const ChurnArrivals = 40_000

// The policies by name. Those beside sovmesh's are references.
const (
	PolicySovmesh        = "sovmesh"
	PolicyNoPrice        = "sovmesh-no-price"
	PolicyNoJurisdiction = "sovmesh-no-jurisdiction-price"
	PolicyFGD            = "fgd"
	PolicyBestFit        = "best-fit"
	PolicyFirstFit       = "first-fit"
	PolicyRandom         = "random"
)

// Policies are the names of all policies.
func Policies() []string {
	return []string{PolicySovmesh, PolicyNoPrice, PolicyNoJurisdiction, PolicyFGD, PolicyBestFit, PolicyFirstFit, PolicyRandom}
}

// place is where a job was put.
type place struct {
	node int
	gpus []int
	cost int
}

// placer decides for one policy.
type placer interface {
	// learn hears of every arrival, before it is decided.
	learn(j *Job)
	// refused hears of every arrival that found no place.
	refused(j *Job)
	decide(j *Job) (place, bool)
	take(j *Job, at place)
	release(j *Job, at place)
}

func newPlacer(o Options, machines []Machine, jobs []Job) (placer, error) {
	cfg := engine.DefaultConfig()
	switch o.Policy {
	case PolicySovmesh:
	case PolicyNoPrice:
		cfg.PricePercent = 0
	case PolicyNoJurisdiction:
		cfg.JurisdictionPrice = false
	case PolicyFirstFit, PolicyBestFit, PolicyFGD, PolicyRandom:
		p := newPlain(machines)
		p.rate = rateFirst
		switch o.Policy {
		case PolicyBestFit:
			p.rate = rateBest
		case PolicyFGD:
			p.rate, p.typical = rateFGD, typicalOf(jobs)
		case PolicyRandom:
			p.random = random(o.Seed, streamPolicy)
		}
		return p, nil
	default:
		return nil, fmt.Errorf("there is no policy %q", o.Policy)
	}
	return newEngine(machines, jobs, cfg, o.Warm)
}

// Mark is the state of a fill when so much demand had arrived.
type Mark struct {
	Demand    float64 `json:"demand"`    // share of the capacity
	Allocated float64 `json:"allocated"` // share of the capacity
	Rejected  []Group `json:"rejected"`
}

// Group is what became of the jobs with one kind of tag, in devices.
type Group struct {
	Tag      string  `json:"tag"`
	Arrived  float64 `json:"arrived"`
	Rejected float64 `json:"rejected"`
}

// Share is the rejected part of the demand.
func (g Group) Share() float64 {
	if g.Arrived == 0 {
		return 0
	}
	return g.Rejected / g.Arrived
}

// Result is one replay.
type Result struct {
	Policy   string  `json:"policy"`
	Seed     uint64  `json:"seed"`
	Nodes    int     `json:"nodes"`
	GPUs     int     `json:"gpus"`
	Arrived  int     `json:"arrived"`
	Placed   int     `json:"placed"`
	Rejected int     `json:"rejected"`
	Marks    []Mark  `json:"marks,omitempty"` // of a fill
	Churn    []Group `json:"churn,omitempty"` // of what counts in a churn; "all" first
	// Full is how many jobs of a churn had arrived when its load was first held,
	// 0 if it never was: then nothing ended, and the figures are those of a fill.
	Full int `json:"load_held_after,omitempty"`
	// Allocated is the share of the GPUs held, at the end of a fill, or on
	// average over what counts in a churn.
	Allocated float64 `json:"allocated"`
	Verdict   Verdict `json:"verdict"`
	// Log is the decision log that all this can be counted from.
	Log []byte `json:"-"`
}

// marks are the shares of arrived demand at which a fill is looked at.
var marks = [...]float64{0.90, 0.95, 1.00, 1.10, 1.20, 1.30}

// run is one replay under way.
type run struct {
	o        Options
	machines []Machine
	jobs     []Job
	capacity int64
	placer   placer
	log      log
	out      Result
	held     int64 // thousandths
	tally    tally
}

// tally counts arrived and rejected amounts by tag.
type tally struct{ arrived, rejected map[string]int64 }

func newTally() tally { return tally{make(map[string]int64), make(map[string]int64)} }

func (t tally) add(j *Job, placed bool) {
	for _, tag := range [...]string{groupAll, j.Tag} {
		t.arrived[tag] += j.amount()
		if !placed {
			t.rejected[tag] += j.amount()
		}
	}
}

const groupAll = "all"

func (t tally) groups() []Group {
	var out []Group
	for _, tag := range [...]string{groupAll, BoundNowhere, BoundEU} {
		if t.arrived[tag] > 0 {
			out = append(out, Group{tag, float64(t.arrived[tag]) / 1000, float64(t.rejected[tag]) / 1000})
		}
	}
	return out
}

// Run replays the jobs on the machines, which [Place] has given their regions.
func Run(ctx context.Context, machines []Machine, jobs []Job, o Options) (*Result, error) {
	p, err := newPlacer(o, machines, jobs)
	if err != nil {
		return nil, err
	}
	r := &run{o: o, machines: machines, jobs: jobs, placer: p, tally: newTally()}
	r.out = Result{Policy: o.Policy, Seed: o.Seed, Nodes: len(machines)}
	for _, m := range machines {
		r.out.GPUs += m.GPUs
	}
	r.capacity = int64(r.out.GPUs) * 1000
	if o.Churn > 0 {
		err = r.churn(ctx)
	} else {
		err = r.fill(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.out.Log = r.log.bytes()
	r.out.Verdict, err = Check(r.out.Log, machines, jobs)
	return &r.out, err
}

// arrive decides one job.
func (r *run) arrive(i int) (place, bool) {
	j := &r.jobs[i]
	r.placer.learn(j)
	at, ok := r.placer.decide(j)
	r.tally.add(j, ok)
	r.out.Arrived++
	if !ok {
		r.out.Rejected++
		r.placer.refused(j)
		r.log.reject(j)
		return at, false
	}
	r.out.Placed++
	r.placer.take(j, at)
	r.held += j.amount()
	r.log.place(j, &r.machines[at.node], at)
	return at, true
}

// tell reports progress now and then, and notices an interruption.
func (r *run) tell(ctx context.Context, done, all int) error {
	if done%1000 != 0 {
		return nil
	}
	if r.o.Progress != nil {
		r.o.Progress(done, all)
	}
	return ctx.Err()
}

func (r *run) share(milli int64) float64 {
	if r.capacity == 0 {
		return 0
	}
	return float64(milli) / float64(r.capacity)
}

// fill lets jobs arrive that never end.
func (r *run) fill(ctx context.Context) error {
	arrivals := workload(r.jobs, r.capacity, r.o.Demand, r.o.Seed)
	arrived, next := int64(0), 0
	for n, i := range arrivals {
		if err := r.tell(ctx, n, len(arrivals)); err != nil {
			return err
		}
		r.arrive(i)
		arrived += r.jobs[i].amount()
		for next < len(marks) && r.capacity > 0 && r.share(arrived) >= marks[next] {
			r.out.Marks = append(r.out.Marks, Mark{marks[next], r.share(r.held), r.tally.groups()})
			next++
		}
	}
	r.out.Allocated = r.share(r.held)
	return nil
}

// live is a job that runs.
type live struct {
	job int
	at  place
}

// churn lets jobs arrive and end: before each arrival jobs drawn at random end
// until no more than the share asked for is held. What found no place is gone.
func (r *run) churn(ctx context.Context) error {
	n := cmp.Or(r.o.Arrivals, ChurnArrivals)
	dice := random(r.o.Seed, streamChurn)
	var running []live
	most := int64(r.o.Churn * float64(r.capacity))
	sum, counted := 0.0, 0
	for step := range n {
		if err := r.tell(ctx, step, n); err != nil {
			return err
		}
		if step == n/3 {
			r.tally = newTally()
		}
		for r.held > most && len(running) > 0 {
			running = r.end(running, dice)
		}
		i := dice.IntN(len(r.jobs))
		if at, ok := r.arrive(i); ok {
			running = append(running, live{i, at})
		}
		if r.out.Full == 0 && r.held >= most {
			r.out.Full = step + 1
		}
		if step >= n/3 {
			sum += r.share(r.held)
			counted++
		}
	}
	r.out.Churn, r.out.Allocated = r.tally.groups(), sum/float64(counted)
	return nil
}

// end ends one of the running jobs, drawn at random.
func (r *run) end(running []live, dice *rand.Rand) []live {
	k := dice.IntN(len(running))
	l := running[k]
	j := &r.jobs[l.job]
	r.placer.release(j, l.at)
	r.held -= j.amount()
	r.log.release(j, &r.machines[l.at.node], l.at)
	running[k] = running[len(running)-1]
	return running[:len(running)-1]
}

// Median is the middle of the values, the mean of two in the middle; 0 of none.
func Median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
