package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	record "github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/controller"
	"github.com/sovmesh/sovmesh/node/gateway"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
	"github.com/sovmesh/sovmesh/placement/scheduler"
	"github.com/sovmesh/sovmesh/transport"
)

// regions is how the controller reaches other regions: through their front
// doors, one after the other, under the endpoint's egress guard.
type regions struct{ n *Node }

// Candidates ranks the lawful regions that are in contact. The facts are those
// pinned in this region's ledger; both regions' rules narrow the policy.
func (r *regions) Candidates(view *state.View, job *placement.Job) []placement.RegionID {
	self, now := view.Self(), r.n.deps.now()
	if self == nil {
		return nil
	}
	x := placement.Crossing{Layers: job.Policy, From: self, Via: self, Law: view.Law(residency.DateOf(now))}
	var asked []scheduler.Foreign
	for _, peer := range view.Regions() {
		link, ok := r.n.links.get(peer.ID)
		if peer.Self || peer.State != placement.PeerActive || !ok || !link.up || peer.ID == job.Origin {
			continue
		}
		x.To = peer
		asked = append(asked, scheduler.Foreign{Crossing: x, Summary: link.summary})
	}
	var out []placement.RegionID
	for _, c := range scheduler.Rank(job, asked, now) {
		out = append(out, c.Region)
	}
	return out
}

// Reserve asks the region for room.
func (r *regions) Reserve(ctx context.Context, region placement.RegionID, job *placement.Job, attempt int, expires time.Time) error {
	view := r.n.ledger.View()
	layers, err := leaving(view, job, region)
	if err != nil {
		return err
	}
	req := api.ReserveRequest{
		Job: job.ID, Attempt: attempt, Kind: job.Kind, Resources: job.Spec.Resources, Site: job.Spec.Site,
		Policy: layers, LawPack: view.Pack().Hash(), Expires: expires,
		HomeLeaf: r.homeLeaf(view, job.ID),
	}
	return r.each(ctx, region, func(ctx context.Context, p transport.Peer) error {
		answer, err := r.n.mesh.Reserve(ctx, p, req)
		if err != nil {
			return declinedOr(err, region, r.n.deps.now())
		}
		if !answer.Held {
			return &controller.Declined{Answer: answerOf(region, answer.Code, answer.Reason, r.n.deps.now()), Leaf: answer.Leaf}
		}
		return nil
	})
}

// homeLeaf is this region's half of a crossing: the leaf by which the job's way
// out was judged. It is read from the store, so that a question asked again
// quotes the same.
func (r *regions) homeLeaf(view *state.View, job placement.JobID) state.LeafRef {
	files := r.n.ledgerFiles()
	if files == nil {
		return state.LeafRef{}
	}
	for _, index := range slices.Backward(view.JobLeaves(job)) {
		entry, err := files.Entry(index)
		if err != nil {
			break // a gap in this replica's ledger: it quotes nothing rather than another leaf
		}
		leaf, err := record.Decode(entry)
		if err == nil && leaf.Kind == string(state.KindSetForward) && len(leaf.Judged) > 0 && leaf.Accepted() {
			return state.LeafRef{Index: index, Hash: record.HashLeaf(entry)}
		}
	}
	return state.LeafRef{}
}

// leaving are the layers under which a job goes to a region.
func leaving(view *state.View, job *placement.Job, to placement.RegionID) ([]placement.Layer, error) {
	peer := view.Region(to)
	if view.Self() == nil || peer == nil {
		return nil, fmt.Errorf("send job %s to region %s: it is no peer any more: %w", job.ID, to, controller.ErrNoContact)
	}
	return placement.Across(job.Policy, view.Self(), peer), nil
}

// Forward sends the job's bytes.
func (r *regions) Forward(ctx context.Context, region placement.RegionID, job *placement.Job, attempt int) (half state.LeafRef, err error) {
	view := r.n.ledger.View()
	layers, err := leaving(view, job, region)
	if err != nil {
		return half, err
	}
	policy, err := view.PolicyOf(job)
	if err != nil {
		return half, err
	}
	spec, err := r.n.unsealed(job)
	if err != nil {
		return half, err
	}
	out := api.ForwardedJob{
		Job: job.ID, Tenant: string(job.Tenant), Residency: job.Residency, Policy: layers, Spec: spec,
		AllowAny: true, Reservation: state.ReservationKey(r.n.who.Region, job.ID, attempt),
		SubmittedAt: job.SubmittedAt, Hops: job.Hops + 1, HomeLeaf: r.homeLeaf(view, job.ID),
	}
	err = r.each(ctx, region, func(ctx context.Context, p transport.Peer) error {
		taken, err := r.n.mesh.Forward(ctx, p, policy, out)
		if err == nil {
			half = taken.Leaf
		}
		return declinedOr(err, region, r.n.deps.now())
	})
	return half, err
}

