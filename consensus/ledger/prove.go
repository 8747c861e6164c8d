package ledger

import (
	"context"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Head is what a checkpoint says about a tree.
type Head struct {
	Size uint64
	Root Hash
}

// TileReader gives the bytes of a log's tiles: hashes one after another. For a
// partial tile it may give a wider version of it, the partial one may be gone.
// It is asked only for tiles that a tree of the size in question has.
type TileReader interface {
	ReadTile(ctx context.Context, t Tile) ([]byte, error)
}

// DamageError says that tiles do not have the root that was given for them: one
// of them was changed, or the root is another log's.
type DamageError struct {
	Head Head
	What string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s does not belong to the tree of size %d with root %s: a tile was changed, or the root is another log's", e.What, e.Head.Size, e.Head.Root.Text())
}

// Hint tells the operator how to go on.
func (e *DamageError) Hint() string {
	return "fetch the tiles again from another replica, and compare the checkpoint with what the witnesses hold"
}

// ProveInclusion makes the proof that the tree has its leaf at the index, from
// tiles. The proof is checked against the root before it is returned, so that
// a damaged tile gives a [DamageError] and never a proof that fails elsewhere.
func ProveInclusion(ctx context.Context, r TileReader, head Head, index uint64) ([]Hash, error) {
	if index >= head.Size || head.Size > MaxSize {
		return nil, fmt.Errorf("prove entry %d: the tree has %d", index, head.Size)
	}
	nodes, err := proof.Inclusion(index, head.Size)
	if err != nil {
		return nil, fmt.Errorf("prove entry %d of %d: %w", index, head.Size, err)
	}
	f := fetch{r: r, size: head.Size}
	hashes, err := f.rehash(ctx, nodes)
	if err != nil {
		return nil, fmt.Errorf("prove entry %d of %d: %w", index, head.Size, err)
	}
	leaf, err := f.node(ctx, compact.NewNodeID(0, index))
	if err != nil {
		return nil, fmt.Errorf("prove entry %d of %d: %w", index, head.Size, err)
	}
	if checkInclusion(head, index, leaf, hashes) != nil {
		return nil, &DamageError{head, fmt.Sprintf("the proof of entry %d", index)}
	}
	return hashes, nil
}

// ProveConsistency makes the proof that the newer tree begins with the older,
// from the newer one's tiles. It is checked like that of [ProveInclusion].
func ProveConsistency(ctx context.Context, r TileReader, older, newer Head) ([]Hash, error) {
	if older.Size > newer.Size || newer.Size > MaxSize {
		return nil, fmt.Errorf("prove that a tree of %d extends one of %d: it is the smaller", newer.Size, older.Size)
	}
	nodes, err := proof.Consistency(older.Size, newer.Size)
	if err != nil {
		return nil, fmt.Errorf("prove that a tree of %d extends one of %d: %w", newer.Size, older.Size, err)
	}
	f := fetch{r: r, size: newer.Size}
	hashes, err := f.rehash(ctx, nodes)
	if err != nil {
		return nil, fmt.Errorf("prove that a tree of %d extends one of %d: %w", newer.Size, older.Size, err)
	}
	if checkConsistency(older, newer, hashes) != nil {
		return nil, &DamageError{newer, fmt.Sprintf("the proof from size %d", older.Size)}
	}
	return hashes, nil
}

// checkInclusion is the one place where an inclusion proof is judged.
func checkInclusion(head Head, index uint64, leaf Hash, hashes []Hash) error {
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.Size, leaf[:], slicesOf(hashes), head.Root[:])
}

// checkConsistency is the one place where a consistency proof is judged. From
// the empty tree everything follows, and its root is known.
func checkConsistency(older, newer Head, hashes []Hash) error {
	if older.Size == 0 {
		if empty := NewTree().Root(); older.Root != empty {
			return fmt.Errorf("an empty tree has the root %s, not %s", empty.Text(), older.Root.Text())
		}
		if newer.Size == 0 && newer.Root != older.Root {
			return fmt.Errorf("an empty tree has the root %s, not %s", older.Root.Text(), newer.Root.Text())
		}
		if len(hashes) != 0 {
			return fmt.Errorf("a proof from the empty tree has no hashes, this one has %d", len(hashes))
		}
		return nil
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, newer.Size, slicesOf(hashes), older.Root[:], newer.Root[:])
}

func slicesOf(hashes []Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// fetch reads nodes of a tree of one size out of tiles, each tile once.
type fetch struct {
	r     TileReader
	size  uint64
	tiles map[Tile][]byte
}

func (f *fetch) rehash(ctx context.Context, nodes proof.Nodes) ([]Hash, error) {
	found := make([][]byte, 0, len(nodes.IDs))
	for _, id := range nodes.IDs {
		h, err := f.node(ctx, id)
		if err != nil {
			return nil, err
		}
		found = append(found, h[:])
	}
	found, err := nodes.Rehash(found, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, err
	}
	hashes := make([]Hash, len(found))
	for i := range found {
		hashes[i] = Hash(found[i])
	}
	return hashes, nil
}

// node is the hash of a perfect subtree. Its tile has it, or all that is below
// it: the tree of a tile is eight levels high.
func (f *fetch) node(ctx context.Context, id compact.NodeID) (Hash, error) {
	level, above := int(id.Level/tileHeight), id.Level%tileHeight
	first, count := id.Index<<above, uint64(1)<<above // in hashes of the tile's level
	at := first / TileWidth
	t := Tile{level, at, int(min(TileWidth, f.size>>(tileHeight*level)-at*TileWidth))}
	data, ok := f.tiles[t]
	if !ok {
		var err error
		if data, err = readTile(ctx, f.r, t); err != nil {
			return Hash{}, err
		}
		if f.tiles == nil {
			f.tiles = make(map[Tile][]byte)
		}
		f.tiles[t] = data
	}
	from := (first % TileWidth) * uint64(len(Hash{}))
	return subtree(data[from : from+count*uint64(len(Hash{}))]), nil
}

// readTile gives exactly the tile's bytes, or an error.
func readTile(ctx context.Context, r TileReader, t Tile) ([]byte, error) {
	data, err := r.ReadTile(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Path(), err)
	}
	want := t.Width * len(Hash{})
	if len(data) < want || len(data) > TileWidth*len(Hash{}) || len(data)%len(Hash{}) != 0 {
		return nil, fmt.Errorf("read %s: %d bytes, not %d", t.Path(), len(data), want)
	}
	return data[:want:want], nil
}

// ReadTree makes the compact range of a log's first leaves out of its tiles.
// Nothing is checked but lengths: compare [Tree.Root] with a root you trust.
func ReadTree(ctx context.Context, r TileReader, size uint64) (*Tree, error) {
	if size > MaxSize {
		return nil, fmt.Errorf("read the tree of %d leaves: a tree has at most %d", size, uint64(MaxSize))
	}
	f := fetch{r: r, size: size}
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, size, nil) {
		h, err := f.node(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("read the tree of %d leaves: %w", size, err)
		}
		hashes = append(hashes, h[:])
	}
	tree, err := factory.NewRange(0, size, hashes)
	if err != nil {
		return nil, fmt.Errorf("read the tree of %d leaves: %w", size, err)
	}
	return &Tree{tree}, nil
}
