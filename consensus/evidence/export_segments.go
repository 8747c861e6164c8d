package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// segmentAt is where a segment of receipts stands.
type segmentAt struct {
	leaf, seq, count uint64
	chain            string
	root             ledger.Hash
}

// segment notes a leaf that commits to receipts.
func (x *export) segment(index uint64, l *ledger.Leaf) {
	if x.Segments == nil || l.Kind != kindSegment || !l.Accepted() {
		return
	}
	s := segmentAt{leaf: index, chain: l.Get(ledger.ShownChain)}
	s.seq, _ = strconv.ParseUint(l.Get(ledger.ShownSegment), 10, 63)
	s.count, _ = strconv.ParseUint(l.Get(ledger.ShownCount), 10, 63)
	if s.count == 0 {
		return
	}
	if raw, err := hex.DecodeString(l.Get(ledger.ShownRoot)); err == nil {
		copy(s.root[:], raw)
	}
	x.inside = append(x.inside, s)
}

// segments makes files of the receipts that the filter selects, and notes which
// could not be had. The receipts of one file are in memory at a time: they are
// asked for once to be hashed, and again when their file is written.
func (x *export) segments(ctx context.Context) (runs []planned, err error) {
	var data []byte
	var part []segmentAt
	cut := func() {
		if len(part) > 0 {
			mine := part
			runs = append(runs, planned{runName(x.Region, dirSegments, len(runs)), sha256.Sum256(data), func() ([]byte, error) { return x.segmentRun(ctx, mine) }})
		}
		data, part = data[:0], nil
	}
	for _, s := range x.inside {
		kept, err := x.receiptsOf(ctx, s)
		var absent *AbsentError
		switch {
		case errors.As(err, &absent):
			x.lacks(s, absent.Why)
			continue
		case err != nil:
			return nil, err
		case kept == nil:
			continue
		}
		before := len(data)
		data = AppendSegment(data, s.leaf, kept)
		if len(data) > MaxFile && before == 0 {
			data = data[:0]
			x.lacks(s, AbsentDamaged) // no keeper fills one so
			continue
		}
		if before > 0 && len(data) > RunSize {
			data = data[:before]
			cut()
			data = AppendSegment(data, s.leaf, kept)
		}
		part = append(part, s)
	}
	cut()
	return runs, nil
}

// receiptsOf gives a segment if it is what the leaf commits to.
func (x *export) receiptsOf(ctx context.Context, s segmentAt) ([]receipt.Kept, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	kept, err := x.Segments(ctx, s.chain, s.seq)
	if err != nil || kept == nil {
		return nil, err
	}
	if uint64(len(kept)) != s.count || receipt.RootOfKept(kept) != s.root {
		return nil, &AbsentError{AbsentDamaged}
	}
	return kept, nil
}

func (x *export) segmentRun(ctx context.Context, part []segmentAt) (out []byte, err error) {
	for _, s := range part {
		kept, err := x.receiptsOf(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("segment %d of chain %s, which was here a moment ago: %w", s.seq, s.chain, err)
		}
		out = AppendSegment(out, s.leaf, kept)
	}
	return out, nil
}

// lacks notes a segment that could not be had.
func (x *export) lacks(s segmentAt, why string) {
	i := slices.IndexFunc(x.absent, func(a Absent) bool { return a.Chain == s.chain && a.Why == why })
	if i < 0 {
		i = len(x.absent)
		x.absent = append(x.absent, Absent{Chain: s.chain, Why: why, First: s.leaf})
	}
	x.absent[i].Last = s.leaf
	x.absent[i].Segments++
}
