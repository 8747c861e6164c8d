package mesh

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// TestSoak runs meshes under random faults. SOVMESH_SEED names a schedule of
// faults and SOVMESH_RUNS how often it is run: a seed repeats the schedule, not
// every interleaving. Without them a few short schedules run.
func TestSoak(t *testing.T) {
	seeds, runs, length := []uint64{1, 2, 3}, 1, 90*time.Second
	if text := os.Getenv("SOVMESH_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SOVMESH_SEED: %v", err)
		}
		seeds, length = []uint64{seed}, 5*time.Minute
	} else if testing.Short() {
		seeds = seeds[:1]
	}
	if text := os.Getenv("SOVMESH_RUNS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("SOVMESH_RUNS must be a number of runs, not %q", text)
		}
		runs = n
	}
	for _, seed := range seeds {
		for run := range runs {
			t.Run(fmt.Sprintf("seed=%d/run=%d", seed, run+1), func(t *testing.T) {
				t.Logf("SEED=%d: again with make soak SEED=%d RUNS=20", seed, seed)
				Run(t, func(t *testing.T) { newSoak(t, seed).run(length) })
			})
		}
	}
}

// soak is one run: a mesh, what was promised to its clients, and the dice.
type soak struct {
	t       *testing.T
	m       *Mesh
	dice    *rand.Rand
	jobs    []promised
	refused int
	down    map[placement.RegionID]placement.NodeID // at most one each: a majority stays
}

// promised is an acknowledged job.
type promised struct {
	*Job
	batch, singleton bool
}

func newSoak(t *testing.T, seed uint64) *soak {
	de := Region("ber-1", "DE", 3)
	de.GPUs = []placement.Device{h200, h200, h200, h200}
	m := New(t, Region("fra-1", "FR", 3), de, Region("iad-1", "US", 1))
	return &soak{t: t, m: m, dice: rand.New(rand.NewPCG(seed, 7)), down: map[placement.RegionID]placement.NodeID{}}
}

func (s *soak) run(length time.Duration) {
	for end := time.Now().Add(length); time.Now().Before(end) && !s.t.Failed(); {
		for range 1 + s.dice.IntN(3) {
			s.submit()
		}
		s.fault()
		// Look often: what holds only most of the time does not hold.
		for range 4 + s.dice.IntN(40) {
			time.Sleep(100 * time.Millisecond)
			s.check()
		}
		s.m.CheckInvariants()
	}
	s.settle()
}

func pick[T any](d *rand.Rand, from ...T) T { return from[d.IntN(len(from))] }

func (s *soak) region() placement.RegionID {
	return pick[placement.RegionID](s.dice, "fra-1", "fra-1", "ber-1", "iad-1")
}

func (s *soak) node(r placement.RegionID) placement.NodeID {
	return pick(s.dice, s.m.region(r).hosts...).name
}

// submit sends one job to somewhere that is up; a refusal is no promise.
func (s *soak) submit() {
	at := s.region()
	tag := pick(s.dice, "EU", "EU", "DE", "FR", "US", "ANY,!US", "EEA,CH,!HU")
	what := pick(s.dice,
		`"command":["run","%ds"]`, `"command":["run","%ds"]`, `"command":["run","%ds"],"resources":{"gpus":1}`,
		`"type":"service","command":["sleep"]`, `"type":"service","singleton":true,"command":["sleep"]`)
	batch, singleton := what[1] == 'c', what[1] != 'c' && len(what) > 45
	gpus := batch && len(what) > 40
	if gpus && (tag == "FR" || tag == "US") {
		tag = "EU" // nowhere else are any
	}
	if batch {
		what = fmt.Sprintf(what, 1+s.dice.IntN(15))
	}
	up := s.m.region(at).hosts[s.dice.IntN(len(s.m.region(at).hosts))]
	if up.node == nil {
		return
	}
	job, err := s.m.AtNode(at, up.name).TrySubmit(fmt.Sprintf(`{"kind":"fake","residency":%q,%s}`, tag, what))
	if err != nil {
		s.refused++
		s.m.log.add("soak", fmt.Sprintf("%s refused %s: %v", at, tag, err))
		return
	}
	s.m.log.add("soak", fmt.Sprintf("%s: %s %s", job.ID, tag, what))
	s.jobs = append(s.jobs, promised{job, batch, singleton})
}

// fault does one thing to the mesh.
func (s *soak) fault() {
	r := s.region()
	n := s.node(r)
	switch s.dice.IntN(12) {
	case 0:
		s.m.Isolate(r)
	case 1:
		s.m.CutOff(r, n)
	case 2, 3, 4:
		s.m.Heal()
	case 5:
		s.m.Lose(s.dice.Float64() / 10)
	case 6, 7:
		if s.down[r] == "" && len(s.m.region(r).hosts) > 1 {
			s.m.Kill(r, n)
			s.down[r] = n
		}
	case 8, 9:
		s.restart(r)
	default:
		s.operate(r, n)
	}
}

