package gossip

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/transport/identity"
)

func TestFragmentsMakeTheStatement(t *testing.T) {
	for _, size := range []int{1, fragmentSize - 1, fragmentSize, fragmentSize + 1, RecordMax} {
		want := strings.Repeat("x", size-1) + "y"
		parts, err := split("n1", want)
		if err != nil {
			t.Fatal(err)
		}
		a := newAssembly()
		for i := len(parts) - 1; i >= 0; i-- {
			if len(parts[i]) > 1000 {
				t.Fatalf("a fragment of %d bytes", len(parts[i]))
			}
			_, f, err := parseMessage(parts[i])
			if err != nil {
				t.Fatal(err)
			}
			fresh, got := a.add(f)
			if !fresh || (got != "") != (i == 0) || i == 0 && got != want {
				t.Fatalf("size %d, fragment %d: %v", size, i, fresh)
			}
			if fresh, got = a.add(f); fresh || got != "" {
				t.Fatalf("size %d, fragment %d came twice", size, i)
			}
		}
		if len(a.open) != 0 || len(a.order) != 0 {
			t.Error("a whole statement is still kept")
		}
	}
	if _, err := split("n1", strings.Repeat("x", RecordMax+1)); err == nil {
		t.Error("a statement beyond the bound was split")
	}
}

func TestAssemblyIsBounded(t *testing.T) {
	a := newAssembly()
	for i := range 3000 {
		parts, err := split("n1", strings.Repeat(string(rune('a'+i%26)), 1000+i%500)+fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		_, f, err := parseMessage(parts[0])
		if err != nil {
			t.Fatal(err)
		}
		a.add(f)
	}
	if len(a.open) > assembliesMax || len(a.order) != len(a.open) || len(a.done) > doneMax || len(a.past) != len(a.done) {
		t.Errorf("%d %d %d %d", len(a.open), len(a.order), len(a.done), len(a.past))
	}
}

func TestMixedFragmentsAreNotBelieved(t *testing.T) {
	one, _ := split("n1", strings.Repeat("x", 1500))
	two, _ := split("n1", strings.Repeat("y", 1500))
	copy(two[1][2+2:], one[1][2+2:2+2+8]) // the second half of another, under the first's hash
	a := newAssembly()
	_, f, _ := parseMessage(one[0])
	a.add(f)
	_, f, _ = parseMessage(two[1])
	if _, got := a.add(f); got != "" {
		t.Error("halves of two statements passed for one")
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(Meta{Inventory: 7, Hash: [8]byte{1}}.Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMeta(b)
		if err == nil && !bytes.Equal(m.Marshal(), b) {
			t.Fatalf("%x reads as %+v", b, m)
		}
		if len(b) >= 64 && err == nil {
			t.Fatal("a meta of 64 bytes")
		}
	})
}

// FuzzGossipRecord feeds what a peer with the keyring could send: messages,
// states and payloads.
func FuzzGossipRecord(f *testing.F) {
	parts, _ := split("n1", strings.Repeat("s", 1000))
	f.Add(parts[0])
	f.Add(appendNotice(nil, "n1"))
	f.Add(appendState(appendState(nil, "a"), "b"))
	f.Add([]byte(`{"name":"n1","region":"fr","inventory":{"version":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if kind, frag, err := parseMessage(b); err == nil {
			if kind == kindFragment {
				a := newAssembly()
				if _, s := a.add(frag); s != "" && (frag.count != 1 || s != string(frag.data)) {
					t.Fatal("one fragment of several made a statement")
				}
			}
			if !placement.ValidName(string(frag.node)) || len(frag.data) > fragmentSize {
				t.Fatalf("%+v", frag)
			}
		}
		statements, err := splitState(b)
		if err == nil {
			var again []byte
			for _, s := range statements {
				again = appendState(again, s)
			}
			if !bytes.Equal(again, b) {
				t.Fatalf("%x reads as %q", b, statements)
			}
		}
		if c, err := readClaims(b, identity.ID{Region: "fr", Mesh: "mesh.test", Node: "n1"}); err == nil && (c.Name != "n1" || c.Region != "fr") {
			t.Fatalf("%+v", c)
		}
	})
}
