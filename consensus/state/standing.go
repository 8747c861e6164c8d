package state

import (
	"strconv"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// Standing is how far a leaf has come: committed once it is in the log, signed
// once a checkpoint covers it, witnessed once others have cosigned one.
type Standing struct {
	// Checkpoint is the one with the most cosignatures, the newest of several;
	// nil if none covers the leaf yet.
	Checkpoint *Checkpoint
	// Seen of Asked witnesses have cosigned it.
	Seen, Asked int
}

// String is the standing in words: "committed", or "witnessed 2 of 3".
func (s Standing) String() string {
	if s.Seen == 0 {
		return "committed"
	}
	return "witnessed " + strconv.Itoa(s.Seen) + " of " + strconv.Itoa(max(s.Asked, s.Seen))
}

// Standing is how far the leaf at an index has come. A checkpoint covers every
// leaf before its size.
func (v *View) Standing(leaf uint64) Standing {
	out := Standing{Asked: v.witnessesAsked()}
	for _, c := range v.Checkpoints() {
		if c.Size <= leaf {
			break
		}
		if out.Checkpoint == nil || len(c.Witnesses) > out.Seen {
			covering := c
			out.Checkpoint, out.Seen = &covering, len(c.Witnesses)
		}
	}
	return out
}

// witnessesAsked counts who is asked for cosignatures: the outside witnesses, and
// the active peers that witness.
func (v *View) witnessesAsked() int {
	n := v.witnesses.len()
	v.regions.ascend("", func(_ string, r *placement.Region) bool {
		if !r.Self && r.State == placement.PeerActive && r.WitnessKey != "" {
			n++
		}
		return true
	})
	return n
}

// ReceiptID names a leaf for people and programs: "<origin>#<leaf>".
func (v *View) ReceiptID(leaf uint64) string {
	return v.LogOrigin() + "#" + strconv.FormatUint(leaf, 10)
}

// ReceiptText is a receipt id with its standing, as in "fra-1.mesh.example/ledger#12
// witnessed 2 of 3". An id of a log that was given up stands as it was.
func (v *View) ReceiptText(id string) string {
	number, ok := strings.CutPrefix(id, v.LogOrigin()+"#")
	leaf, err := strconv.ParseUint(number, 10, 63)
	if !ok || err != nil || leaf >= v.LedgerSize() {
		return id
	}
	return id + " " + v.Standing(leaf).String()
}
