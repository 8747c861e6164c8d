package evidence

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// end judges the region as a whole.
func (r *regionReader) end() error {
	if r.tree == nil {
		return fmt.Errorf("%w: region %s has no %s", ErrArchive, r.desc.Name, fileEdge)
	}
	r.endOpenings()
	if r.tree.Size() != r.desc.End {
		r.v.f.fail(Completeness, "region %s: %d leaves are here, of %d to %d: the end is missing", r.desc.Name, r.tree.Size()-r.desc.First, r.desc.First, r.desc.End)
	}
	if r.desc.First > 0 && r.out.Leaves == 0 {
		// Whatever time it is said to be of, no leaf shows that it is.
		r.v.f.fail(Completeness, "region %s: no leaf is here, so nothing shows that none of the time is left out", r.desc.Name)
	}
	if from := r.v.desc.Filter.From; r.desc.First > 0 && r.out.FirstAt.After(from.Add(-2*maxSkew)) {
		// A leaf before the first may have a time as late as this.
		r.v.f.fail(Completeness, "region %s: the pack is said to begin at %s, and its first leaf is of %s, too late to be sure that none is left out", r.desc.Name, stamp(from), stamp(r.out.FirstAt))
	}
	r.endSegments()
	r.endBundles()
	r.endCertificates()
	return r.endSeals()
}

// endOpenings asks whether what the filter asks for is here, or is said to be
// erased. That it is so is the pack's own word, unless a leaf here records it.
func (r *regionReader) endOpenings() {
	for _, leaf := range r.desc.Erased {
		if leaf < r.desc.First || leaf >= r.desc.End {
			r.v.f.fail(Completeness, "region %s: leaf %d is said to be erased, and is not of this pack", r.desc.Name, leaf)
		}
		if !r.gone[leaf] {
			r.unrecorded++
		}
		delete(r.unopened, leaf)
	}
	if n := len(r.unopened); n > 0 {
		first := slices.Min(slices.Collect(maps.Keys(r.unopened)))
		r.v.f.lack(Completeness, "region %s: the openings of %s that the pack was asked for are not here, nor said to be erased; the first is of leaf %d: export from another node", r.desc.Name, plural(uint64(n), "leaf"), first)
	}
}

func (r *regionReader) endSeals() error {
	name := r.desc.Name
	if len(r.seals) == 0 {
		r.v.f.fail(Freshness, "region %s: no checkpoint is here", name)
		r.v.f.lack(Time, "region %s: no witness speaks of time", name)
		return nil
	}
	last := &r.seals[len(r.seals)-1]
	r.out.Checkpoints, r.out.Size = len(r.seals), last.size
	if last.size < r.desc.End {
		r.v.f.fail(Freshness, "region %s: the last checkpoint covers %d leaves of %d", name, last.size, r.desc.End)
	} else if last.size > r.tree.Size() && !r.tailed {
		r.v.f.fail(Completeness, "region %s: the last checkpoint covers %d leaves, of which the last %d are not here", name, last.size, last.size-r.tree.Size())
	}
	if behind := len(r.seals) - r.passed; behind > 1 || behind == 1 && !r.tailed && r.tree.Size() == r.desc.End {
		r.v.f.fail(Consistency, "region %s: %s beyond the last leaf that nothing connects with it", name, plural(uint64(behind), "checkpoint"))
	}
	r.v.fresh(r, last)
	return nil
}

// fresh asks whether the last state is witnessed as the policy asks.
func (v *verifier) fresh(r *regionReader, last *seal) {
	name := r.desc.Name
	if v.policy == nil {
		v.f.lack(Time, "region %s: without a policy no witness is known", name)
		return
	}
	verified, err := ledger.VerifyCheckpoint(v.policy, last.note)
	if err != nil {
		var refused *ledger.VerifyError
		if errors.As(err, &refused) && refused.Verdict == ledger.NotWitnessed {
			v.f.fail(Consistency, "region %s: %s", name, refused.What)
		}
		v.f.lack(Time, "region %s: no witness speaks of time", name)
		return
	}
	for _, w := range verified.Witnesses() {
		r.out.Witnesses = append(r.out.Witnesses, w.Name)
	}
	r.out.Witnessed = verified.At()
	at := verified.At()
	if at.IsZero() {
		v.f.lack(Time, "region %s: the policy asks for no witness, so nothing speaks of time", name)
		at = r.out.LastAt
	}
	// After the last leaf others follow: it must be late enough that none of them
	// is of the time. Where none follows, the witnesses' time is as good.
	to := v.desc.Filter.To
	enough := !r.out.LastAt.Before(to.Add(2*maxSkew)) || !r.tailed && !at.Before(to)
	if !to.IsZero() && !enough {
		v.f.fail(Freshness, "region %s: the pack is said to reach to %s, and its last checkpoint is of %s", name, stamp(to), stamp(at))
	}
	if age := v.o.Now.Sub(at); v.o.MaxAge > 0 && age > v.o.MaxAge {
		v.f.fail(Freshness, "region %s: the last checkpoint is %s old, more than %s", name, age.Round(time.Second), v.o.MaxAge)
	}
}

func (r *regionReader) report() RegionReport { return r.out }
