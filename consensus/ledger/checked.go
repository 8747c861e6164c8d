package ledger

import (
	"context"
	"fmt"
)

// CheckedTiles reads another reader's tiles and lets only those through that
// belong to the tree of a head one trusts. Whoever back-fills from a peer or
// audits a copy of a log reads through it: a full tile is hashed against its
// place in the tile above, the partial ones together against the root.
//
// It remembers one tile a level, so that reading a log from end to end hashes
// every tile about once. It is not safe for concurrent use.
type CheckedTiles struct {
	from TileReader
	head Head
	edge *Edge
	last [maxLevel + 1]struct {
		tile Tile
		data []byte
	}
}

// NewCheckedTiles reads the tiles of head's tree through r.
func NewCheckedTiles(r TileReader, head Head) *CheckedTiles {
	return &CheckedTiles{from: r, head: head}
}

// Head is the head that the tiles are checked against.
func (c *CheckedTiles) Head() Head { return c.head }

// ReadTile gives a tile of the tree, or a [DamageError]. The bytes are the
// reader's: they must not be changed.
func (c *CheckedTiles) ReadTile(ctx context.Context, t Tile) ([]byte, error) {
	if !t.In(c.head.Size) || t.Level < 0 {
		return nil, fmt.Errorf("read %s: a tree of %d leaves has no such tile", t.Path(), c.head.Size)
	}
	if err := c.readEdge(ctx); err != nil {
		return nil, err
	}
	if count := c.head.Size >> (tileHeight * t.Level); t.Index == count/TileWidth {
		return c.edge.partial[t.Level][:t.Width*len(Hash{})], nil // checked against the root
	}
	data, err := c.full(ctx, t.Widest())
	if err != nil {
		return nil, err
	}
	return data[:t.Width*len(Hash{})], nil
}

// full reads a full tile. Its root stands in the tile above, which is checked
// first; the recursion is at most as deep as the tree is high in tiles.
func (c *CheckedTiles) full(ctx context.Context, t Tile) ([]byte, error) {
	if last := &c.last[t.Level]; last.data != nil && last.tile == t {
		return last.data, nil
	}
	above := Tile{t.Level + 1, t.Index / TileWidth, int(t.Index%TileWidth) + 1}
	roots, err := c.ReadTile(ctx, above)
	if err != nil {
		return nil, err
	}
	data, err := readTile(ctx, c.from, t)
	if err != nil {
		return nil, err
	}
	if subtree(data) != Hash(roots[len(roots)-len(Hash{}):]) {
		return nil, &DamageError{c.head, t.Path()}
	}
	c.last[t.Level].tile, c.last[t.Level].data = t, data
	return data, nil
}

func (c *CheckedTiles) readEdge(ctx context.Context) error {
	if c.edge != nil {
		return nil
	}
	edge, err := ReadEdge(ctx, c.from, c.head.Size)
	if err != nil {
		return err
	}
	if edge.Root() != c.head.Root {
		return &DamageError{c.head, "the right edge of the tiles"}
	}
	c.edge = edge
	return nil
}

// Edge is an edge to go on from, of the checked tree.
func (c *CheckedTiles) Edge(ctx context.Context) (*Edge, error) {
	if err := c.readEdge(ctx); err != nil {
		return nil, err
	}
	e := &Edge{size: c.edge.size}
	for level, data := range c.edge.partial {
		e.partial[level] = append([]byte(nil), data...)
	}
	return e, nil
}

// Entries gives the entries of a bundle when their hashes are those of the
// tree. The entries share the bundle's memory.
func (c *CheckedTiles) Entries(ctx context.Context, t Tile, bundle []byte) ([][]byte, error) {
	if t.Level != EntriesLevel {
		return nil, fmt.Errorf("%s names no bundle of entries", t.Path())
	}
	hashes, err := c.ReadTile(ctx, t.Hashes())
	if err != nil {
		return nil, err
	}
	entries, err := ParseBundle(bundle, t.Width)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Path(), err)
	}
	for i, entry := range entries {
		if HashLeaf(entry) != Hash(hashes[i*len(Hash{}):]) {
			return nil, &DamageError{c.head, fmt.Sprintf("entry %d", t.Index*TileWidth+uint64(i))}
		}
	}
	return entries, nil
}
