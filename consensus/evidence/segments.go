package evidence

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// A run of segments holds the receipts behind the leaves of kind
// receipt.segment, in the leaves' order:
//
//	index of the segment's leaf   8 bytes, big endian
//	number of receipts            4 bytes
//	each receipt                  a length of 2 bytes, and so many; or a length
//	                              of 0, and the 32 bytes of its hash
//
// A receipt is what its leaf in the segment's tree hashes (RFC 6962); of those
// that the filter did not ask for the hash alone is there. That the root over all
// of them and their number are those that the ledger's leaf shows, is judged here.

// maxReceipts bounds the receipts of one segment: what the ledger accepts.
const maxReceipts = 1 << 20

// AppendSegment adds a segment to a run.
func AppendSegment(run []byte, leaf uint64, receipts []receipt.Kept) []byte {
	run = binary.BigEndian.AppendUint64(run, leaf)
	run = binary.BigEndian.AppendUint32(run, uint32(len(receipts)))
	for i := range receipts {
		run = AppendEntry(run, receipts[i].Leaf)
		if len(receipts[i].Leaf) == 0 {
			run = append(run, receipts[i].Hash[:]...)
		}
	}
	return run
}

// ParseSegments reads a run of segments and nothing else. Its errors wrap
// [ErrArchive].
func ParseSegments(data []byte, each func(leaf uint64, receipts []receipt.Kept) error) error {
	short := fmt.Errorf("%w: a run of inference receipts is cut short", ErrArchive)
	for len(data) > 0 {
		if len(data) < 12 {
			return short
		}
		leaf, n := binary.BigEndian.Uint64(data), binary.BigEndian.Uint32(data[8:])
		data = data[12:]
		if n > maxReceipts || uint64(len(data)) < 3*uint64(n) {
			return short
		}
		receipts := make([]receipt.Kept, 0, n)
		for range n {
			if len(data) < 2 {
				return short
			}
			size := int(binary.BigEndian.Uint16(data))
			data = data[2:]
			var one receipt.Kept
			switch {
			case size == 0 && len(data) >= len(one.Hash):
				size = copy(one.Hash[:], data)
			case size > 0 && len(data) >= size:
				one.Leaf = data[:size:size]
				one.Hash = ledger.HashLeaf(one.Leaf)
			default:
				return short
			}
			receipts = append(receipts, one)
			data = data[size:]
		}
		if err := each(leaf, receipts); err != nil {
			return err
		}
	}
	return nil
}

// segmentLeaf is what a leaf shows of its segment.
type segmentLeaf struct {
	leaf, count uint64
	root        ledger.Hash
	from, to    time.Time
	chain       string
}

// segments are a region's, with the receipts that the pack has of them.
type segments struct {
	leaves []segmentLeaf // with receipts, rising; kept where receipts are here
	next   int           // the first that receipts were not seen of
	shown  int           // receipts that are here with their leaf
	hidden int           // those of which the hash alone is here
	// absent are segments with receipts, of chains, that are not here.
	absent map[string]*Absent
}

func (s *segments) lack(chain string, leaf uint64) {
	a := s.absent[chain]
	if a == nil {
		a = &Absent{Chain: chain, First: leaf}
		s.absent[chain] = a
	}
	a.Last = leaf
	a.Segments++
}

// note takes the leaf of a segment; kept says that receipts are in the pack.
func (s *segments) note(index uint64, l *ledger.Leaf, kept bool) {
	count, _ := strconv.ParseUint(l.Get(ledger.ShownCount), 10, 63)
	chain := l.Get(ledger.ShownChain)
	switch {
	case count == 0:
		return
	case !kept:
		s.lack(chain, index)
		return
	}
	one := segmentLeaf{leaf: index, count: count, chain: chain}
	if raw, err := hex.DecodeString(l.Get(ledger.ShownRoot)); err == nil {
		copy(one.root[:], raw)
	}
	one.from, _ = time.Parse(time.RFC3339Nano, l.Get(ledger.ShownFrom))
	one.to, _ = time.Parse(time.RFC3339Nano, l.Get(ledger.ShownTo))
	if n := len(s.leaves); n > 0 && s.leaves[n-1].chain == chain {
		one.chain = s.leaves[n-1].chain // one string for all
	}
	s.leaves = append(s.leaves, one)
}

