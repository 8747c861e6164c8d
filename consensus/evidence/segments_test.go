package evidence

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// receipted adds a segment of receipts to the log, behind the story's two, and
// gives the file that holds them.
func (l *aLog) receipted(t testing.TB) (leaf uint64, receipts [][]byte) {
	t.Helper()
	tree := ledger.NewTree()
	for i := range 7 {
		receipts = append(receipts, fmt.Appendf(nil, "receipt %d of %s", i, l.region))
		tree.Append(receipts[i])
	}
	root := tree.Root()
	leaf = l.add(t, kindSegment, showing(ledger.ShownChain, "h:1"), showing(ledger.ShownSegment, "3"), showing(ledger.ShownCount, "7"),
		showing(ledger.ShownPrev, "bb"), showing(ledger.ShownRoot, hex.EncodeToString(root[:])))
	l.sign()
	return leaf, receipts
}

func TestReceiptsAgainstTheirSegment(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(leaf uint64, r [][]byte) []byte
		fails  string // the verdict; empty if all hold
	}{
		{"as they were", func(leaf uint64, r [][]byte) []byte { return AppendSegment(nil, leaf, r) }, ""},
		{"one changed", func(leaf uint64, r [][]byte) []byte { r[3] = append(r[3], '!'); return AppendSegment(nil, leaf, r) }, Integrity},
		{"one left out", func(leaf uint64, r [][]byte) []byte { return AppendSegment(nil, leaf, r[1:]) }, Integrity},
		{"two exchanged", func(leaf uint64, r [][]byte) []byte { r[1], r[2] = r[2], r[1]; return AppendSegment(nil, leaf, r) }, Integrity},
		{"one more", func(leaf uint64, r [][]byte) []byte { return AppendSegment(nil, leaf, append(r, r[0])) }, Integrity},
		{"of another leaf", func(leaf uint64, r [][]byte) []byte { return AppendSegment(nil, leaf-1, r) }, Integrity},
		{"twice", func(leaf uint64, r [][]byte) []byte { return AppendSegment(AppendSegment(nil, leaf, r), leaf, r) }, Integrity},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, "")
			leaf, receipts := m.logs[1].receipted(t)
			files := append(m.files(t), file{runName("ber-1", dirSegments, 0), c.change(leaf, receipts)})
			rep := verified(t, m.policy, packed(t, files))
			if c.fails == "" {
				if !rep.OK() {
					t.Fatalf("%+v", rep.Verdicts)
				}
				return
			}
			for _, v := range rep.Verdicts {
				if v.Name == c.fails && v.State == Fails {
					return
				}
			}
			t.Errorf("%s does not fail: %+v", c.fails, rep.Verdicts)
		})
	}
}

func FuzzSegments(f *testing.F) {
	f.Add(AppendSegment(AppendSegment(nil, 3, [][]byte{[]byte("a"), []byte("bc")}), 9, nil))
	f.Add(binary.BigEndian.AppendUint32(make([]byte, 8), 1<<31))
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		err := parseSegments(data, func(leaf uint64, receipts [][]byte) error {
			again = AppendSegment(again, leaf, receipts)
			return nil
		})
		switch {
		case err == nil && !slices.Equal(again, data):
			t.Fatalf("%x is read, and written as %x", data, again)
		case err != nil && !errors.Is(err, ErrArchive):
			t.Fatal(err)
		}
	})
}
