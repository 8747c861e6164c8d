package receipts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Found is a receipt as it is kept.
type Found struct {
	ID    string
	State receipt.State
	Owner string // the tenant
	Leaf  []byte
	Key   ledger.Salt // opens the commitments
	Next  string      // the receipt that continues it
	Seq   uint64
	Index uint64
	// Of a closed segment: its root, and the way to it.
	Count uint64
	Root  ledger.Hash
	Path  []ledger.Hash
	// LedgerLeaf is the segment's leaf; only with Known.
	LedgerLeaf uint64
	Known      bool
}

// Document writes down what was found, but the node's signature and the proof of
// the ledger.
func (f *Found) Document() (*receipt.Document, error) {
	d := &receipt.Document{ID: f.ID, State: f.State, Leaf: f.Leaf, Next: f.Next}
	if f.Known {
		d.Ledger = &receipt.LedgerProof{Leaf: f.LedgerLeaf}
	}
	if f.Leaf == nil {
		return d, nil
	}
	d.Key = f.Key[:]
	l, err := receipt.Decode(f.Leaf)
	if err != nil {
		return nil, err
	}
	d.Says = l.Words()
	if f.Path != nil || f.Count == 1 {
		d.Prove(f.Seq, f.Index, f.Count, f.Root, f.Path)
	}
	return d, nil
}

// ErrElsewhere is the answer about a receipt of another node.
var ErrElsewhere = errors.New("another node keeps this receipt")

// ErrNever is the answer about a receipt that no segment ever began.
var ErrNever = errors.New("no such receipt was ever promised")

// Find looks a receipt up, from what is open or from its segment's file.
func (k *Keeper) Find(text string) (*Found, error) {
	id, err := receipt.ParseID(text)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	chain, cur := k.chain, k.cur
	elsewhere := id.Region != string(k.cfg.Region) || id.Chain != chain
	var open *Found
	if !elsewhere && cur != nil && cur.seq == id.Seq && id.Index < uint64(len(cur.slots)) {
		s := cur.slots[id.Index]
		open = &Found{ID: text, State: receipt.Promised, Owner: s.owner, Leaf: s.leaf, Key: s.key, Seq: id.Seq, Index: id.Index}
	}
	never := cur != nil && (id.Seq > cur.seq || id.Seq == cur.seq && open == nil)
	k.mu.Unlock()
	switch {
	case elsewhere:
		return nil, ErrElsewhere
	case open != nil:
		return open, nil
	case never:
		return nil, ErrNever
	}
	return k.findClosed(text, id)
}

func (k *Keeper) findClosed(text string, id receipt.ID) (*Found, error) {
	out := &Found{ID: text, State: receipt.Missing, Seq: id.Seq, Index: id.Index}
	c, err := readFile(k.cfg.Dir, id.Seq)
	if errors.Is(err, fs.ErrNotExist) {
		files, err := listFiles(k.cfg.Dir)
		switch {
		case err != nil:
			return nil, err
		case len(files) > 0 && id.Seq < files[0]:
			out.State = receipt.Erased
		case len(files) == 0 || id.Seq > files[len(files)-1]:
			return nil, ErrNever
		}
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	if c.leaf != nil {
		out.LedgerLeaf, out.Known = *c.leaf, true
	}
	leaves, _ := c.leaves()
	if c.closed != nil && !c.closed.recovered && id.Index >= c.closed.count {
		return nil, ErrNever // the segment was closed in order, without it
	}
	if id.Index >= uint64(len(leaves)) || c.slots[id.Index].leaf == nil {
		return out, nil
	}
	s := c.slots[id.Index]
	out.State, out.Owner, out.Leaf, out.Key, out.Next = receipt.Promised, s.owner, s.leaf, s.key, s.next
	if c.closed == nil {
		return out, nil
	}
	hashes := receipt.HashesOf(leaves)
	out.Count, out.Root, out.Path = uint64(len(leaves)), receipt.RootOf(hashes), receipt.Path(hashes, int(id.Index))
	if out.Root != c.closed.root {
		return nil, fmt.Errorf("%s: what it holds is not what was committed: the file was changed", fileName(id.Seq))
	}
	if out.Known {
		out.State = receipt.Committed
	}
	return out, nil
}

// Segment gives the receipts of a closed segment, in their order, for an evidence
// pack: with their leaf those that wanted takes, of others the hash alone; nil if
// it takes none. Keys and owners stay here. fs.ErrNotExist is one that was
// erased, or never was.
func (k *Keeper) Segment(seq uint64, wanted func(owner string, l *receipt.Leaf) bool) ([]receipt.Kept, error) {
	c, err := readFile(k.cfg.Dir, seq)
	if err != nil {
		return nil, err
	}
	if c.closed == nil {
		return nil, fmt.Errorf("segment %d is not closed: %w", seq, fs.ErrNotExist)
	}
	leaves, _ := c.leaves()
	out, some := make([]receipt.Kept, len(leaves)), false
	for i, data := range leaves {
		out[i].Hash = ledger.HashLeaf(data)
		l, err := receipt.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fileName(seq), err)
		}
		if wanted == nil || wanted(c.slots[i].owner, l) {
			out[i].Leaf, some = data, true
		}
	}
	if receipt.RootOfKept(out) != c.closed.root {
		return nil, fmt.Errorf("%s: what it holds is not what was committed: the file was changed", fileName(seq))
	}
	if !some {
		return nil, nil
	}
	return out, nil
}

// Chain is the node's chain as the ledger's leaves name it, empty before the
// first receipt.
func (k *Keeper) Chain() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.chain == "" {
		return ""
	}
	return "h:" + k.chain
}

// sweep erases the oldest committed segments beyond what is to be kept. The
// newest stays: by it the next start knows that nothing was lost.
func (k *Keeper) sweep() {
	files, err := listFiles(k.cfg.Dir)
	if err != nil {
		k.cfg.Logger.Warn("the files of receipts cannot be listed", "err", err)
		return
	}
	k.mu.Lock()
	first := uint64(0) // of those that are not committed yet
	if k.cur != nil {
		first = k.cur.seq
	}
	if len(k.queue) > 0 {
		first = k.queue[0].seq
	}
	k.mu.Unlock()
	var total int64
	for i := len(files) - 1; i >= 0; i-- {
		path := filepath.Join(k.cfg.Dir, fileName(files[i]))
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		total += info.Size()
		old := k.cfg.KeepFor > 0 && k.cfg.Now().Sub(info.ModTime()) > k.cfg.KeepFor || k.cfg.KeepBytes > 0 && total > k.cfg.KeepBytes
		if !old || i == len(files)-1 || first > 0 && files[i] >= first-1 {
			continue
		}
		if err := os.Remove(path); err != nil {
			k.cfg.Logger.Warn("an old file of receipts stays", "err", err)
		}
	}
}
