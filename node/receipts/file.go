package receipts

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sovmesh/sovmesh/consensus/evidence/receipt"
	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// A segment has one file, from its first promise on:
//
//	"sovmesh receipts 1\n", the number of the segment (8 bytes), then records:
//	length (4 bytes) of what follows but the checksum, kind (1 byte), content,
//	CRC-32C of kind and content (4 bytes)
//
// Records are appended, each with one write. The file of a crash ends in a torn
// record at worst, and what stands before it counts.
const (
	fileMagic  = "sovmesh receipts 1\n"
	fileSuffix = ".receipts"
	// maxRecord and maxFile bound what is read back, in bytes.
	maxRecord = receipt.MaxLeaf + 1<<10
	maxFile   = 64 << 20
)

const (
	recSlot      = 's' // index (4), key (16), owner (string), leaf
	recNext      = 'n' // index (4), the receipt that continues it (string)
	recClosed    = 'c' // count (8), root (32), from, to (8 each), dropped, missing (8 each), recovered (1)
	recBegun     = 'b' // 1 once the next segment was begun, 0 if it promised nothing (1)
	recCommitted = 'k' // index of the ledger's leaf (8)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// slot is one receipt of a segment, with what is kept beside the leaf.
type slot struct {
	key   ledger.Salt
	owner string // the tenant
	leaf  []byte
	next  string // the receipt that continues it
}

// closing is what a segment's commit says.
type closing struct {
	count            uint64
	root             ledger.Hash
	from, to         time.Time
	dropped, missing uint64
	recovered        bool
}

// content is a file as it was read.
type content struct {
	seq    uint64
	slots  []slot // those of lost leaves have no leaf
	closed *closing
	leaf   *uint64 // of the ledger; nil while it is not known to be committed
	begun  bool    // the next segment promised something, or may have
	torn   bool
	good   int64 // length of what can be read
}

func record(b []byte, kind byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, kind)
	return endRecord(fill(b), at)
}

// endRecord ends the record that begins at an offset.
func endRecord(b []byte, at int) []byte {
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at+4:], castagnoli))
}

// slotRoom is what the record of an ordinary receipt needs at most, in bytes
// beside its owner.
const slotRoom = 448

// beginSlot begins the record of a receipt, up to its leaf.
func beginSlot(b []byte, index int, s *slot) []byte {
	b = append(b, 0, 0, 0, 0, recSlot)
	b = binary.BigEndian.AppendUint32(b, uint32(index))
	b = append(b, s.key[:]...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s.owner))), s.owner...)
}

func nextRecord(index int, next string) []byte {
	return record(nil, recNext, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, uint32(index))
		return append(binary.BigEndian.AppendUint16(b, uint16(len(next))), next...)
	})
}

func closedRecord(c *closing) []byte {
	return record(nil, recClosed, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint64(b, c.count)
		b = append(b, c.root[:]...)
		for _, n := range []uint64{receipt.Nanos(c.from), receipt.Nanos(c.to), c.dropped, c.missing} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		if c.recovered {
			return append(b, 1)
		}
		return append(b, 0)
	})
}

func committedRecord(leaf uint64) []byte {
	return record(nil, recCommitted, func(b []byte) []byte { return binary.BigEndian.AppendUint64(b, leaf) })
}

func begunRecord(begun byte) []byte {
	return record(nil, recBegun, func(b []byte) []byte { return append(b, begun) })
}

func header(seq uint64) []byte { return binary.BigEndian.AppendUint64([]byte(fileMagic), seq) }

