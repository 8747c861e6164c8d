package evidence

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// Options are how an auditor asks.
type Options struct {
	// MaxAge fails freshness if the last checkpoint is older at Now; zero judges
	// no age.
	MaxAge time.Duration
	Now    time.Time
	// Several: more than one file is read, and what they say of each other is
	// compared. The hashes of all leaves are kept for it, 32 bytes each.
	Several bool
	// Leaf, if set, is given every leaf that was read, Opening every opening, in
	// order; a report is made of them. They keep nothing of what they are given.
	Leaf    func(region string, index uint64, l *ledger.Leaf)
	Opening func(region string, index uint64, command []byte)
}

// Auditor judges evidence: packs and receipts, each by itself, and all of them
// against each other.
type Auditor struct {
	policy *ledger.Policy
	o      Options
	packs  Packs // law packs seen so far, and the one of this program
	files  []*verifier
	// compared: the files were held against each other.
	compared bool
}

// NewAuditor begins. The policy is the only trust anchor; with none, nothing
// says whose evidence this is, and the verdict origin says "self-declared".
func NewAuditor(policy *ledger.Policy, o Options) *Auditor {
	own := residency.Embedded()
	return &Auditor{policy: policy, o: o, packs: Packs{own.Hash(): own}}
}

// Verify judges one file, see [Auditor.Read].
func Verify(policy *ledger.Policy, r io.Reader, o Options) (*Report, error) {
	a := NewAuditor(policy, o)
	if err := a.Read("", r); err != nil {
		return nil, err
	}
	return a.Reports()[0], nil
}

// Read reads one pack or receipt, once, from front to back. It fails only if
// reading itself does, bytes that are neither fail integrity, and with a
// [Misuse] if this is another file without [Options.Several], or one that comes
// after [Auditor.Reports]: it would not be compared. Memory grows with
// the leaves by their hashes alone (32 bytes each) where openings are checked
// against them, and as much again where files or regions are compared.
func (a *Auditor) Read(name string, r io.Reader) error {
	if a.compared || len(a.files) > 0 && !a.o.Several {
		return &Misuse{"another file would not be compared with those before", "say beforehand that there are several, and read all of them before their reports"}
	}
	v := &verifier{name: name, policy: a.policy, o: a.o, f: newFindings(), packs: Packs{}, judged: map[string]error{},
		tables: map[string]map[string][]byte{}, opens: map[string]bool{}, receipted: map[string]bool{}, kind: KindPack}
	in := bufio.NewReaderSize(r, 1<<16)
	head, err := in.Peek(len(proofHeader))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case string(head) == proofHeader:
		err = a.receipt(v, in, KindReceipt, v.receipt)
	case len(head) > 0 && head[0] == '{':
		err = a.receipt(v, in, KindInference, v.document)
	default:
		err = v.pack(in)
	}
	if err != nil && !errors.Is(err, ErrArchive) && !errors.Is(err, ErrReceipt) {
		return err
	}
	if v.whole = err == nil; !v.whole {
		v.f.fail(Integrity, "%v", err)
	}
	for hash, p := range v.packs {
		a.packs[hash] = p
	}
	a.files = append(a.files, v)
	return nil
}

// receipt reads a receipt of either kind. It has no law packs of its own.
func (a *Auditor) receipt(v *verifier, in io.Reader, kind string, judge func([]byte) error) error {
	v.kind = kind
	data, err := io.ReadAll(io.LimitReader(in, MaxReceipt+1))
	if err != nil {
		return err
	}
	v.id = sha256.Sum256(data)
	for hash, p := range a.packs {
		v.packs[hash] = p
	}
	return judge(data)
}

// Reports gives one report for each file, in the order of reading, after all of
// them were compared.
func (a *Auditor) Reports() []*Report {
	if !a.compared {
		a.compared = true
		a.quotes()
		a.twice()
	}
	out := make([]*Report, len(a.files))
	for i, v := range a.files {
		out[i] = v.report()
	}
	return out
}

// regions are all parts of all files.
func (a *Auditor) regions() (all []*regionReader) {
	for _, v := range a.files {
		all = append(all, v.done...)
	}
	return all
}

// quotes compares what regions say of each other's leaves. A quote is of the
// other region's newest log: an index alone does not name one from before a
// recovery, so any log of the region that has this leaf will do.
func (a *Auditor) quotes() {
	all := a.regions()
	for _, r := range all {
		for _, q := range r.quoted {
			seen, same, about := false, false, false
			for _, other := range all {
				if h, ok := other.hashOf(q.index); ok && other.desc.Name == q.region && other.v.desc.Mesh == r.v.desc.Mesh {
					seen = true
					if h == q.hash {
						same, about = true, about || q.landing == (landing{}) || other.landings[q.index] == q.landing
					}
				}
			}
			switch {
			case !seen:
				r.unseen++
			case !same:
				r.v.f.fail(Consistency, "leaf %d of region %s quotes leaf %d of region %s, which is another there", q.at, r.desc.Name, q.index, q.region)
			case !about:
				r.v.f.fail(Consistency, "leaf %d of region %s says that job %s came into region %s by grant %s, and leaf %d there says otherwise", q.at, r.desc.Name, shorten(q.landing.job), q.region, shorten(q.landing.grant), q.index)
			}
		}
	}
}

