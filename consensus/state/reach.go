package state

import "github.com/sovmesh/sovmesh/placement"

// mayReach judges the regions that a job's allow list names by the job's own
// policy: what it may be sent to work on may not leave by its network either.
func (s *State) mayReach(c *call, layers []placement.Layer, j *placement.Job) *Refused {
	if j.Spec.Setup == nil {
		return nil
	}
	regions, ok := j.Spec.Setup.Network.Regions()
	if !ok {
		return refuse("job.network", "name addresses, prefixes, services, and at most 16 regions", "what the job may reach cannot be read")
	}
	for _, id := range regions {
		to := s.Region(id)
		if to == nil {
			return refuse("tag.unknown-place", "list the regions: sovmesh region list", "no region is called %q", id)
		}
		x := placement.Crossing{Layers: layers, To: to, Use: placement.UseRun}
		if to == s.self {
			x.Sites = s.sites
		} else {
			x.From = s.self
		}
		if refused := s.judge(c, x); refused != nil {
			refused.Message = "the job may not reach region " + string(id) + ": " + refused.Message
			return refused
		}
	}
	return nil
}
