package evidence

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// A run of segments holds the receipts behind the leaves of kind
// receipt.segment, in the leaves' order:
//
//	index of the segment's leaf   8 bytes, big endian
//	number of receipts            4 bytes
//	each receipt                  a length of 2 bytes, and so many
//
// A receipt is what its leaf in the segment's tree hashes (RFC 6962); its
// meaning is package node/receipts' to read. Here it counts that the root over
// all of them and their number are those that the ledger's leaf shows.

// maxReceipts bounds the receipts of one segment: what the ledger accepts.
const maxReceipts = 1 << 20

// AppendSegment adds a segment to a run.
func AppendSegment(run []byte, leaf uint64, receipts [][]byte) []byte {
	run = binary.BigEndian.AppendUint64(run, leaf)
	run = binary.BigEndian.AppendUint32(run, uint32(len(receipts)))
	for _, r := range receipts {
		run = AppendEntry(run, r)
	}
	return run
}

// parseSegments reads a run of segments and nothing else.
func parseSegments(data []byte, each func(leaf uint64, receipts [][]byte) error) error {
	short := fmt.Errorf("%w: a run of inference receipts is cut short", ErrArchive)
	for len(data) > 0 {
		if len(data) < 12 {
			return short
		}
		leaf, n := binary.BigEndian.Uint64(data), binary.BigEndian.Uint32(data[8:])
		data = data[12:]
		if n > maxReceipts || uint64(len(data)) < 2*uint64(n) {
			return short
		}
		receipts := make([][]byte, 0, n)
		for range n {
			if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
				return short
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			receipts = append(receipts, data[2:end])
			data = data[end:]
		}
		if err := each(leaf, receipts); err != nil {
			return err
		}
	}
	return nil
}

// segmentLeaf is what a leaf shows of its segment.
type segmentLeaf struct {
	leaf  uint64
	count uint64
	root  string // hex
}

// segments are a region's, with the receipts that the pack has of them.
type segments struct {
	leaves []segmentLeaf // rising
	next   int           // the first that receipts were not seen of
	held   int
}

// note takes a leaf of a segment.
func (s *segments) note(index uint64, l *ledger.Leaf) {
	count, _ := strconv.ParseUint(l.Get(ledger.ShownCount), 10, 63)
	s.leaves = append(s.leaves, segmentLeaf{index, count, l.Get(ledger.ShownRoot)})
}

// takeSegment holds receipts against the leaf that commits to them.
func (r *regionReader) takeSegment(leaf uint64, receipts [][]byte) error {
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
		return fmt.Errorf("%w: receipts of region %s are for leaf %d, which is no segment of this pack, or come twice", ErrArchive, r.desc.Name, leaf)
	}
	s.next, s.held = at+1, s.held+1
	want := s.leaves[at]
	if uint64(len(receipts)) != want.count {
		r.v.f.fail(Integrity, "region %s: leaf %d is a segment of %d receipts, and %d are here", r.desc.Name, leaf, want.count, len(receipts))
	}
	tree := ledger.NewTree()
	for _, one := range receipts {
		tree.Append(one)
	}
	if root := tree.Root(); hex.EncodeToString(root[:]) != want.root {
		r.v.f.fail(Integrity, "region %s: the receipts of leaf %d are not those that it commits to: one was changed, left out or moved", r.desc.Name, leaf)
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
	if r.partial == nil && (known && (seq != last.seq+1 || l.Get(ledger.ShownPrev) != last.root) || !known && r.desc.First == 0 && seq != 1) {
		r.v.f.fail(Completeness, "region %s: leaf %d is segment %d of chain %s and follows segment %d: what is between is missing", r.desc.Name, index, seq, id, last.seq)
	}
	r.chains[id] = chain{seq, l.Get(ledger.ShownRoot)}
}
