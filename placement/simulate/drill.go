package simulate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// Fate is what another law would do to one job.
type Fate string

// The fates, the harmless first.
const (
	FateStays    Fate = "stays"    // lawful where it is
	FateWaits    Fate = "waits"    // has no place now, and may have one here
	FateMoves    Fate = "moves"    // not lawful where it is: to another node of the region, which has room
	FateLeaves   Fate = "leaves"   // not lawful in the region: to another region
	FateNoRoom   Fate = "no-room"  // not lawful where it is, lawful at other nodes, which are full
	FateUnknown  Fate = "unknown"  // nobody can say whether any place is lawful
	FateStranded Fate = "stranded" // no place that is known would be lawful
	fates             = "stays waits moves leaves no-room unknown stranded"
)

// Fall is one job under another law.
type Fall struct {
	Job       placement.JobID    `json:"job"`
	Name      string             `json:"name,omitempty"`
	Tenant    placement.TenantID `json:"tenant"`
	Residency string             `json:"residency"`
	Fate      Fate               `json:"fate"`
	// At is where it is, empty for one that waits.
	At placement.NodeID `json:"at,omitempty"`
	// In is the region that it runs in, if that is another.
	In placement.RegionID `json:"in,omitempty"`
	// To is the node that it moves to, Regions those that it might go to; whether
	// they have room, they alone can say.
	To      placement.NodeID     `json:"to,omitempty"`
	Regions []placement.RegionID `json:"regions,omitempty"`
	// Rule and Reason are of the decision about the place where it is, or, of one
	// that waits, about the region.
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

// waits reports that the job has no place to lose.
func (f *Fall) waits() bool { return f.At == "" && f.In == "" }

// Drill is every job of a region under another law, at another day.
type Drill struct {
	Region  placement.RegionID `json:"region"`
	LawPack string             `json:"law_pack"` // in force
	NewPack string             `json:"new_pack"` // of the drill
	At      string             `json:"at"`       // YYYY-MM-DD
	Counts  map[Fate]int       `json:"counts"`
	// Jobs are those that do not simply stay or wait, worst first.
	Jobs []Fall `json:"jobs"`
}

// Drill judges every job of the world under a pack on a day, as if every region
// of the mesh decided by it: which may stay, which have to move and where to, and
// which have no place any more. Nothing is widened.
func (w *World) Drill(pack *residency.Pack, on residency.Date, now time.Time) *Drill {
	d := &driller{
		w: w, on: on, home: *w.Self(),
		law: placement.Law{Pack: pack, On: on, Held: func(string) *residency.Pack { return pack }},
		out: &Drill{Region: w.Region, LawPack: w.LawPack, NewPack: pack.Hash(), At: on.String(), Counts: map[Fate]int{}, Jobs: []Fall{}},
		at:  make(map[placement.JobID][]*placement.Task), nodes: make(map[placement.NodeID]*placement.Node),
	}
	d.home.LawPack = pack.Hash()
	for _, f := range strings.Fields(fates) {
		d.out.Counts[Fate(f)] = 0
	}
	for _, n := range w.Nodes {
		d.nodes[n.ID] = n
	}
	for _, t := range w.Tasks {
		if t.Status.Live() && d.nodes[t.Node] != nil {
			d.at[t.Job] = append(d.at[t.Job], t)
		}
	}
	var must []*Fall
	all := make([]*Fall, 0, len(w.Jobs))
	for _, j := range w.Jobs {
		if f := d.stand(j); f != nil {
			all = append(all, f)
			if f.Fate == "" {
				must = append(must, f)
			}
		}
	}
	d.move(must, now)
	order := func(f *Fall) int { return -strings.Index(fates, string(f.Fate)) }
	slices.SortStableFunc(all, func(a, b *Fall) int { return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Job, b.Job)) })
	for _, f := range all {
		d.out.Counts[f.Fate]++
		if f.Fate != FateStays && f.Fate != FateWaits {
			d.out.Jobs = append(d.out.Jobs, *f)
		}
	}
	return d.out
}

// ExitCode is what a command ends with: 20 if a job has no place any more, 30 if
// nobody knows about one, 10 if one has to move and finds its lawful places full.
func (d *Drill) ExitCode() int {
	switch {
	case d.Counts[FateStranded] > 0:
		return scheduler.Refused.ExitCode()
	case d.Counts[FateUnknown] > 0:
		return scheduler.Unknown.ExitCode()
	case d.Counts[FateNoRoom] > 0:
		return scheduler.Full.ExitCode()
	}
	return 0
}

type driller struct {
	w     *World
	on    residency.Date
	law   placement.Law
	home  placement.Region
	out   *Drill
	at    map[placement.JobID][]*placement.Task // the live tasks of each job
	nodes map[placement.NodeID]*placement.Node
}

// stand judges a job where it is, every task of it; its fate is left open if one
// may not be there.
func (d *driller) stand(j *placement.Job) *Fall {
	f := &Fall{Job: j.ID, Name: j.Name, Tenant: j.Tenant, Residency: j.Residency}
	tasks := d.at[j.ID]
	switch {
	case len(tasks) > 0:
		for i, t := range tasks {
			r := d.judge(j, &d.home, d.nodes[t.Node].Site)
			if i > 0 && r.Permitted() {
				continue // the first one, or one that may not be there, is told of
			}
			if f.At, f.Rule, f.Reason = t.Node, r.Rule, r.Reason; !r.Permitted() {
				return f
			}
		}
		f.Fate = FateStays
		return f
	case away(j):
		f.In = j.Forward.Region
		to := d.peer(f.In)
		if to == nil {
			f.Fate, f.Rule, f.Reason = FateUnknown, "region.unknown", "region "+string(f.In)+" is not among the regions that are known"
			return f
		}
		return d.found(f, d.judge(j, to, ""), FateStays)
	}
	return d.found(f, d.judge(j, &d.home, ""), FateWaits)
}

