package witness

import (
	"slices"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// Status says how far the log is signed and witnessed.
type Status struct {
	// Size and At are those of the newest checkpoint; zero if none was signed.
	Size uint64
	At   time.Time
	// Leaves is the size of the log: those beyond Size are not signed.
	Leaves uint64
	// Problem is why this node signs nothing, in one line; empty if it would.
	Problem   string
	Witnesses []WitnessStatus
}

// WitnessStatus is how far one witness is.
type WitnessStatus struct {
	Name string
	// Region is a peer's, empty for an outside witness.
	Region placement.RegionID
	// Size is that of the newest checkpoint that it cosigned, of those that the
	// state remembers; At is when that was signed.
	Size uint64
	At   time.Time
	// Problem is why it did not cosign the last time, as far as this node knows.
	Problem string
	// SetBack is how often it had forgotten what it cosigned, as far as this node
	// knows.
	SetBack int
}

// Status reads how things stand, on any voter.
func (s *Service) Status() Status {
	v := s.cfg.Log.View()
	out := Status{Leaves: v.LedgerSize(), Problem: s.problem()}
	all := v.Checkpoints()
	if len(all) > 0 {
		out.Size, out.At = all[0].Size, all[0].At
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range targets(v) {
		w := WitnessStatus{Name: t.Name(), Region: t.Region, Problem: s.said[t.Name()], SetBack: s.setBack[t.Name()]}
		for _, c := range all {
			if slices.Contains(c.Witnesses, w.Name) {
				w.Size, w.At = c.Size, c.At
				break
			}
		}
		out.Witnesses = append(out.Witnesses, w)
	}
	return out
}

func (s *Service) problem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name, why := range s.halts {
		out = append(out, "witness "+name+": "+why)
	}
	slices.Sort(out)
	if s.hitch != "" {
		out = append(out, s.hitch)
	}
	return strings.Join(out, "; ")
}
