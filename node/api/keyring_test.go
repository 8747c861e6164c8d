package api

import (
	"bytes"
	"encoding/json"
	"testing"
)

func gossipKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// Whatever two leaders did at once, what both read before is read by the joined
// keyring, which is newer than both and goes on to one key.
func TestKeyringsJoin(t *testing.T) {
	old, one, two := gossipKey(1), gossipKey(2), gossipKey(3)
	a := Keyring{Version: 4, Index: 20, Keys: [][]byte{old, one}, Next: one}
	b := Keyring{Version: 4, Index: 25, Keys: [][]byte{old, two}, Next: two}
	for _, j := range []Keyring{a.Join(b), b.Join(a)} {
		if j.Version != 5 || j.Index != 25 || !bytes.Equal(j.Next, two) || len(j.Keys) != 3 || j.Validate() != nil {
			t.Errorf("joined: %+v", j)
		}
	}
	finished := Keyring{Version: 7, Index: 20, Keys: [][]byte{one}}
	if j := a.Join(finished); len(j.Keys) != 1 || j.Next != nil || !bytes.Equal(j.Keys[0], one) {
		t.Errorf("a key that was dropped came back: %+v", j)
	}
}

func FuzzKeyring(f *testing.F) {
	seed, _ := json.Marshal(Keyring{Version: 1, Index: 2, Keys: [][]byte{gossipKey(1)}, Next: gossipKey(1)})
	f.Add(seed)
	f.Add([]byte(`{"keys":[]}`))
	base := Keyring{Version: 3, Index: 9, Keys: [][]byte{gossipKey(7), gossipKey(8)}, Next: gossipKey(8)}
	f.Fuzz(func(t *testing.T, data []byte) {
		var k Keyring
		if strictJSON(data, &k) != nil || k.Validate() != nil || k.Version > 1<<60 {
			return
		}
		for _, j := range []Keyring{base.Join(k), k.Join(base)} {
			if err := j.Validate(); err != nil || j.Version <= k.Version || j.Version <= base.Version {
				t.Fatalf("%+v joined is %+v: %v", k, j, err)
			}
		}
	})
}
