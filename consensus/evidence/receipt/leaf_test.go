package receipt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

var update = flag.Bool("update", false, "rewrite expected output")

func aLeaf() Leaf {
	return Leaf{
		Salt: ledger.Salt{1, 2}, RequestID: "req_1", Continues: "eu.c0.1.2", Request: ledger.Hash{3}, Response: ledger.Hash{4},
		Model: "m", Tag: "EEA", LawPack: "pack", Policy: ledger.Hash{5}, Entry: "h:1", Exec: "h:2", Region: "eu", Peer: "fr.c1.2.3",
		Start: time.Unix(1, 5).UTC(), End: time.Unix(2, 6).UTC(), Outcome: Answered, Status: 200, Evidence: Required,
	}
}

func TestLeafGolden(t *testing.T) {
	leaf := aLeaf()
	data, err := leaf.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/leaf.hex"
	got := []byte(hex.EncodeToString(data) + "\n")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(want, got) {
		t.Fatalf("the encoding changed, and leaves in ledgers do not:\n%s\n%s%v", got, want, err)
	}
	back, err := Decode(data)
	if err != nil || !reflect.DeepEqual(*back, leaf) {
		t.Fatalf("read back %+v, %v", back, err)
	}
	for n := range data {
		if _, err := Decode(data[:n]); !errors.Is(err, ErrLeaf) {
			t.Fatalf("the first %d bytes of a leaf are read: %v", n, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	leaf := aLeaf()
	data, _ := leaf.Encode()
	f.Add(data)
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(data)
		if err != nil {
			return
		}
		if again, err := l.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x is read and written as %x: %v", data, again, err)
		}
	})
}

func TestTreeAgainstTheLedgers(t *testing.T) {
	for n := range 40 {
		tree := ledger.NewTree()
		var leaves [][]byte
		for i := range n {
			leaves = append(leaves, []byte{byte(i), byte(n)})
			tree.Append(leaves[i])
		}
		root := Root(leaves)
		if root != tree.Root() {
			t.Fatalf("%d leaves have another root than in the ledger", n)
		}
		for i := range n {
			if err := VerifyInclusion(leaves[i], uint64(i), uint64(n), Path(HashesOf(leaves), i), root); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
		}
	}
}
