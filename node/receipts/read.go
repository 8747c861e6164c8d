package receipts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// State is where a receipt stands.
type State string

// The states. Missing is a receipt that a segment in the ledger should have and
// nobody can show; an erased one was kept for as long as the node keeps them.
const (
	Promised  State = "promised"
	Committed State = "committed"
	Missing   State = "missing"
	Erased    State = "erased"
)

// Found is a receipt as it is kept.
type Found struct {
	ID    string
	State State
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

// ID is a receipt's id in parts.
type ID struct {
	Region, Chain string
	Seq, Index    uint64
}

// ParseID reads "<region>.<chain>.<segment>.<index>" in its one form.
func ParseID(s string) (ID, error) {
	words := strings.Split(s, ".")
	if len(s) > 160 || len(words) != 4 || words[0] == "" || words[1] == "" {
		return ID{}, fmt.Errorf("%.160q is no receipt: <region>.<chain>.<segment>.<index>", s)
	}
	seq, err := strconv.ParseUint(words[2], 10, 63)
	index, err2 := strconv.ParseUint(words[3], 10, 32)
	out := ID{words[0], words[1], seq, index}
	if err != nil || err2 != nil || out.String() != s {
		return ID{}, fmt.Errorf("%.160q is no receipt: <region>.<chain>.<segment>.<index>", s)
	}
	return out, nil
}

func (id ID) String() string {
	return fmt.Sprintf("%s.%s.%d.%d", id.Region, id.Chain, id.Seq, id.Index)
}

// ErrElsewhere is the answer about a receipt of another node.
var ErrElsewhere = errors.New("another node keeps this receipt")

// ErrNever is the answer about a receipt of a segment that was not begun.
var ErrNever = errors.New("no such receipt was ever promised")

// Find looks a receipt up, from what is open or from its segment's file.
func (k *Keeper) Find(text string) (*Found, error) {
	id, err := ParseID(text)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	chain, cur := k.chain, k.cur
	elsewhere := id.Region != string(k.cfg.Region) || id.Chain != chain
	var open *Found
	if !elsewhere && cur != nil && cur.seq == id.Seq && id.Index < uint64(len(cur.slots)) {
		s := cur.slots[id.Index]
		open = &Found{ID: text, State: Promised, Owner: s.owner, Leaf: s.leaf, Key: s.key, Seq: id.Seq, Index: id.Index}
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

func (k *Keeper) findClosed(text string, id ID) (*Found, error) {
	out := &Found{ID: text, State: Missing, Seq: id.Seq, Index: id.Index}
	c, err := readFile(k.cfg.Dir, id.Seq)
	if errors.Is(err, fs.ErrNotExist) {
		files, err := listFiles(k.cfg.Dir)
		switch {
		case err != nil:
			return nil, err
		case len(files) > 0 && id.Seq < files[0]:
			out.State = Erased
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
	if id.Index >= uint64(len(leaves)) || c.slots[id.Index].leaf == nil {
		return out, nil
	}
	s := c.slots[id.Index]
	out.State, out.Owner, out.Leaf, out.Key, out.Next = Promised, s.owner, s.leaf, s.key, s.next
	if c.closed == nil {
		return out, nil
	}
	hashes := hashesOf(leaves)
	out.Count, out.Root, out.Path = uint64(len(leaves)), rootOf(hashes), path(hashes, int(id.Index))
	if out.Root != c.closed.root {
		return nil, fmt.Errorf("%s: what it holds is not what was committed: the file was changed", fileName(id.Seq))
	}
	if out.Known {
		out.State = Committed
	}
	return out, nil
}

// Segment gives the leaves of a closed segment, in their order, for an evidence
// pack. Keys and owners stay here. fs.ErrNotExist is one that was erased, or
// never was.
func (k *Keeper) Segment(seq uint64) (leaves [][]byte, err error) {
	c, err := readFile(k.cfg.Dir, seq)
	if err != nil {
		return nil, err
	}
	if c.closed == nil {
		return nil, fmt.Errorf("segment %d is not closed: %w", seq, fs.ErrNotExist)
	}
	leaves, _ = c.leaves()
	if Root(leaves) != c.closed.root {
		return nil, fmt.Errorf("%s: what it holds is not what was committed: the file was changed", fileName(seq))
	}
	return leaves, nil
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