// found is what a ruling means for a job; its fate is left open if it is refused.
func (d *driller) found(f *Fall, r placement.Ruling, fine Fate) *Fall {
	if f.Rule, f.Reason = r.Rule, r.Reason; r.Permitted() {
		f.Fate = fine
	}
	return f
}

// judge asks about a place under the drill's law. Every region is taken to
// decide by it.
func (d *driller) judge(j *placement.Job, to *placement.Region, site string) placement.Ruling {
	return placement.Crossing{Layers: j.Policy, From: &d.home, To: to, Site: site, Law: d.law}.Judge()
}

func (d *driller) peer(id placement.RegionID) *placement.Region {
	for _, r := range d.w.Regions {
		if r.ID == id && r.ID != d.w.Region {
			peer := *r
			peer.LawPack = d.home.LawPack
			return &peer
		}
	}
	return nil
}

// move looks for places of those that may not stay: in the region first, by its
// own scheduler, on the room that they leave behind.
func (d *driller) move(must []*Fall, now time.Time) {
	if len(must) == 0 {
		return
	}
	s := d.w.Snapshot(d.noon(now), d.law.Pack)
	s.Wanted = nil
	going := make(map[placement.JobID]*Fall, len(must))
	for _, f := range must {
		going[f.Job] = f
		j := pendingCopy(s.Jobs[f.Job])
		s.Jobs[f.Job] = j
		s.Wanted = append(s.Wanted, j)
	}
	vacate(&s, func(t *placement.Task) bool { return going[t.Job] != nil })
	plan := scheduler.Plan(s)
	for _, a := range plan.Assign {
		if f := going[a.Job]; f != nil && f.Fate == "" {
			if f.Fate, f.To = FateMoves, a.Node; f.waits() {
				f.Fate, f.To = FateWaits, ""
			}
		}
	}
	for _, r := range plan.Refused {
		if f := going[r.Job]; f != nil && f.Fate == "" {
			d.abroad(f, s.Jobs[r.Job], r.Explanation)
		}
	}
	for _, f := range must {
		if f.Fate == "" { // the scheduler did not say: a node that it may stay on it has none
			d.abroad(f, s.Jobs[f.Job], scheduler.Explanation{Outcome: scheduler.Refused})
		}
	}
}

// noon is the drill's day, or now if that is the same day.
func (d *driller) noon(now time.Time) time.Time {
	if residency.DateOf(now) == d.on {
		return now
	}
	at, err := time.Parse(time.DateOnly, d.on.String())
	if err != nil {
		return now
	}
	return at.Add(12 * time.Hour)
}

// vacate takes the tasks away that have to go, and gives their room back.
func vacate(s *placement.Snapshot, goes func(*placement.Task) bool) {
	used := make(map[placement.NodeID]placement.Usage)
	at := make(map[placement.NodeID]*placement.Node, len(s.Nodes))
	for _, n := range s.Nodes {
		at[n.ID] = n
	}
	s.Tasks = slices.DeleteFunc(s.Tasks, func(t *placement.Task) bool {
		if !goes(t) {
			return false
		}
		if n := at[t.Node]; n != nil && t.Status.Live() {
			u, ok := used[n.ID]
			if !ok {
				u = n.Used
			}
			u = u.With(t.Resources, t.Devices, -1)
			u.Tasks--
			used[n.ID] = u
		}
		return true
	})
	for i, n := range s.Nodes {
		if u, ok := used[n.ID]; ok {
			c := *n
			c.Used = u
			s.Nodes[i] = &c
		}
	}
}

// abroad decides about a job that found no place in its region.
func (d *driller) abroad(f *Fall, j *placement.Job, e scheduler.Explanation) {
	unknown := e.Outcome == scheduler.Unknown
	for _, r := range d.w.Regions {
		if j.Spec.Gang() {
			break // room abroad is held for single tasks: a gang goes nowhere else
		}
		if r.ID == d.w.Region || r.ID == f.In || r.State != "" && r.State != placement.PeerActive {
			continue
		}
		ruling := d.judge(j, d.peer(r.ID), "")
		switch {
		case ruling.Permitted():
			f.Regions = append(f.Regions, r.ID)
		case ruling.Verdict == residency.Unknown:
			unknown = true
		}
	}
	switch {
	case e.Outcome == scheduler.Full && f.waits():
		f.Fate = FateWaits
	case e.Outcome == scheduler.Full:
		f.Fate = FateNoRoom
		f.Reason += "; lawful places of the region: " + e.Reason
	case len(f.Regions) > 0:
		f.Fate = FateLeaves
	case unknown:
		f.Fate = FateUnknown
	case e.Outcome == scheduler.Impossible:
		f.Fate = FateStranded
		f.Reason += "; lawful places of the region: " + e.Reason
	default:
		f.Fate = FateStranded
	}
}

// Words says in a sentence what the drill found.
func (d *Drill) Words() string {
	return fmt.Sprintf("%d stay, %d wait, %d move within the region, %d leave it, %d find their lawful places full, %d unknown, %d stranded",
		d.Counts[FateStays], d.Counts[FateWaits], d.Counts[FateMoves], d.Counts[FateLeaves], d.Counts[FateNoRoom], d.Counts[FateUnknown], d.Counts[FateStranded])
}