// takeSegment holds receipts against the leaf that commits to them.
func (r *regionReader) takeSegment(leaf uint64, receipts []receipt.Kept) error {
	s := &r.segments
	at, found := slices.BinarySearchFunc(s.leaves, leaf, func(l segmentLeaf, leaf uint64) int {
		switch {
		case l.leaf < leaf:
			return -1
		case l.leaf > leaf:
			return 1
		}
		return 0
	})
	if !found || at < s.next {
		r.v.f.fail(Integrity, "region %s: receipts are here for leaf %d, which is no segment of this pack, or they come twice", r.desc.Name, leaf)
		return nil
	}
	for _, skipped := range s.leaves[s.next:at] {
		s.lack(skipped.chain, skipped.leaf)
	}
	s.next = at + 1
	want := s.leaves[at]
	if uint64(len(receipts)) != want.count {
		r.v.f.fail(Integrity, "region %s: leaf %d is a segment of %d receipts, and %d are here", r.desc.Name, leaf, want.count, len(receipts))
	}
	if receipt.RootOfKept(receipts) != want.root {
		r.v.f.fail(Integrity, "region %s: the receipts of leaf %d are not those that it commits to: one was changed, left out or moved", r.desc.Name, leaf)
	}
	for i := range receipts {
		r.judgeReceipt(&want, i, receipts[i].Leaf)
	}
	return nil
}

// judgeSegment follows the chain of a node's inference receipts.
func (r *regionReader) judgeSegment(index uint64, l *ledger.Leaf) {
	id := l.Get(ledger.ShownChain)
	seq, err := strconv.ParseUint(l.Get(ledger.ShownSegment), 10, 63)
	if err != nil || id == "" {
		r.v.f.fail(Integrity, "region %s: leaf %d is a segment without a number", r.desc.Name, index)
		return
	}
	count, _ := strconv.ParseUint(l.Get(ledger.ShownCount), 10, 63)
	dropped, _ := strconv.ParseUint(l.Get(ledger.ShownDropped), 10, 63)
	r.out.Segments++
	r.out.Requests += count
	r.out.Dropped += dropped
	last, known := r.chains[id]
	if r.partial == nil && (known && (seq != last.seq+1 || l.Get(ledger.ShownPrev) != last.root) || !known && r.fromTheBeginning() && seq != 1) {
		r.v.f.fail(Completeness, "region %s: leaf %d is segment %d of chain %s and follows segment %d: what is between is missing", r.desc.Name, index, seq, id, last.seq)
	}
	r.chains[id] = chain{seq, l.Get(ledger.ShownRoot)}
}

// judgeReceipt reads one receipt; its hash is judged with its segment.
func (r *regionReader) judgeReceipt(at *segmentLeaf, index int, data []byte) {
	if data == nil {
		r.segments.hidden++
		return
	}
	r.segments.shown++
	l, err := receipt.Decode(data)
	switch {
	case err != nil:
		r.v.f.fail(Integrity, "region %s: receipt %d of leaf %d: %v", r.desc.Name, index, at.leaf, err)
	case l.Outcome != receipt.Lost && (l.Start.Before(at.from) || l.Start.After(at.to) || l.End.After(at.to)):
		r.v.f.fail(Time, "region %s: receipt %d of leaf %d is of %s to %s, not of the time of its segment", r.desc.Name, index, at.leaf, stamp(l.Start), stamp(l.End))
	}
}

// endSegments says which receipts are not here. Without a filter all belong
// here; with one the region chose them, and what it names as absent is believed.
func (r *regionReader) endSegments() {
	s := &r.segments
	for _, left := range s.leaves[s.next:] {
		s.lack(left.chain, left.leaf)
	}
	r.out.Receipts = s.shown
	why := map[string]string{}
	for _, a := range r.desc.Absent {
		if a.First > a.Last || a.First < r.desc.First || a.Last >= r.desc.End || absences()[a.Why] == "" {
			r.v.f.fail(Completeness, "region %s: receipts of leaves %d to %d are said to be absent, and these are not of this pack", r.desc.Name, a.First, a.Last)
			continue
		}
		if why[a.Chain] != "" {
			why[a.Chain] += "; "
		}
		why[a.Chain] += absences()[a.Why] + " (the pack's own word)"
	}
	if r.partial != nil {
		return
	}
	if r.v.desc.Filter.Job == "" && r.v.desc.Filter.Tenant == "" {
		for _, chain := range sorted(s.absent) {
			r.notShown(s.absent[chain], why[chain])
		}
		return
	}
	for _, a := range r.desc.Absent {
		r.notShown(&a, why[a.Chain])
	}
	r.chosen = r.out.Segments > 0
}

func (r *regionReader) notShown(a *Absent, why string) {
	if why == "" {
		why = "the pack does not say why"
	}
	r.out.Absent += a.Segments
	r.v.f.lack(Completeness, "region %s: the inference receipts of %s of chain %s, leaves %d to %d, are not here: %s", r.desc.Name, plural(a.Segments, "segment"), shorten(a.Chain), a.First, a.Last, why)
}
