// Package receipt is the form of an inference receipt: the leaf that a node
// makes of a request, the Merkle tree of a segment of them, and the document
// that its owner keeps.
//
// The rule that must hold: every byte of a document counts. Its leaf is proven
// by its segment's root, the root by the ledger, the words by the leaf, and what
// nothing of that covers by the node's own signature.
//
// Nodes write it (package node/receipts), auditors read it (package evidence).
// It knows nothing of a running mesh.
package receipt

import (
	"fmt"
	"strconv"
	"strings"
)

// State is where a receipt stands.
type State string

// The states. Missing is a receipt that a segment in the ledger should have and
// nobody can show; an erased one was kept for as long as the node keeps them.
const (
	Promised  State = "promised"
	Committed State = "committed"
	Missing   State = "missing"
	Erased    State = "erased"
)

// ID is a receipt's id in parts.
type ID struct {
	Region, Chain string
	Seq, Index    uint64
}

// ParseID reads "<region>.<chain>.<segment>.<index>" in its one form.
func ParseID(s string) (ID, error) {
	words := strings.Split(s, ".")
	if len(s) > 160 || len(words) != 4 || words[0] == "" || words[1] == "" {
		return ID{}, fmt.Errorf("%.160q is no receipt: <region>.<chain>.<segment>.<index>", s)
	}
	seq, err := strconv.ParseUint(words[2], 10, 63)
	index, err2 := strconv.ParseUint(words[3], 10, 32)
	out := ID{words[0], words[1], seq, index}
	if err != nil || err2 != nil || out.String() != s {
		return ID{}, fmt.Errorf("%.160q is no receipt: <region>.<chain>.<segment>.<index>", s)
	}
	return out, nil
}

// String is the form that [ParseID] reads.
func (id ID) String() string {
	b := make([]byte, 0, len(id.Region)+len(id.Chain)+32)
	b = append(append(b, id.Region...), '.')
	b = append(append(b, id.Chain...), '.')
	b = append(strconv.AppendUint(b, id.Seq, 10), '.')
	return string(strconv.AppendUint(b, id.Index, 10))
}
