package evidence

import (
	"bytes"
	"testing"
)

// What is read of a pack's description is written again as the same bytes.
func FuzzDescription(f *testing.F) {
	m := newMesh(f, "")
	f.Add(m.files(f)[1].data)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDescription(data)
		if err != nil {
			return
		}
		if again, err := d.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("another encoding: %v", err)
		}
		for _, r := range d.Regions {
			if !validName(edgeName(r.Name)) {
				t.Fatalf("the region %q has no folder in a pack", r.Name)
			}
		}
	})
}

// Runs of leaves and of openings are read whole, or not at all.
func FuzzRuns(f *testing.F) {
	f.Add(AppendEntry(AppendEntry(nil, []byte("leaf")), nil), AppendOpening(nil, 7, []byte("command")))
	f.Add([]byte{0, 9, 1}, []byte{0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, leaves, openings []byte) {
		var run []byte
		if parseRun(leaves, func(e []byte) error { run = AppendEntry(run, e); return nil }) == nil && !bytes.Equal(run, leaves) {
			t.Fatal("a run of leaves has another encoding")
		}
		run = nil
		if parseOpenings(openings, func(leaf uint64, command []byte) error {
			commandSalt(command)
			commandActor(command)
			run = AppendOpening(run, leaf, command)
			return nil
		}) == nil && !bytes.Equal(run, openings) {
			t.Fatal("a run of openings has another encoding")
		}
	})
}
