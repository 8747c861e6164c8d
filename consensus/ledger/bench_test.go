package ledger

import "testing"

// BenchmarkAppendTiles adds entries to a tree in tiles, without a disk.
func BenchmarkAppendTiles(b *testing.B) {
	leaf, _ := sample().Encode()
	edge := new(Edge)
	for b.Loop() {
		if err := edge.Append(HashLeaf(leaf), func(Tile, []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInclusion(b *testing.B) {
	const size = 1_000_000
	m := newMemory(b, size)
	head := m.head()
	var hashes []Hash
	b.Run("make", func(b *testing.B) {
		n := uint64(0)
		for b.Loop() {
			var err error
			if hashes, err = ProveInclusion(b.Context(), m, head, n*7919%size); err != nil {
				b.Fatal(err)
			}
			n++
		}
	})
	hashes, _ = ProveInclusion(b.Context(), m, head, 123_456)
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if err := checkInclusion(head, 123_456, HashLeaf(entry(123_456)), hashes); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(hashes)*len(Hash{})), "proof-B")
	})
}
