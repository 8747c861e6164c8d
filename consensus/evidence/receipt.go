package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// A receipt is a text file: one C2SP tlog-proof (https://c2sp.org/tlog-proof)
// for each leaf, one directly behind the other. Each has the leaf itself as its
// extra data, all have the same checkpoint, byte for byte, and the indexes
// rise. Cut before each line "c2sp.org/tlog-proof@v1" it is a number of ordinary
// tlog-proofs that foreign tools read.
const (
	proofHeader = "c2sp.org/tlog-proof@v1\n"
	// MaxReceipt is the largest receipt that is read, in bytes; MaxReceiptLeaves
	// is how many leaves one has.
	MaxReceipt       = 16 << 20
	MaxReceiptLeaves = 256
)

// ErrReceipt is what every error about the form of a receipt wraps.
var ErrReceipt = errors.New("not a receipt")

// Receipt says that leaves stand in a log. Nothing in it is checked; [Verify]
// does that.
type Receipt struct {
	Checkpoint *ledger.SignedCheckpoint
	Leaves     []ReceiptLeaf // in rising order
}

// ReceiptLeaf is a leaf with its way to the root of the checkpoint.
type ReceiptLeaf struct {
	Index  uint64
	Entry  []byte // the encoded leaf
	Hashes []ledger.Hash
}

// Encode writes the receipt in its one form, and refuses what would not be read.
func (r *Receipt) Encode() ([]byte, error) {
	if len(r.Leaves) == 0 || len(r.Leaves) > MaxReceiptLeaves {
		return nil, fmt.Errorf("a receipt has 1 to %d leaves, not %d", MaxReceiptLeaves, len(r.Leaves))
	}
	var out []byte
	for i, l := range r.Leaves {
		if i > 0 && l.Index <= r.Leaves[i-1].Index {
			return nil, fmt.Errorf("leaf %d of a receipt stands behind leaf %d", l.Index, r.Leaves[i-1].Index)
		}
		if len(l.Entry) == 0 {
			return nil, fmt.Errorf("leaf %d of a receipt is empty", l.Index)
		}
		p := ledger.Proof{Extra: l.Entry, Index: l.Index, Hashes: l.Hashes, Checkpoint: r.Checkpoint}
		data, err := p.Encode()
		if err != nil {
			return nil, err
		}
		out = append(out, data...)
	}
	if len(out) > MaxReceipt {
		return nil, fmt.Errorf("a receipt of %d bytes is larger than %d", len(out), MaxReceipt)
	}
	return out, nil
}

// ParseReceipt reads what [Receipt.Encode] writes and nothing else. Its errors
// wrap [ErrReceipt].
func ParseReceipt(data []byte) (*Receipt, error) {
	if len(data) > MaxReceipt {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrReceipt, len(data), MaxReceipt)
	}
	var out Receipt
	var note []byte
	for i, doc := range proofsOf(data) {
		p, err := ledger.ParseProof(doc)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: part %d: %v", ErrReceipt, i+1, err)
		case len(p.Extra) == 0:
			return nil, fmt.Errorf("%w: part %d has no leaf as its extra data", ErrReceipt, i+1)
		case i > 0 && p.Index <= out.Leaves[i-1].Index:
			return nil, fmt.Errorf("%w: leaf %d stands behind leaf %d", ErrReceipt, p.Index, out.Leaves[i-1].Index)
		case i == 0:
			out.Checkpoint, note = p.Checkpoint, p.Checkpoint.Encode()
		case !bytes.Equal(note, p.Checkpoint.Encode()):
			return nil, fmt.Errorf("%w: part %d has another checkpoint than the first", ErrReceipt, i+1)
		}
		out.Leaves = append(out.Leaves, ReceiptLeaf{Index: p.Index, Entry: p.Extra, Hashes: p.Hashes})
	}
	if len(out.Leaves) == 0 || len(out.Leaves) > MaxReceiptLeaves {
		return nil, fmt.Errorf("%w: it has %d leaves, and 1 to %d belong there", ErrReceipt, len(out.Leaves), MaxReceiptLeaves)
	}
	return &out, nil
}

