package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport"
)

// JobChanges are the jobs that a region forwarded here and that changed after
// an index, and those that landed here since by its grants; Index is what to ask
// after next.
type JobChanges struct {
	Index  uint64          `json:"index"`
	Jobs   []ForeignStatus `json:"jobs"`
	Landed []LandedJob     `json:"landed,omitempty"`
}

func (o *JobChanges) none() bool { return len(o.Jobs)+len(o.Landed) == 0 }

const (
	// changesMax bounds one answer; the rest follows at the next question.
	changesMax = 1000
	// foreignMax bounds how many of a peer's jobs are looked through.
	foreignMax = 100_000
	// landedFor is how long after its end a grant's use is told: a home that was
	// away longer has no second half of it.
	landedFor = 24 * time.Hour
)

// foreignJobs answers as soon as one of the caller's forwarded jobs changed
// after the index, or one landed by its grant, or after the wait: one question serves all of them.
func foreignJobs(s *Server, c *call) error {
	o, err := c.listQuery()
	if err != nil {
		return err
	}
	done, err := s.peerWait(c, o)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(c.r.Context(), o.Wait)
	defer cancel()
	v := c.view
	out := s.changesOf(v, c.caller, o.Index)
	for out.none() && o.Wait > 0 {
		next, err := s.cfg.Ledger.Wait(ctx, v.Index())
		if err != nil {
			break // nothing new within the wait
		}
		v = next
		out = s.changesOf(v, c.caller, o.Index)
	}
	return c.writeJSON(http.StatusOK, out)
}

// peerWaits bounds the questions that wait for one peer on one node: its leader
// asks one, and a new leader may ask before the old one's has ended.
const peerWaits = 16

// peerWait takes a place for a question that waits: one of those for long
// answers, and one of the few that each peer has.
func (s *Server) peerWait(c *call, o ListOptions) (func(), error) {
	if o.Wait == 0 {
		return func() {}, nil
	}
	release, err := s.stream()
	if err != nil {
		return nil, err
	}
	s.waitsMu.Lock()
	defer s.waitsMu.Unlock()
	peer := c.caller.Region
	if s.waits[peer] >= peerWaits {
		release()
		return nil, newProblem(http.StatusTooManyRequests, "streams.full", fmt.Sprintf("region %s has %d questions waiting here already", peer, peerWaits), "wait for their answers").retry(time.Second)
	}
	s.waits[peer]++
	return func() {
		release()
		s.waitsMu.Lock()
		defer s.waitsMu.Unlock()
		if s.waits[peer]--; s.waits[peer] == 0 {
			delete(s.waits, peer)
		}
	}, nil
}

func (s *Server) changesOf(v *state.View, caller *Caller, after uint64) JobChanges {
	out := JobChanges{Index: v.Index(), Jobs: []ForeignStatus{}}
	for _, j := range v.JobsByPrefix(string(caller.Region)+".", foreignMax) {
		if j.Index <= after || !caller.sees(j) {
			continue
		}
		out.Jobs = append(out.Jobs, foreignStatus(s, v, j))
	}
	if len(out.Jobs) > changesMax {
		// The oldest changes go first, so that the next question finds the rest.
		slices.SortFunc(out.Jobs, func(a, b ForeignStatus) int { return cmp.Compare(a.Index, b.Index) })
		out.Jobs = out.Jobs[:changesMax]
		out.Index = out.Jobs[changesMax-1].Index
	}
	s.landed(&out, v, caller.Region, after)
	return out
}

// landed adds the jobs that came in by the caller's grants.
func (s *Server) landed(out *JobChanges, v *state.View, home placement.RegionID, after uint64) {
	used := v.GrantsUsed(home, after, s.now().Add(-landedFor))
	if len(used) > changesMax {
		used = used[:changesMax]
		out.Index = min(out.Index, used[changesMax-1].Index)
	}
	for _, g := range used {
		if leaf := s.leafRef(g.Leaf); !leaf.IsZero() {
			out.Landed = append(out.Landed, LandedJob{g.ID, g.Job, leaf})
		}
	}
}

// JobChanges waits for news of the jobs that the caller's region forwarded to
// the peer.
func (m *MeshClient) JobChanges(ctx context.Context, p transport.Peer, after uint64, wait time.Duration) (*JobChanges, error) {
	path := "/jobs?index=" + strconv.FormatUint(after, 10) + "&wait=" + wait.String()
	return meshJSON[JobChanges](ctx, m, p, meshCall{method: http.MethodGet, path: path, cargo: cargo(transport.CargoStatus)}, nil)
}
