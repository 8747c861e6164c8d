package state

import "github.com/google/btree"

// A table is an ordered map that can be copied in constant time: a copy shares
// all nodes and is never changed by later writes to the original. A B-tree was
// chosen over a radix tree for its memory: 100,000 rows of it take 4 MiB, of
// hashicorp/go-immutable-radix about 40.
type table[V any] struct{ t *btree.BTreeG[row[V]] }

type row[V any] struct {
	key string
	val V
}

func newTable[V any]() table[V] {
	return table[V]{btree.NewG(32, func(a, b row[V]) bool { return a.key < b.key })}
}

// snapshot is the copy. Only the owner of t may take it.
func (t table[V]) snapshot() table[V] { return table[V]{t.t.Clone()} }

func (t table[V]) len() int { return t.t.Len() }

func (t table[V]) get(key string) (V, bool) {
	r, ok := t.t.Get(row[V]{key: key})
	return r.val, ok
}

func (t table[V]) has(key string) bool { return t.t.Has(row[V]{key: key}) }

func (t table[V]) put(key string, v V) { t.t.ReplaceOrInsert(row[V]{key, v}) }

func (t table[V]) delete(key string) { t.t.Delete(row[V]{key: key}) }

func (t table[V]) min() (string, V, bool) {
	r, ok := t.t.Min()
	return r.key, r.val, ok
}

func (t table[V]) last() (string, bool) {
	r, ok := t.t.Max()
	return r.key, ok
}

// ascend visits rows in key order from the first not below from.
func (t table[V]) ascend(from string, visit func(key string, v V) bool) {
	t.t.AscendGreaterOrEqual(row[V]{key: from}, func(r row[V]) bool { return visit(r.key, r.val) })
}

// descend visits all rows, the last key first.
func (t table[V]) descend(visit func(key string, v V) bool) {
	t.t.Descend(func(r row[V]) bool { return visit(r.key, r.val) })
}

// prefix visits the rows whose key begins with prefix.
func (t table[V]) prefix(prefix string, visit func(key string, v V) bool) {
	t.ascend(prefix, func(key string, v V) bool {
		return len(key) >= len(prefix) && key[:len(prefix)] == prefix && visit(key, v)
	})
}

func (t table[V]) values() []V {
	out := make([]V, 0, t.len())
	t.ascend("", func(_ string, v V) bool { out = append(out, v); return true })
	return out
}