// proofsOf cuts a receipt where its proofs begin. What stands before the first
// is a part as well, and no proof.
func proofsOf(data []byte) (parts [][]byte) {
	for len(data) > 0 && len(parts) <= MaxReceiptLeaves {
		end := len(data)
		if i := bytes.Index(data[1:], []byte("\n"+proofHeader)); i >= 0 {
			end = i + 2
		}
		parts = append(parts, data[:end:end])
		data = data[end:]
	}
	return parts
}

// receipt judges one receipt.
func (v *verifier) receipt(data []byte) error {
	r, err := ParseReceipt(data)
	if err != nil {
		return err
	}
	c := r.Checkpoint.Unverified()
	region, mesh, ok := ownerOf(c.Origin)
	if !ok {
		return fmt.Errorf("%w: %q is no log of a region", ErrReceipt, shorten(c.Origin))
	}
	last := r.Leaves[len(r.Leaves)-1].Index
	v.desc = &Description{Version: 1, Mesh: mesh, Regions: []Region{{Name: region, Origin: c.Origin, First: r.Leaves[0].Index, End: last + 1}}}
	v.loadPacks()
	at := newRegionReader(v, v.desc.Regions[0])
	v.at = at
	v.done = append(v.done, at)
	at.partial = map[uint64]ledger.Hash{}
	s := seal{size: c.Size, root: c.Root, note: r.Checkpoint.Encode()}
	if v.policy != nil {
		at.named(&s, r.Checkpoint.Signatures())
		at.signed(&s)
	}
	at.seals = []seal{s}
	for _, l := range r.Leaves {
		v.receiptLeaf(at, &s, l)
	}
	at.out.Checkpoints, at.out.Size, at.out.Leaves = 1, c.Size, uint64(len(r.Leaves))
	v.fresh(at, &s)
	v.beyondReceipts()
	return nil
}

func (v *verifier) receiptLeaf(at *regionReader, s *seal, l ReceiptLeaf) {
	name := at.desc.Name
	switch {
	case l.Index >= s.size:
		v.f.fail(Freshness, "region %s: leaf %d is newer than the receipt's checkpoint, which covers %d leaves", name, l.Index, s.size)
	case !included(s, l):
		v.f.fail(Integrity, "region %s: leaf %d is not what stands there in the log: leaf, index, proof or checkpoint was changed", name, l.Index)
	}
	at.partial[l.Index] = ledger.HashLeaf(l.Entry)
	leaf, err := ledger.Decode(l.Entry)
	if err != nil {
		v.f.fail(Integrity, "region %s: leaf %d: %v", name, l.Index, err)
		return
	}
	at.judge(l.Index, leaf)
	if v.o.Leaf != nil {
		v.o.Leaf(name, l.Index, leaf)
	}
}

// beyondReceipts says what a receipt cannot show by its nature. These verdicts
// do not count for it.
func (v *verifier) beyondReceipts() {
	v.aside = map[string]string{
		Consistency:  "a receipt has one state of the log, which the witnesses signed; that the log only grew is theirs to say, or an evidence pack's",
		Completeness: "a receipt shows its own leaves; whether others were left out shows in an evidence pack",
	}
}

// ownerOf reads "<region>.<mesh>/ledger[/n]".
func ownerOf(origin string) (region, mesh string, ok bool) {
	host, path, _ := strings.Cut(origin, "/")
	region, mesh, ok = strings.Cut(host, ".")
	if path != "ledger" && !strings.HasPrefix(path, "ledger/") || mesh == "" || !validName(region) {
		return "", "", false
	}
	return region, mesh, ok
}

// included asks whether the leaf stands in the tree of the seal.
func included(s *seal, l ReceiptLeaf) bool {
	hashes := make([][]byte, len(l.Hashes))
	for i := range l.Hashes {
		hashes[i] = l.Hashes[i][:]
	}
	hash := ledger.HashLeaf(l.Entry)
	return proof.VerifyInclusion(rfc6962.DefaultHasher, l.Index, s.size, hash[:], hashes, s.root[:]) == nil
}
