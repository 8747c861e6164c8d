package receipts

import (
	"testing"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
)

func FuzzFile(f *testing.F) {
	leaf := receipt.Leaf{Model: "m", Outcome: receipt.Answered}
	data, _ := leaf.Encode()
	file := endRecord(append(beginSlot(header(3), 0, &slot{owner: "acme"}), data...), len(header(3)))
	file = append(file, closedRecord(&closing{count: 1, root: receipt.Root([][]byte{data})})...)
	f.Add(append(file, committedRecord(7)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseFile(data)
		if err != nil {
			return
		}
		if c.good > int64(len(data)) || len(c.slots) > maxSlots {
			t.Fatalf("%d bytes of %d, %d slots", c.good, len(data), len(c.slots))
		}
		c.leaves()
	})
}