// answerOf is what another region said, cut to what the ledger keeps of it.
func answerOf(region placement.RegionID, code, reason string, at time.Time) placement.RegionAnswer {
	cut := func(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }
	return placement.RegionAnswer{Region: region, Code: cut(code, 64), Reason: cut(reason, 1024), At: at}
}

// declinedOr tells a committed refusal from the lack of an answer. Only what
// the other region cannot have accepted counts as one: a body that it refused
// because the room was lost, or before it looked. Everything else leaves the
// job with that region until it says what became of it.
func declinedOr(err error, region placement.RegionID, now time.Time) error {
	var problem *api.Problem
	if !errors.As(err, &problem) {
		return err
	}
	lost := strings.HasPrefix(problem.Code, "reservation.") && problem.Code != "reservation.spent"
	unlawful := strings.HasPrefix(problem.Code, "residency.") || strings.HasPrefix(problem.Code, "tag.") || residency.UnknownCode(problem.Code)
	// The region gave the room back before it said this: see takeForwarded.
	full := problem.Code == api.CodeQueueFull || strings.HasPrefix(problem.Code, "quota.")
	if lost || unlawful || full {
		return &controller.Declined{Answer: answerOf(region, problem.Code, problem.Detail, now)}
	}
	return err
}

// Changes are our jobs there that changed after index.
func (r *regions) Changes(ctx context.Context, region placement.RegionID, after uint64) (jobs []controller.Theirs, next uint64, err error) {
	err = r.each(ctx, region, func(ctx context.Context, p transport.Peer) error {
		answer, err := r.n.mesh.JobChanges(ctx, p, after, changesWait)
		if err != nil {
			return err
		}
		jobs, next = jobs[:0], answer.Index
		for _, s := range answer.Jobs {
			jobs = append(jobs, told(s))
		}
		for _, l := range answer.Landed {
			jobs = append(jobs, controller.Theirs{Leaf: l.Leaf, Job: placement.Job{ID: l.Job, Grant: l.Grant}})
		}
		return nil
	})
	return jobs, next, err
}

// told is a job as far as another region tells of it.
func told(s api.ForeignStatus) controller.Theirs {
	return controller.Theirs{Leaf: s.Leaf, Job: placement.Job{ID: s.Job, Status: s.Status, Reason: s.Reason, ExitCode: s.ExitCode,
		StartedAt: s.StartedAt, EndedAt: s.EndedAt, Index: s.Index}}
}

// Look asks for one of our jobs there. The region reads it with its quorum, so
// that a node which lags cannot say that there is none.
func (r *regions) Look(ctx context.Context, region placement.RegionID, id placement.JobID) (job *controller.Theirs, err error) {
	err = r.each(ctx, region, func(ctx context.Context, p transport.Peer) error {
		job = nil
		s, err := r.n.mesh.JobStatus(ctx, p, id, 0, 0)
		var problem *api.Problem
		if errors.As(err, &problem) && problem.Code == api.CodeNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		known := told(*s)
		job = &known
		return nil
	})
	return job, err
}

// changesWait is how long a region may hold a question for news.
const changesWait = 2 * time.Second

// Stop ends one of our jobs there.
func (r *regions) Stop(ctx context.Context, region placement.RegionID, job placement.JobID, _ string) error {
	return r.each(ctx, region, func(ctx context.Context, p transport.Peer) error {
		_, err := r.n.mesh.Stop(ctx, p, job)
		return err
	})
}

// each tries the region's doors until one answers. Everything asked here may
// be asked twice: reservations and jobs have keys.
func (r *regions) each(ctx context.Context, region placement.RegionID, ask func(context.Context, transport.Peer) error) error {
	errs := []error{controller.ErrNoContact}
	for _, p := range r.n.links.peersOf(region) {
		err := ask(ctx, p)
		var declined *controller.Declined
		if err == nil || errors.As(err, &declined) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.Addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// apiLinks and gatewayPeers are the links as the API and the gateway read them.
type apiLinks struct{ l *links }

func (a apiLinks) Region(region placement.RegionID) api.Link {
	k, _ := a.l.get(region)
	return api.Link{Up: k.up, Since: k.since, RTT: k.rtt, Summary: k.summary}
}

type gatewayPeers struct{ l *links }

func (g gatewayPeers) Models(region placement.RegionID) []string {
	if k, ok := g.l.get(region); ok && k.summary != nil {
		return k.summary.Models
	}
	return nil
}

func (g gatewayPeers) Doors(region placement.RegionID) []transport.Peer { return g.l.peersOf(region) }

func (g gatewayPeers) Link(region placement.RegionID) gateway.Link {
	k, _ := g.l.get(region)
	return gateway.Link{Up: k.up, RTT: k.rtt}
}