// parseFile reads a segment's file as far as it can be read; only a file that
// is none at all is an error.
func parseFile(data []byte) (*content, error) {
	n := len(fileMagic) + 8
	if len(data) < n || !bytes.HasPrefix(data, []byte(fileMagic)) {
		return nil, errors.New("no file of receipts")
	}
	c := &content{seq: binary.BigEndian.Uint64(data[n-8:]), good: int64(n)}
	for rest := data[n:]; len(rest) > 0; rest = data[c.good:] {
		if len(rest) < 9 {
			c.torn = true
			break
		}
		size := int(binary.BigEndian.Uint32(rest))
		if size < 1 || size > maxRecord || len(rest) < size+8 {
			c.torn = true
			break
		}
		// A damaged record is left out: what stands behind it still counts.
		if crc32.Checksum(rest[4:4+size], castagnoli) != binary.BigEndian.Uint32(rest[4+size:]) || !c.take(rest[4], rest[5:4+size]) {
			c.torn = true
		}
		c.good += int64(size + 8)
	}
	return c, nil
}

// maxSlots bounds the receipts of one file.
const maxSlots = 1 << 16

func (c *content) take(kind byte, data []byte) bool {
	in := cryptobyte.String(data)
	switch kind {
	case recSlot:
		var index uint32
		var s slot
		var owner cryptobyte.String
		if !in.ReadUint32(&index) || !in.CopyBytes(s.key[:]) || !in.ReadUint16LengthPrefixed(&owner) {
			return false
		}
		s.owner, s.leaf = string(owner), in
		if _, err := receipt.Decode(s.leaf); err != nil || index >= maxSlots || c.closed != nil {
			return false
		}
		for uint32(len(c.slots)) <= index {
			c.slots = append(c.slots, slot{})
		}
		c.slots[index] = s
		return true
	case recNext:
		var index uint32
		var next cryptobyte.String
		if !in.ReadUint32(&index) || !in.ReadUint16LengthPrefixed(&next) || !in.Empty() || index >= uint32(len(c.slots)) {
			return false
		}
		c.slots[index].next = string(next)
		return true
	case recClosed:
		return c.takeClosed(in)
	case recBegun:
		var begun uint8
		ok := in.ReadUint8(&begun) && in.Empty()
		c.begun = ok && begun == 1
		return ok
	case recCommitted:
		var leaf uint64
		if !in.ReadUint64(&leaf) || !in.Empty() {
			return false
		}
		c.leaf = &leaf
		return true
	}
	return false
}

func (c *content) takeClosed(in cryptobyte.String) bool {
	k := &closing{}
	var from, to uint64
	var recovered uint8
	if !in.ReadUint64(&k.count) || !in.CopyBytes(k.root[:]) || !in.ReadUint64(&from) || !in.ReadUint64(&to) ||
		!in.ReadUint64(&k.dropped) || !in.ReadUint64(&k.missing) || !in.ReadUint8(&recovered) || !in.Empty() {
		return false
	}
	k.from, k.to, k.recovered = receipt.Moment(from), receipt.Moment(to), recovered == 1
	c.closed = k
	return true
}

// leaves are the encoded leaves; in the place of one that was lost stands a
// leaf that says so.
func (c *content) leaves() (out [][]byte, missing uint64) {
	for i := range c.slots {
		leaf := c.slots[i].leaf
		if leaf == nil {
			missing++
			l := receipt.Leaf{Outcome: receipt.Lost}
			leaf, _ = l.Encode() // it has no field that could be wrong
		}
		out = append(out, leaf)
	}
	return out, missing
}

func fileName(seq uint64) string { return fmt.Sprintf("%020d%s", seq, fileSuffix) }

// listFiles are the numbers of the segments with a file, rising.
func listFiles(dir string) (out []uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if seq, err := strconv.ParseUint(name, 10, 63); ok && err == nil && fileName(seq) == e.Name() {
			out = append(out, seq)
		}
	}
	slices.Sort(out)
	return out, nil
}

func readFile(dir string, seq uint64) (*content, error) {
	path := filepath.Join(dir, fileName(seq))
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("read %s: %d bytes are more than %d", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if c.seq != seq {
		return nil, fmt.Errorf("read %s: it is the file of segment %d", path, c.seq)
	}
	return c, nil
}

// appendTo adds a record to a file that no longer grows.
func appendTo(dir string, seq uint64, rec []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, fileName(seq)), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(rec)
	return errors.Join(err, f.Close())
}
