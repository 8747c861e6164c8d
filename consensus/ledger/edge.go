package ledger

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// Edge is the right edge of a tree in tiles: on each level the tile that is
// being filled, at most 64 KiB in all. It turns leaf hashes into tiles, and it
// knows the root. It is not safe for concurrent use.
type Edge struct {
	size    uint64
	partial [maxLevel + 1][]byte // the hashes of each level's partial tile
}

// ReadEdge takes the edge of a tree of that size from its tiles. Nothing is
// checked but their lengths: compare [Edge.Root] with a root you trust.
func ReadEdge(ctx context.Context, r TileReader, size uint64) (*Edge, error) {
	if size > MaxSize {
		return nil, fmt.Errorf("a tree of %d leaves is larger than %d", size, uint64(MaxSize))
	}
	e := &Edge{size: size}
	for level := range e.partial {
		count := size >> (tileHeight * level)
		width := int(count % TileWidth)
		if width == 0 {
			continue
		}
		data, err := readTile(ctx, r, Tile{level, count / TileWidth, width})
		if err != nil {
			return nil, err
		}
		e.partial[level] = slices.Clone(data)
	}
	return e, nil
}

// Size is the number of leaves.
func (e *Edge) Size() uint64 { return e.size }

// Append adds a leaf by its hash. It calls full with every tile that this leaf
// fills, from the leaves up; the bytes are the callee's to keep. After an error,
// which is full's, the edge is no longer of use.
func (e *Edge) Append(leaf Hash, full func(Tile, []byte) error) error {
	if e.size == MaxSize {
		return fmt.Errorf("a tree of %d leaves is full", e.size)
	}
	h := leaf
	for level := range e.partial {
		if e.partial[level] == nil {
			e.partial[level] = make([]byte, 0, TileWidth*len(h))
		}
		e.partial[level] = append(e.partial[level], h[:]...)
		if len(e.partial[level]) < TileWidth*len(h) {
			break
		}
		data := e.partial[level]
		e.partial[level] = nil
		if err := full(Tile{level, e.size >> (tileHeight * (level + 1)), TileWidth}, data); err != nil {
			return err
		}
		h = subtree(data)
	}
	e.size++
	return nil
}

// Partial are the partial tiles of the tree as it is, from the leaves up. The
// bytes are only valid until the next Append.
func (e *Edge) Partial() iter.Seq2[Tile, []byte] {
	return func(yield func(Tile, []byte) bool) {
		for level, data := range e.partial {
			t := Tile{level, e.size >> (tileHeight * (level + 1)), len(data) / len(Hash{})}
			if len(data) > 0 && !yield(t, data) {
				return
			}
		}
	}
}

// Root is the RFC 6962 root of the tree.
func (e *Edge) Root() Hash {
	root, has := Hash{}, false
	for _, data := range e.partial { // the smallest subtree is rightmost
		for count := len(data) / len(Hash{}); count > 0; count &= count - 1 {
			width := count & -count
			h := subtree(data[(count-width)*len(Hash{}) : count*len(Hash{})])
			if has {
				h = HashChildren(h, root)
			}
			root, has = h, true
		}
	}
	if !has {
		return NewTree().Root()
	}
	return root
}

// subtree is the root over hashes whose number is a power of two.
func subtree(hashes []byte) Hash {
	var buf [TileWidth]Hash
	n := len(hashes) / len(Hash{})
	for i := range n {
		buf[i] = Hash(hashes[i*len(Hash{}):])
	}
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			buf[i] = HashChildren(buf[2*i], buf[2*i+1])
		}
	}
	return buf[0]
}