// twice compares files that have leaves of one log in common.
func (a *Auditor) twice() {
	all := a.regions()
	for i, r := range all {
		for _, other := range all[:i] {
			if other.desc.Origin != r.desc.Origin || other.v == r.v {
				continue
			}
			if at, ok := firstDifference(r, other); ok {
				for _, one := range []*regionReader{r, other} {
					one.v.f.fail(Consistency, "leaf %d of %s is another in %s than in %s: the log was forked", at, r.desc.Origin, called(r.v), called(other.v))
				}
			}
		}
	}
}

func called(v *verifier) string {
	if v.name == "" {
		return "one file"
	}
	return v.name
}

// firstDifference finds the first leaf that both have and that differs. It looks
// at what was read: what a file says of its end is nothing to count to.
func firstDifference(a, b *regionReader) (at uint64, found bool) {
	if a.partial == nil {
		a, b = b, a
	}
	if a.partial != nil {
		for i, x := range a.partial {
			if y, too := b.hashOf(i); too && x != y && (!found || i < at) {
				at, found = i, true
			}
		}
		return at, found
	}
	for i := max(a.desc.First, b.desc.First); ; i++ {
		x, has := a.hashOf(i)
		y, too := b.hashOf(i)
		if !has || !too || x != y {
			return i, has && too
		}
	}
}

// hashOf is the hash of a leaf, as far as it was kept.
func (r *regionReader) hashOf(index uint64) (h ledger.Hash, ok bool) {
	if r.partial != nil {
		h, ok = r.partial[index]
		return h, ok
	}
	if index < r.desc.First || index-r.desc.First >= uint64(len(r.hashes)) {
		return h, false
	}
	return r.hashes[index-r.desc.First], true
}

// count is how many leaves were read.
func (r *regionReader) count() uint64 {
	if r.partial != nil {
		return uint64(len(r.partial))
	}
	return r.out.Leaves
}

// lacks says what this part of the evidence cannot show.
func (r *regionReader) lacks() (all []string) {
	if r.unseen > 0 {
		all = append(all, fmt.Sprintf("the other half of %d crossings of region %s: the other region's leaves are not in this evidence", r.unseen, r.desc.Name))
	}
	if r.unquoted > 0 {
		all = append(all, fmt.Sprintf("that another region let %s go that region %s took: their leaves here quote none of its leaves", plural(uint64(r.unquoted), "crossing"), r.desc.Name))
	}
	if r.v.policy != nil && len(r.v.policy.RootsOf(r.desc.Name)) == 0 {
		all = append(all, fmt.Sprintf("whether the nodes of region %s were its own: the policy has no root certificate of it", r.desc.Name))
	}
	if r.chosen {
		all = append(all, fmt.Sprintf("whether all inference receipts of what was asked for are here: region %s chose them, as their leaves name nobody", r.desc.Name))
	}
	if n := r.admitted.unadmitted; n > 0 && r.partial == nil {
		all = append(all, fmt.Sprintf("that %s of region %s went by the tag that the job came in with: the leaf by which it came in is not here, or is of another law pack", plural(uint64(n), "decision"), r.desc.Name))
	}
	if next := r.later(); next != "" {
		all = append(all, fmt.Sprintf("where the log %s ended: the policy names %s, which took its place, and the pack does not say after how many leaves", r.desc.Origin, next))
	}
	if r.v.desc.Filter.Tenant != "" {
		all = append(all, fmt.Sprintf("whether all openings of the tenant are here: region %s chose them, as leaves name no tenant", r.desc.Name))
	}
	if r.unrecorded > 0 {
		all = append(all, fmt.Sprintf("that %s of region %s were erased, and not left out: the leaf that records it is not in this pack", plural(uint64(r.unrecorded), "opening"), r.desc.Name))
	}
	if n := r.chainless(); n > 0 {
		all = append(all, fmt.Sprintf("who issued %d certificates that leaves of region %s show: a pack has the chain of the node that exported it", n, r.desc.Name))
	}
	if r.rootless > 0 {
		all = append(all, fmt.Sprintf("who issued %d certificates in the part of region %s: the policy has no root of any region", r.rootless, r.desc.Name))
	}
	return all
}
