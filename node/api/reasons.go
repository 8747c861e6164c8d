package api

import (
	"encoding/json"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/scheduler"
)

// classesMax bounds how many different demands one answer explains; further
// pending jobs keep the ledger's own words.
const classesMax = 16

// reasons finds the dominant reason of pending jobs. It is not in the ledger:
// it changes with everything around the job, so it is read from the same
// snapshot as a placement, once for all jobs that ask for the same.
type reasons struct {
	s     *Server
	view  *state.View
	ask   *scheduler.Explainer
	known map[string]scheduler.Explanation
}

func (s *Server) reasons(v *state.View) *reasons {
	return &reasons{s: s, view: v, known: map[string]scheduler.Explanation{}}
}

// of is the job with its reason filled in, or the job itself.
func (r *reasons) of(j *placement.Job) *placement.Job {
	if j.Status != placement.JobPending || j.Code != "" || j.StopRequested || j.NotBefore.After(r.s.now()) {
		return j
	}
	if f := j.Forward; f != nil && f.State != placement.ForwardWaiting {
		out := *j
		out.Code, out.Reason = "forward."+f.State, "asks region "+string(f.Region)+" for a place"
		return &out
	}
	e, ok := r.explain(j)
	if !ok || e.Outcome == scheduler.Fits {
		return j
	}
	out := *j
	out.Code, out.Reason = string(e.Code), e.Reason
	if j.Forward != nil {
		for _, a := range j.Forward.Refusals {
			out.Reason += "; " + string(a.Region) + ": " + a.Reason
		}
	}
	return &out
}

// abroad is why a job is where it is and what its owner can do, in words of a
// closed list, for a caller of another region: of nodes, of what they lack and of
// how many there are it learns nothing.
func (r *reasons) abroad(j *placement.Job) (code, reason, hint string) {
	here := "region " + string(r.s.cfg.Region)
	if j.Status != placement.JobPending || j.Restarts > 0 || j.StopRequested {
		return "", reasonAbroad(j), ""
	}
	if f := j.Forward; f != nil && f.State != placement.ForwardWaiting {
		return "forward." + f.State, "asks region " + string(f.Region) + " for a place", ""
	}
	asked := ""
	if f := j.Forward; f != nil && len(f.Refusals) > 0 {
		asked = ", and no other region inside its tag gave it a place"
	}
	e, _ := r.explain(j)
	switch e.Outcome {
	case scheduler.Full:
		return CodeNoCapacity, here + " has no room for it now" + asked + "; it waits", "wait, or stop it and ask for less: sovmesh job stop " + string(j.ID)
	case scheduler.Impossible:
		if e.Code == scheduler.QuotaLimit {
			return CodeOverLimit, here + " lets its tenant hold less than it asks for; it waits", "stop it and ask for less, or have the limit raised there: sovmesh job stop " + string(j.ID)
		}
		return CodeNoHardware, here + " has no hardware that could hold it" + asked + "; it waits", "stop it, and submit it with smaller resources or a wider tag: sovmesh job stop " + string(j.ID)
	case scheduler.Refused, scheduler.Unknown:
		return CodeNotLawful, "no place in " + here + " satisfies its policy any more" + asked + "; it waits", "stop it, and submit it anew: sovmesh job stop " + string(j.ID)
	}
	return "", reasonAbroad(j), ""
}

func (r *reasons) explain(j *placement.Job) (scheduler.Explanation, bool) {
	key := demand(j)
	if e, ok := r.known[key]; ok {
		return e, true
	}
	if len(r.known) >= classesMax {
		return scheduler.Explanation{}, false
	}
	if r.ask == nil {
		r.ask = scheduler.NewExplainer(r.view.Snapshot(r.s.now()))
	}
	e := r.ask.Explain(j)
	r.known[key] = e
	return e, true
}

// demand names all that the scheduler looks at.
func demand(j *placement.Job) string {
	var b strings.Builder
	var dns []string
	if s := j.Spec.Setup; s != nil && s.Network != nil {
		dns = s.Network.DNS
	}
	_ = json.NewEncoder(&b).Encode([]any{j.Kind, j.Spec.ServerKind(), dns, j.Policy, j.Spec.Resources, j.Spec.Site, j.Spec.NodeName, j.Tenant, j.Spec.Members, j.Spec.Avoid, j.Spec.MaxRuntime})
	return b.String()
}
