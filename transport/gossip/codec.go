package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sovmesh/sovmesh/placement"
)

// Meta is what a node's alive message carries about its record: enough to know
// whether one holds the newest. It is 17 bytes: gossip has a fixed budget of
// bytes, and a long meta makes a pool slow to form.
//
//	u8 version (1), u64 inventory version, 8 bytes of the SHA-256 of the payload
type Meta struct {
	Inventory uint64
	Hash      [8]byte
}

const metaVersion = 1

// Marshal writes the meta.
func (m Meta) Marshal() []byte {
	b := binary.BigEndian.AppendUint64([]byte{metaVersion}, m.Inventory)
	return append(b, m.Hash[:]...)
}

// ParseMeta reads what Marshal wrote, and nothing else.
func ParseMeta(b []byte) (Meta, error) {
	if len(b) != 17 || b[0] != metaVersion {
		return Meta{}, fmt.Errorf("a meta of %d bytes is not one of version %d", len(b), metaVersion)
	}
	m := Meta{Inventory: binary.BigEndian.Uint64(b[1:])}
	copy(m.Hash[:], b[9:])
	return m, nil
}

func hashOf(payload []byte) [8]byte {
	sum := sha256.Sum256(payload)
	return [8]byte(sum[:8])
}

// Messages between pools begin with one byte for their kind. A signed record
// does not fit a packet, so it travels in fragments:
//
//	1, name (u8 length), 8 bytes of the SHA-256 of the statement, u8 index, u8 count, data
//	2, name (u8 length): this node leaves and has not crashed
const (
	kindFragment = 1
	kindNotice   = 2
)

// Bounds of a record: RecordMax of its statement, so 40 fragments at most.
const (
	RecordMax    = 32 << 10
	fragmentSize = 840
	fragmentsMax = (RecordMax + fragmentSize - 1) / fragmentSize
)

var errMessage = errors.New("not a gossip message")

// fragment is one part of a statement.
type fragment struct {
	node         placement.NodeID
	hash         [8]byte
	index, count uint8
	data         []byte
}

// split cuts a statement into encoded fragments.
func split(node placement.NodeID, statement string) ([][]byte, error) {
	if len(statement) == 0 || len(statement) > RecordMax {
		return nil, fmt.Errorf("a signed record of %d bytes, the limit is %d", len(statement), RecordMax)
	}
	hash := hashOf([]byte(statement))
	count := (len(statement) + fragmentSize - 1) / fragmentSize
	out := make([][]byte, 0, count)
	for i := range count {
		data := statement[i*fragmentSize : min((i+1)*fragmentSize, len(statement))]
		b := appendName([]byte{kindFragment}, node)
		b = append(append(b, hash[:]...), byte(i), byte(count))
		out = append(out, append(b, data...))
	}
	return out, nil
}

func appendName(b []byte, node placement.NodeID) []byte {
	return append(append(b, byte(len(node))), node...)
}

func appendNotice(b []byte, node placement.NodeID) []byte {
	return appendName(append(b, kindNotice), node)
}

// parseMessage reads a message of either kind; a notice is a fragment without
// count. data is not copied.
func parseMessage(b []byte) (kind byte, f fragment, err error) {
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return 0, fragment{}, errMessage
	}
	kind, f.node = b[0], placement.NodeID(b[2:2+int(b[1])])
	rest := b[2+int(b[1]):]
	if !placement.ValidName(string(f.node)) {
		return 0, fragment{}, errMessage
	}
	switch kind {
	case kindNotice:
		if len(rest) != 0 {
			return 0, fragment{}, errMessage
		}
		return kind, f, nil
	case kindFragment:
		if len(rest) < 11 {
			return 0, fragment{}, errMessage
		}
		copy(f.hash[:], rest)
		f.index, f.count, f.data = rest[8], rest[9], rest[10:]
		if f.count == 0 || f.count > fragmentsMax || f.index >= f.count || len(f.data) > fragmentSize ||
			(f.index < f.count-1 && len(f.data) != fragmentSize) {
			return 0, fragment{}, errMessage
		}
		return kind, f, nil
	}
	return 0, fragment{}, errMessage
}

// assembly holds the statements of which not every fragment has come, and
// remembers those that are done with, so that a fragment is passed on once.
type assembly struct {
	open  map[[8]byte]*partial
	order [][8]byte // of open, oldest first
	done  map[[8]byte]struct{}
	past  [][8]byte // of done, oldest first
}

type partial struct {
	parts [][]byte
	have  int
}

// Bounds of an assembly: statements on their way, and those remembered.
const (
	assembliesMax = 64
	doneMax       = 1024
)

func newAssembly() assembly {
	return assembly{open: map[[8]byte]*partial{}, done: map[[8]byte]struct{}{}}
}

// add takes in a fragment. fresh says that it had not come before; whole gives
// the statement when it was the last one missing.
func (a *assembly) add(f fragment) (fresh bool, whole string) {
	if _, ok := a.done[f.hash]; ok {
		return false, ""
	}
	p := a.open[f.hash]
	if p == nil {
		if len(a.order) >= assembliesMax { // what is lost comes again by push/pull
			a.finish(a.order[0])
		}
		p = &partial{parts: make([][]byte, f.count)}
		a.open[f.hash] = p
		a.order = append(a.order, f.hash)
	}
	if len(p.parts) != int(f.count) || p.parts[f.index] != nil {
		return false, ""
	}
	p.parts[f.index] = bytes.Clone(f.data)
	if p.have++; p.have < len(p.parts) {
		return true, ""
	}
	a.finish(f.hash)
	b := bytes.Join(p.parts, nil)
	if hashOf(b) != f.hash {
		return true, ""
	}
	return true, string(b)
}

// finish forgets the parts of a statement and remembers that it was there.
func (a *assembly) finish(hash [8]byte) {
	delete(a.open, hash)
	a.order = slices.DeleteFunc(a.order, func(h [8]byte) bool { return h == hash })
	if _, ok := a.done[hash]; ok {
		return
	}
	if len(a.past) >= doneMax {
		delete(a.done, a.past[0])
		a.past = a.past[1:]
	}
	a.done[hash] = struct{}{}
	a.past = append(a.past, hash)
}

// stateMax bounds the records that one exchange of state carries.
const stateMax = 8 << 20

// appendState adds a statement to a push/pull state: u32 length and bytes.
func appendState(b []byte, statement string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(statement)))
	return append(b, statement...)
}

// splitState reads a push/pull state; it gives what is well-formed before the
// first fault, and the fault.
func splitState(b []byte) ([]string, error) {
	if len(b) > stateMax {
		return nil, fmt.Errorf("a state of %d bytes, the limit is %d", len(b), stateMax)
	}
	var out []string
	for len(b) > 0 {
		if len(b) < 4 {
			return out, errMessage
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		if n == 0 || n > RecordMax || int(n) > len(b) {
			return out, errMessage
		}
		out = append(out, string(b[:n]))
		b = b[n:]
	}
	return out, nil
}
