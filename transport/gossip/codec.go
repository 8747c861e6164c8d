package gossip

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

// Meta is what a node's alive message carries about its record: enough to know
// whether one holds the newest. It is 17 bytes: gossip has a fixed budget of
// bytes, and a long meta makes a pool slow to form.
//
//	u8 version (1), u64 inventory version, 8 bytes of the SHA-256 of the statement
type Meta struct {
	Inventory uint64
	Hash      [8]byte
}

const metaVersion = 1

// MetaOf is the meta that announces a signed record.
func MetaOf(version uint64, statement string) Meta {
	return Meta{version, hashOf([]byte(statement))}
}

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

func hashOf(b []byte) [8]byte {
	sum := sha256.Sum256(b)
	return [8]byte(sum[:8])
}

// Messages between pools begin with one byte for their kind and a name (u8
// length). A signed record, packed, mostly does not fit one packet, so it travels
// in pieces:
//
//	2, node: this node leaves and has not crashed
//	3, node, hash of its statement (8), u8 index, u8 count, data: pass it on
//	4, the same, to one who asked for it: it goes no further
//	5, who asks, u8 count, each: node, hash: send me these records
//
// 1 was a piece of a statement that was not packed.
const (
	kindNotice = 2
	kindPiece  = 3
	kindAnswer = 4
	kindWant   = 5
)

// Bounds of a record: RecordMax of its statement; of a piece, so that a packet of
// it has room for two alive messages, without which it would be of no use; of a
// want, so that it fits a packet.
const (
	RecordMax = 32 << 10
	pieceSize = 840
	piecesMax = (RecordMax + pieceSize - 1) / pieceSize
	wantsMax  = 12
)

var errMessage = errors.New("not a gossip message")

// piece is one part of a packed statement.
type piece struct {
	node         placement.NodeID
	hash         [8]byte
	index, count uint8
	data         []byte
}

// want names a record by whom it is of and the hash of its statement.
type want struct {
	node placement.NodeID
	hash [8]byte
}

// message is any message, read.
type message struct {
	kind  byte
	node  placement.NodeID // of whom it is: the leaver, the record's, or who asks
	piece piece
	wants []want
}

// Pieces packs a statement and cuts it into messages to be passed on.
func Pieces(node placement.NodeID, statement string) ([][]byte, error) {
	packed, err := pack(statement)
	if err != nil {
		return nil, err
	}
	return split(kindPiece, node, hashOf([]byte(statement)), packed), nil
}

// split cuts a packed statement into messages.
func split(kind byte, node placement.NodeID, hash [8]byte, packed []byte) [][]byte {
	count := (len(packed) + pieceSize - 1) / pieceSize
	out := make([][]byte, 0, count)
	for i := range count {
		data := packed[i*pieceSize : min((i+1)*pieceSize, len(packed))]
		b := appendName([]byte{kind}, node)
		b = append(append(b, hash[:]...), byte(i), byte(count))
		out = append(out, append(b, data...))
	}
	return out
}

func appendName(b []byte, node placement.NodeID) []byte {
	return append(append(b, byte(len(node))), node...)
}

func appendNotice(b []byte, node placement.NodeID) []byte {
	return appendName(append(b, kindNotice), node)
}

func appendWants(b []byte, self placement.NodeID, wants []want) []byte {
	b = append(appendName(append(b, kindWant), self), byte(len(wants)))
	for _, w := range wants {
		b = append(appendName(b, w.node), w.hash[:]...)
	}
	return b
}

// cutName reads a name; false for what is none.
func cutName(b []byte) (node placement.NodeID, rest []byte, ok bool) {
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	node = placement.NodeID(b[1 : 1+int(b[0])])
	return node, b[1+int(b[0]):], placement.ValidName(string(node))
}

// parseMessage reads a message of any kind; data is not copied.
func parseMessage(b []byte) (m message, err error) {
	if len(b) == 0 {
		return message{}, errMessage
	}
	rest, ok := b[1:], false
	m.kind = b[0]
	if m.node, rest, ok = cutName(rest); !ok {
		return message{}, errMessage
	}
	switch m.kind {
	case kindNotice:
		ok = len(rest) == 0
	case kindPiece, kindAnswer:
		m.piece, ok = parsePiece(m.node, rest)
	case kindWant:
		m.wants, ok = parseWants(rest)
	default:
		ok = false
	}
	if !ok {
		return message{}, errMessage
	}
	return m, nil
}

func parsePiece(node placement.NodeID, b []byte) (piece, bool) {
	if len(b) < 11 {
		return piece{}, false
	}
	f := piece{node: node, hash: [8]byte(b), index: b[8], count: b[9], data: b[10:]}
	return f, f.count > 0 && f.count <= piecesMax && f.index < f.count && len(f.data) <= pieceSize &&
		(f.index == f.count-1 || len(f.data) == pieceSize)
}

func parseWants(b []byte) ([]want, bool) {
	if len(b) < 1 || b[0] == 0 || b[0] > wantsMax {
		return nil, false
	}
	count, b := int(b[0]), b[1:]
	out := make([]want, 0, count)
	for range count {
		node, rest, ok := cutName(b)
		if !ok || len(rest) < 8 {
			return nil, false
		}
		out = append(out, want{node, [8]byte(rest)})
		b = rest[8:]
	}
	return out, len(b) == 0
}

// pack makes a statement small: its text is a word, a dot and base64url, and most
// of what that says are the fields of devices that are all alike.
//
//	u8 length of the word, word, DEFLATE of the bytes
func pack(statement string) ([]byte, error) {
	if len(statement) > RecordMax {
		return nil, fmt.Errorf("a signed record of %d bytes, the limit is %d", len(statement), RecordMax)
	}
	word, text, ok := strings.Cut(statement, ".")
	if !ok || len(word) > 255 {
		return nil, errors.New("a signed record is a word, a dot and base64url")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("a signed record: %w", err)
	}
	out := bytes.NewBuffer(append([]byte{byte(len(word))}, word...))
	w, err := flate.NewWriter(out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(raw); err == nil {
		err = w.Close()
	}
	return out.Bytes(), err
}

// unpack is the statement; it never takes more than RecordMax bytes, whatever was
// packed.
func unpack(packed []byte) (string, error) {
	if len(packed) < 1 || len(packed) < 1+int(packed[0]) || len(packed) > RecordMax {
		return "", errMessage
	}
	word, data := packed[1:1+int(packed[0])], bytes.NewReader(packed[1+int(packed[0]):])
	limit := base64.RawURLEncoding.DecodedLen(RecordMax - len(word) - 1)
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(data), int64(limit)+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("unpack a signed record: %w", err)
	case len(raw) > limit:
		return "", fmt.Errorf("a signed record is longer than %d bytes", RecordMax)
	case data.Len() > 0:
		return "", errMessage
	}
	return string(word) + "." + base64.RawURLEncoding.EncodeToString(raw), nil
}
