package ledger

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

var update = flag.Bool("update", false, "rewrite golden files")

func sample() *Leaf {
	salt := Salt{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	return &Leaf{
		Index: 42, Kind: "task.assign", Time: time.Date(2026, 11, 21, 12, 0, 0, 7, time.UTC), Actor: "tok-1", Subject: "fra-1.01kb0000000000000000000001", Code: "residency.refused",
		Judged: []Judgement{
			{Subject: "fra-1.01kb0000000000000000000001", Place: Opaque(salt, "n1"), Verdict: "refused", Rule: "tag.allow", Tag: "EEA,!HU", LawPack: "sha256:00", On: "2026-11-21",
				Facts: &Facts{Region: "fra-1", Country: "US", Home: "US", Parent: "none", Claims: []Claim{{"csf", "SEAL-2"}, {"dpf", "active"}}, Location: "documented", Operator: "documented", AsOf: "2026-10-01"}},
			{Verdict: "permitted", Rule: "tag.read", Tag: "EU"},
		},
		Shown: []Shown{{ShownRole, "admin"}, {ShownJob, "fra-1.01kb0000000000000000000001 complete 0"}},
		Salt:  LeafSalt(salt), Commitment: Commit(salt, []byte("command")),
	}
}

// The bytes of a leaf are for ever: an outsider's verifier reads them.
func TestLeafGolden(t *testing.T) {
	got, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(hex.EncodeToString(got) + "\n")
	const file = "testdata/leaf-v1.hex"
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("a leaf encodes to\n%swant\n%s", text, want)
	}
	back, err := Decode(got)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Encode()
	if err != nil || !bytes.Equal(again, got) {
		t.Errorf("read back: %v", err)
	}
}

func TestDamagedLeaves(t *testing.T) {
	whole, _ := sample().Encode()
	for i := range whole {
		if _, err := Decode(whole[:i]); err == nil {
			t.Errorf("cut at %d, and read", i)
		}
		bad := bytes.Clone(whole)
		bad[i] ^= 1
		if l, err := Decode(bad); err == nil {
			if again, err := l.Encode(); err != nil || !bytes.Equal(again, bad) {
				t.Errorf("byte %d changed: two encodings of one leaf", i)
			}
		}
	}
	if _, err := Decode(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte too many, and read")
	}
	l := sample()
	l.Judged[0].Facts.Claims = []Claim{{"b", ""}, {"a", ""}}
	if _, err := l.Encode(); err == nil {
		t.Error("unsorted claims were written")
	}
	l = sample()
	l.Judged[0].Tag = string(make([]byte, MaxLeaf))
	if _, err := l.Encode(); err == nil {
		t.Error("a leaf too large for a log entry was written")
	}
}

func FuzzLeaf(f *testing.F) {
	whole, _ := sample().Encode()
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(data)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x has another encoding %x (%v)", data, again, err)
		}
	})
}

// Our root is the one that x/mod's tlog, another implementation, computes.
func TestRootsAgreeWithAnotherImplementation(t *testing.T) {
	tree := NewTree()
	if tree.Root() != Hash(rfc6962.DefaultHasher.EmptyRoot()) {
		t.Error("the empty tree's root")
	}
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for n := range 300 {
		leaf := []byte{byte(n), byte(n >> 8)}
		if at := tree.Append(leaf); at != uint64(n) {
			t.Fatalf("leaf %d is at %d", n, at)
		}
		hashes, err := tlog.StoredHashes(int64(n), leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		want, err := tlog.TreeHash(int64(n+1), read)
		if err != nil || Hash(want) != tree.Root() {
			t.Fatalf("%d leaves: %x, want %x (%v)", n+1, tree.Root(), want, err)
		}
		again, err := UnmarshalTree(tree.Marshal())
		if err != nil || again.Root() != tree.Root() || again.Size() != tree.Size() {
			t.Fatalf("%d leaves: read back %v", n+1, err)
		}
		tree = again
	}
}

func FuzzTree(f *testing.F) {
	tree := NewTree()
	tree.Append([]byte("x"))
	f.Add(tree.Marshal())
	f.Add(NewTree().Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := UnmarshalTree(data)
		if err != nil {
			return
		}
		if !bytes.Equal(tree.Marshal(), data) {
			t.Fatalf("%x has another encoding", data)
		}
		tree.Root()
		if tree.Size() < 1<<63 {
			tree.Clone().Append([]byte("y"))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	leaf, _ := sample().Encode()
	tree := NewTree()
	for range b.N {
		tree.Append(leaf)
	}
}
