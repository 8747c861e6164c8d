package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// CargoKind is what a message carries, of the closed list of law 4.
type CargoKind string

// What may cross a border. Nothing else does.
const (
	CargoSummary     CargoKind = "summary"     // RegionSummary, with the front doors, law pack and bundle of its region
	CargoCheckpoint  CargoKind = "checkpoint"  // ledger checkpoints, cosignatures and hash tiles
	CargoBundle      CargoKind = "bundle"      // trust bundles and federation
	CargoCertificate CargoKind = "certificate" // certificates with opaque node ids
	CargoReservation CargoKind = "reservation" // reservations and their answers
	CargoStatus      CargoKind = "status"      // status of one's own forwarded job, region only
	CargoEvidence    CargoKind = "evidence"    // entry bundles, for the role auditor of that region
	CargoJob         CargoKind = "job"         // bytes of a job: body, input, logs, output; under its policy
	CargoInference   CargoKind = "inference"   // a prompt or its answer; under its policy
)

// policed tells, for each kind, whether it goes under a policy.
func (k CargoKind) policed() (needsPolicy, known bool) {
	switch k {
	case CargoJob, CargoInference:
		return true, true
	case CargoSummary, CargoCheckpoint, CargoBundle, CargoCertificate, CargoReservation, CargoStatus, CargoEvidence:
		return false, true
	}
	return false, false
}

// Cargo declares what a message carries and the policy it travels under: the
// effective one, all layers. Only job and inference bytes have a policy.
type Cargo struct {
	Kind   CargoKind
	Policy residency.Policy
	// Options are those of the decision that placed the work: Exporter, Data and
	// Sealed. The day is the guard's own.
	Options residency.Options
	// Use is what the bytes are for there: to be computed on, unless it says that
	// they are an answer or a job's output.
	Use placement.Use
	// Lasting says that it goes on for as long as others like, and may stand still,
	// and Whose it is: a tenant's as a rule. See [Lasting].
	Lasting Lasting
	Whose   string
}

// Guard decides whether cargo may go from the home region to another one. It is
// asked before a connection is opened and again for each message.
type Guard interface {
	PermitEgress(ctx context.Context, from, to placement.RegionID, cargo Cargo) error
}

// Reasons for which the endpoint itself refuses, before any guard.
var (
	ErrNoGuard    = errors.New("this node has no egress guard, so nothing leaves its region")
	ErrCargoKind  = errors.New("it is not on the list of what may cross a border")
	ErrNoPolicy   = errors.New("it declares no policy, and only a policy can permit it")
	ErrWrongClass = errors.New("inference bytes go as inference streams, other cargo does not")
)

// Permit asks the guard about bytes that leave as an answer: what [Endpoint.Do]
// and [Endpoint.OpenInfer] send is asked about by themselves.
func (e *Endpoint) Permit(ctx context.Context, to placement.RegionID, cargo Cargo) error {
	return e.permit(ctx, to, cargo)
}

// permit asks the guard when to is not home. Within the region everything that
// is on the list may travel; the region's own law is checked where it is placed.
func (e *Endpoint) permit(ctx context.Context, to placement.RegionID, cargo Cargo) error {
	if to == e.cfg.Home {
		return nil
	}
	err := judge(ctx, e.cfg.Guard, e.cfg.Home, to, cargo)
	if err != nil {
		e.counts.egressRefused.Add(1)
		e.cfg.Log.Warn("nothing was sent to another region", "region", to, "cargo", cargo.Kind, "err", err)
		return &EgressError{From: e.cfg.Home, To: to, Kind: cargo.Kind, Err: err}
	}
	e.counts.egressPermitted.Add(1)
	return nil
}

func judge(ctx context.Context, g Guard, from, to placement.RegionID, cargo Cargo) error {
	if err := checkCargo(cargo); err != nil {
		return err
	}
	if to == "" {
		return errors.New("the destination names no region")
	}
	if g == nil {
		return ErrNoGuard
	}
	return g.PermitEgress(ctx, from, to, cargo)
}

// checkCargo refuses what no guard could permit.
func checkCargo(c Cargo) error {
	needsPolicy, known := c.Kind.policed()
	if !known {
		return fmt.Errorf("%q: %w", c.Kind, ErrCargoKind)
	}
	if needsPolicy && c.Policy.IsZero() {
		return ErrNoPolicy
	}
	return nil
}