func (s *soak) restart(r placement.RegionID) {
	if n := s.down[r]; n != "" {
		s.m.Restart(r, n)
		delete(s.down, r)
	}
}

// operate is an operator at work, whose region may not answer just now.
func (s *soak) operate(r placement.RegionID, n placement.NodeID) {
	var err error
	what := pick(s.dice, "cordon", "drain", "resume", "resume")
	switch c := s.m.At(r); what {
	case "cordon":
		_, err = c.Cordon(s.t.Context(), n)
	case "drain":
		_, err = c.Drain(s.t.Context(), n, api.DrainRequest{Deadline: placement.Duration(20 * time.Second)})
	default:
		_, err = c.Resume(s.t.Context(), n)
	}
	s.m.log.add("soak", fmt.Sprintf("%s %s/%s: %v", what, r, n, err))
}

// check is what must hold at every look: no batch job is started twice, in
// whichever region, and no singleton runs twice.
func (s *soak) check() {
	starts, copies := map[placement.JobID]int{}, map[placement.JobID]int{}
	for _, r := range s.m.regions {
		for _, h := range r.hosts {
			for task, n := range h.world.Starts() {
				starts[task.Job()] += n
			}
			for _, task := range h.world.Running() {
				copies[task.Job()]++
			}
		}
	}
	for _, j := range s.jobs {
		if j.batch && starts[j.ID] > 1 {
			s.t.Fatalf("batch job %s was started %d times", j.Job, starts[j.ID])
		}
		if j.singleton && copies[j.ID] > 1 {
			s.t.Fatalf("singleton %s runs %d times", j.Job, copies[j.ID])
		}
	}
}

// settle ends all faults and calls the promises in: every acknowledged job is
// there, has run once if it ends, and runs if it does not.
func (s *soak) settle() {
	s.m.Heal()
	for _, r := range s.m.regions {
		s.restart(r.spec.ID)
	}
	for _, r := range s.m.regions {
		id := r.spec.ID
		for _, h := range r.hosts {
			h.waitReady()
		}
		leader := s.m.Leader(id)
		for _, h := range r.hosts {
			s.m.Within(30*time.Second, string(id)+" resumes "+string(h.name), func() bool {
				_, err := s.m.AtNode(id, leader).Resume(s.t.Context(), h.name)
				return err == nil
			})
			s.m.Within(60*time.Second, string(h.name)+" is whole again", func() bool { return s.m.contact(id, h.name) == placement.ContactAlive })
		}
		for _, other := range s.m.regions {
			if other != r {
				s.m.Within(30*time.Second, string(id)+" hears of "+string(other.spec.ID), func() bool {
					st, err := s.m.At(id).Region(s.t.Context(), other.spec.ID)
					return err == nil && st.Link == api.LinkUp
				})
			}
		}
	}
	s.t.Cleanup(func() {
		for _, r := range s.m.regions {
			if view := r.newest(); s.t.Failed() && view != nil {
				for _, n := range view.Nodes() {
					s.t.Logf("%s/%s is %s, contact %s, holds %+v", r.spec.ID, n.ID, n.State, n.Contact, n.Used)
				}
				for _, held := range view.Reservations() {
					s.t.Logf("%s reserves %s until %s, consumed %v", r.spec.ID, held.Key, held.Expires, held.Consumed)
				}
			}
		}
		for _, j := range s.jobs {
			if doc := j.Now(); s.t.Failed() && doc != nil && doc.Status != placement.JobComplete && doc.Status != placement.JobRunning {
				s.t.Logf("%s, held back until %s, forward %+v", j.Job, doc.NotBefore, doc.Forward)
				for _, r := range s.m.regions {
					for _, task := range r.newest().TasksOf(j.ID) {
						s.t.Logf("  in %s: %+v", r.spec.ID, *task)
					}
				}
			}
		}
	})
	for _, j := range s.jobs {
		what := fmt.Sprintf("%s (batch %v, singleton %v) is accounted for", j.ID, j.batch, j.singleton)
		s.m.Within(3*time.Minute, what, func() bool {
			doc := j.Now()
			if doc != nil && doc.Origin != "" && doc.Spec.Resources.GPUs > 0 && doc.Status == placement.JobPending {
				// A client landed it, under a grant, in a region that has no GPUs while
				// the one that has was away. It is sent on, but never back to the region
				// that granted it: where that alone has GPUs, it waits and says so.
				return true
			}
			if j.batch {
				return doc != nil && doc.Status == placement.JobComplete
			}
			return doc != nil && doc.Status == placement.JobRunning
		})
	}
	time.Sleep(10 * time.Second)
	s.check()
	s.m.CheckInvariants()
	s.t.Logf("%d jobs were acknowledged and accounted for, %d submits refused", len(s.jobs), s.refused)
}
