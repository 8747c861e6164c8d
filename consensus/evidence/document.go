package evidence

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

// commitWithin is how long a receipt may be promised before its segment must
// stand in the ledger: a segment is closed each second.
const commitWithin = 60 * time.Second

// InferenceReceipt is the receipt of one inference request as it was read.
type InferenceReceipt struct {
	ID    string        `json:"id"`
	State receipt.State `json:"state"`
	// Says is what its leaf says; none of a receipt that nobody can show.
	Says *receipt.Says `json:"says,omitempty"`
	Next string        `json:"next,omitempty"`
	// Node is who signed it, as its certificate has it, and At when it was asked
	// for.
	Node string    `json:"node,omitempty"`
	At   time.Time `json:"at,omitzero"`
}

// document judges the receipt of one inference request: its leaf against its
// segment, the segment against the ledger, the ledger's leaf as any receipt.
func (v *verifier) document(data []byte) error {
	d, err := receipt.ParseDocument(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	id, err := receipt.ParseID(d.ID)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	v.answer = &InferenceReceipt{ID: d.ID, State: d.State, Says: d.Says, Next: d.Next}
	var entry []byte
	if d.Ledger != nil && d.Ledger.Proof != "" {
		if entry, err = v.proven(d, id); err != nil {
			return err
		}
	}
	v.beyondDocuments()
	if d.State == receipt.Missing || d.State == receipt.Erased {
		v.nobodys(d)
		return nil
	}
	l, err := d.Check(entry)
	switch {
	case errors.Is(err, receipt.ErrTimes):
		v.f.fail(Time, "%v", err)
	case err != nil:
		v.f.fail(Integrity, "%v", err)
		return nil
	}
	v.promised(d, id)
	v.standing(d, l, entry != nil)
	return nil
}

// proven judges the leaf of the receipt's segment, and gives it.
func (v *verifier) proven(d *receipt.Document, id receipt.ID) ([]byte, error) {
	r, err := ParseReceipt([]byte(d.Ledger.Proof))
	if err != nil {
		return nil, err
	}
	if err := v.receipt([]byte(d.Ledger.Proof)); err != nil {
		return nil, err
	}
	at := v.done[len(v.done)-1]
	if len(r.Leaves) != 1 || r.Leaves[0].Index != d.Ledger.Leaf || at.desc.Name != id.Region {
		return nil, fmt.Errorf("%w: its proof is of other leaves, or of another region's", ErrReceipt)
	}
	leaf, err := ledger.Decode(r.Leaves[0].Entry)
	if err != nil || leaf.Kind != kindSegment || !leaf.Accepted() {
		v.f.fail(Integrity, "region %s: leaf %d is no segment of inference receipts", id.Region, d.Ledger.Leaf)
	}
	return r.Leaves[0].Entry, nil
}

// nobodys is a receipt that its node cannot show.
func (v *verifier) nobodys(d *receipt.Document) {
	if d.State == receipt.Missing {
		v.f.fail(Completeness, "receipt %s is MISSING: its segment was begun, and the node that promised it cannot show it", d.ID)
	} else {
		v.f.lack(Completeness, "receipt %s is erased: the node kept it as long as it keeps receipts, and the ledger has its segment's root alone", d.ID)
	}
	for _, name := range []string{Origin, Integrity, Freshness, Time} {
		v.f.lack(name, "nobody shows the receipt")
	}
}

// standing says how far the receipt has come.
func (v *verifier) standing(d *receipt.Document, l *receipt.Leaf, proven bool) {
	if proven {
		return
	}
	for _, name := range []string{Freshness, Time} {
		v.f.lack(name, "no signed state of the ledger is here that has the receipt's segment")
	}
	asked, last := v.answer.At, l.End
	if last.IsZero() {
		last = l.Start
	}
	switch {
	case d.State == receipt.Committed:
		v.f.lack(Completeness, "receipt %s is committed by leaf %d, and the proof of that was not there yet: ask for it again", d.ID, d.Ledger.Leaf)
	case asked.Sub(last) > commitWithin:
		v.f.fail(Completeness, "receipt %s was promised, and is MISSING from the ledger: the request was of %s, and at %s no segment had it", d.ID, stamp(last), stamp(asked))
	default:
		v.f.lack(Completeness, "receipt %s is promised, and was not committed yet when it was asked for: ask for it again", d.ID)
	}
}

// promised verifies the node's own signature, by the roots that the policy has
// of its region.
func (v *verifier) promised(d *receipt.Document, id receipt.ID) {
	if v.policy == nil {
		return // the verdict says so
	}
	roots := v.policy.RootsOf(id.Region)
	if len(roots) == 0 {
		v.f.fail(Origin, "region %s: the policy has no root certificate of it, so nothing says who promised the receipt", id.Region)
		return
	}
	mesh := ""
	for _, l := range v.policy.Logs() {
		if region, m, ok := ownerOf(l.Key.Name()); ok && region == id.Region {
			mesh = m
		}
	}
	if v.desc != nil {
		mesh = v.desc.Mesh
	}
	own, err := trusting(identity.ID{Region: placement.RegionID(id.Region), Mesh: mesh}, roots)
	if err != nil {
		v.f.fail(Origin, "region %s: %v", id.Region, err)
		return
	}
	who, at, err := d.CheckPromise(own, v.o.Now)
	if err == nil && string(who.Region) != id.Region {
		err = fmt.Errorf("%s is of another region", who)
	}
	if err != nil {
		v.f.fail(Origin, "receipt %s: its node's signature does not count: %v", d.ID, err)
		return
	}
	v.answer.Node, v.answer.At = who.String(), at
}

// trusting is a verifier that knows the roots of one region alone.
func trusting(id identity.ID, roots [][]byte) (*identity.Verifier, error) {
	b := identity.Bundle{TrustDomain: id.TrustDomain()}
	for _, der := range roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		b.Roots = append(b.Roots, root)
	}
	bundles := new(identity.MapBundles)
	bundles.Set(b)
	return &identity.Verifier{Home: id.Region, Mesh: id.Mesh, Bundles: bundles}, nil
}

// beyondDocuments says what the receipt of a request cannot show by its nature.
func (v *verifier) beyondDocuments() {
	v.aside = map[string]string{
		Consistency: "a receipt has one state of the log, which the witnesses signed; that the log only grew is theirs to say, or an evidence pack's",
		Law:         "a receipt names the tag, the law pack and the region; where the model was placed, and that it was lawful, shows in an evidence pack",
	}
}
