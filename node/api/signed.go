package api

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/sovmesh/sovmesh/consensus/evidence"
	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// signedStates are the checkpoints that the state remembers of a log, and before
// them those that are kept for good. Lines of witnesses that the region has no
// more are left out: no policy of today names them.
func signedStates(known []*ledger.Verifier, remembered []state.Checkpoint, archive *store.Archive) ([]evidence.Signed, error) {
	bySize := map[uint64]evidence.Signed{}
	kept, err := archive.After(0, math.MaxInt)
	if err != nil {
		return nil, err
	}
	for _, k := range kept {
		bySize[k.Size] = evidence.Signed{Size: k.Size, Note: k.Note, At: k.At}
	}
	for _, c := range remembered {
		bySize[c.Size] = evidence.Signed{Size: c.Size, Note: []byte(c.Note), At: c.At}
	}
	out := make([]evidence.Signed, 0, len(bySize))
	for _, size := range slices.Sorted(maps.Keys(bySize)) {
		c := bySize[size]
		if c.Note, c.Witnesses, err = ofWitnesses(c.Note, known); err != nil {
			return nil, fmt.Errorf("the checkpoint of %d leaves: %w", size, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// witnessKeys are the region's witnesses of now: active peers, and those that an
// administrator put.
func witnessKeys(v *state.View) (keys []*ledger.Verifier) {
	add := func(vkey string) {
		if k, err := ledger.ParseVerifier(vkey); err == nil {
			keys = append(keys, k)
		}
	}
	for _, w := range v.Witnesses() {
		add(w.Key)
	}
	for _, r := range v.Regions() {
		if !r.Self && r.State == placement.PeerActive && r.WitnessKey != "" {
			add(r.WitnessKey)
		}
	}
	return keys
}

// ofWitnesses is a note with the lines of its log and of the witnesses given, and
// how many of these there are.
func ofWitnesses(note []byte, known []*ledger.Verifier) ([]byte, int, error) {
	signed, err := ledger.ParseSignedCheckpoint(note)
	if err != nil {
		return nil, 0, err
	}
	c := signed.Unverified()
	var lines []ledger.Signature
	witnesses := 0
	for _, line := range signed.Signatures() {
		ours := slices.ContainsFunc(known, func(k *ledger.Verifier) bool { return k.Name() == line.Name && k.ID() == line.ID })
		if ours {
			witnesses++
		}
		if ours || line.Name == c.Origin {
			lines = append(lines, line)
		}
	}
	if len(lines) == len(signed.Signatures()) {
		return note, witnesses, nil
	}
	fewer, err := ledger.NewSignedCheckpoint(c, lines...)
	if err != nil {
		return nil, 0, err
	}
	return fewer.Encode(), witnesses, nil
}
