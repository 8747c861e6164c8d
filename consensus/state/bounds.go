package state

import (
	"github.com/sovmesh/sovmesh/placement"
)

// What other regions may take of this one, so that a peer that floods it starves
// neither the region nor another peer. The first reservation of a peer is free of
// the share of room: in a region of one node a lawful job may need all of it.
const (
	peerReservations = 1_000  // that one peer may hold
	allReservations  = 10_000 // that all peers may hold together
	peerQueue        = 4      // one peer waits with a quarter of the queue at most
	allQueue         = 2      // all peers together with half of it
)

// TenantsOver are the settings that bind a tenant: its own, and if it is one of
// another region, those that were set for all of that region.
func (v *View) TenantsOver(t placement.TenantID) []*Tenant {
	var out []*Tenant
	if own := v.Tenant(t); own != nil {
		out = append(out, own)
	}
	if peer := t.Region(); peer != "" {
		if all := v.Tenant(placement.EveryTenant(peer)); all != nil {
			out = append(out, all)
		}
	}
	return out
}

// allPeers is the row of the usage in which the jobs of all peers are summed up.
const allPeers placement.TenantID = "/*"

// room is the bound of the queue, of a peer's share of it, and of the tenant.
func (s *State) room(j *placement.Job, size int64) *Refused {
	if s.Waiting >= s.Limits.Pending {
		return refuse("queue.full", "try again later", "%d jobs wait already, which is the most this region queues", s.Waiting)
	}
	if s.liveBytes+size > s.Limits.Bytes {
		return refuse("queue.full", "try again later, or keep data out of the job: let its command fetch it", "the jobs that are not over take %d MiB already, and this region keeps %d MiB", s.liveBytes>>20, s.Limits.Bytes>>20)
	}
	if peer := j.Tenant.Region(); peer != "" {
		if refused := s.peerRoom(peer, placement.EveryTenant(peer), peerQueue, size); refused != nil {
			return refused
		}
		if refused := s.peerRoom(peer, allPeers, allQueue, size); refused != nil {
			return refused
		}
	}
	for _, t := range s.TenantsOver(j.Tenant) {
		if refused := s.quota(t, j.Spec.Resources.GPUs*j.Spec.Size()); refused != nil {
			return refused
		}
	}
	return nil
}

// peerRoom bounds what the jobs of a peer, or of all, take of the queue.
func (s *State) peerRoom(peer placement.RegionID, row placement.TenantID, share int, size int64) *Refused {
	u, _ := s.usage.get(string(row))
	who := "region " + string(peer)
	if row == allPeers {
		who = "other regions"
	}
	switch {
	case u.pending >= max(s.Limits.Pending/share, 1):
		return refuse("queue.full", "try again later", "%d jobs of %s wait here already, which is the most that may", u.pending, who)
	case u.bytes > 0 && u.bytes+size > s.Limits.Bytes/int64(share):
		return refuse("queue.full", "try again later", "the jobs of %s take %d MiB here already, and %d MiB is the most that they may", who, u.bytes>>20, s.Limits.Bytes/int64(share)>>20)
	}
	return nil
}

// TenantUse is what a tenant's jobs that are not over count against its quota.
type TenantUse struct{ Jobs, Pending, GPUs int }

// TenantUse adds up the jobs of a tenant, kept as they come and go.
func (v *View) TenantUse(t placement.TenantID) TenantUse {
	u, _ := v.usage.get(string(t))
	return TenantUse{Jobs: u.jobs, Pending: u.pending, GPUs: u.gpus}
}

// quota judges one more job that asks for some GPUs.
func (s *State) quota(t *Tenant, gpus int) *Refused {
	u, _ := s.usage.get(string(t.ID))
	switch q := t.Quota; {
	case q.Jobs > 0 && u.jobs >= q.Jobs:
		return refuse("quota.jobs", "wait for one to end, or ask for a higher quota", "tenant %s has %d jobs, its quota is %d", t.ID, u.jobs, q.Jobs)
	case q.Pending > 0 && u.pending >= q.Pending:
		return refuse("quota.pending", "wait for one to start, or ask for a higher quota", "tenant %s has %d waiting jobs, its quota is %d", t.ID, u.pending, q.Pending)
	case q.GPUs > 0 && u.gpus+gpus > q.GPUs:
		return refuse("quota.gpus", "wait for one to end, or ask for a higher quota", "tenant %s has jobs with %d GPUs, its quota is %d", t.ID, u.gpus, q.GPUs)
	}
	return nil
}

// mayHoldMore judges whether a peer may hold one more reservation: by number, by
// the share of the region's room that is held for others, and by its quota.
func (s *State) mayHoldMore(k *Reserve) *Refused {
	const advice = "forward the jobs that room is held for, or wait until it is given back"
	own, _ := s.held.get(string(k.Home))
	all, _ := s.held.get("")
	if own.count >= peerReservations || all.count >= allReservations {
		return refuse("quota.reservations", advice, "region %s holds %d reservations here, all regions together %d", k.Home, own.count, all.count)
	}
	if t := s.Tenant(placement.EveryTenant(k.Home)); t != nil {
		if refused := s.quota(t, k.Resources.GPUs+own.gpus); refused != nil {
			return refused
		}
	}
	if own.count == 0 {
		return nil
	}
	var region peerHold
	s.nodes.ascend("", func(_ string, n *placement.Node) bool {
		region = region.and(n)
		return true
	})
	if own.with(k.Resources, 1).beyond(region, 1, 2) || all.with(k.Resources, 1).beyond(region, 3, 4) {
		return refuse("quota.reservations", advice, "the room held for region %s would be more than half of region %s, or that for all regions more than three quarters", k.Home, s.self.ID)
	}
	return nil
}

// peerHold is what the reservations of a peer, or of all, hold. It is derived. Memory
// that a node claims or a peer asks for has hardly a bound of its own: in MiB no sum
// of it, and no multiple that is compared, overflows.
type peerHold struct {
	count, gpus int
	cpu         placement.MilliCPU
	mib         int64 // of memory
}

func (h peerHold) with(r placement.Resources, sign int) peerHold {
	h.count += sign
	h.gpus += sign * r.GPUs
	h.cpu += placement.MilliCPU(sign) * r.CPU
	h.mib += int64(sign) * int64(r.Memory/placement.MiB)
	if r.Memory%placement.MiB > 0 {
		h.mib += int64(sign)
	}
	return h
}

// and adds what a node has: of a device that is cut its instances, which alone can
// be held.
func (h peerHold) and(n *placement.Node) peerHold {
	for i := range n.Inventory.Devices {
		if !n.Inventory.Devices[i].Partitioned {
			h.gpus++
		}
	}
	h.cpu += n.Inventory.CPU
	h.mib += int64(n.Inventory.Memory / placement.MiB)
	return h
}

// beyond reports whether it is more than num/den of the region's room.
func (h peerHold) beyond(region peerHold, num, den int) bool {
	return h.gpus*den > region.gpus*num || h.cpu*placement.MilliCPU(den) > region.cpu*placement.MilliCPU(num) ||
		h.mib*int64(den) > region.mib*int64(num)
}

// holdFor counts a reservation, or takes it away again.
func (s *State) holdFor(r *Reservation, sign int) {
	for _, row := range []string{string(r.Home), ""} {
		h, _ := s.held.get(row)
		if h = h.with(r.Resources, sign); h == (peerHold{}) {
			s.held.delete(row)
		} else {
			s.held.put(row, h)
		}
	}
}
