package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// Kept is a signed checkpoint of the log with the cosignatures on it.
type Kept struct {
	Size uint64
	// At is when the first witness cosigned, as it says itself; of one that nobody
	// cosigned, when it was committed.
	At time.Time
	// Witnesses is how many have cosigned.
	Witnesses int
	Note      []byte
}

// NewKept reads what a signed note says of itself. Nothing is verified.
func NewKept(note []byte, committed time.Time) (Kept, error) {
	signed, err := ledger.ParseSignedCheckpoint(note)
	if err != nil {
		return Kept{}, err
	}
	c := signed.Unverified()
	k := Kept{Size: c.Size, At: committed.Truncate(time.Second), Note: note}
	for _, line := range signed.Signatures() {
		if line.Name == c.Origin {
			continue
		}
		first := k.Witnesses == 0
		k.Witnesses++
		if at, ok := line.Stamp(); ok && (first || at.Before(k.At)) {
			k.At = at
		}
	}
	return k, nil
}

// How close to each other kept checkpoints are: one a minute for a week before
// the newest, and one an hour before that.
const (
	keepClose    = time.Minute
	keepWide     = time.Hour
	keepCloseFor = 7 * 24 * time.Hour
)

// The archive's file: records of head and note, in the order of arrival. The
// head is the note's length (4 bytes, big endian), CRC-32 (4) and the second of
// its commit (8).
const (
	archiveFile    = "checkpoints"
	archiveHead    = 16
	archiveNoteMax = ledger.MaxCheckpoint
	archiveMax     = 1 << 20 // records; two centuries
)

// Archive keeps signed checkpoints of the log for as long as there is a log:
// the state remembers the newest few alone, and evidence of long ago needs those
// that witnesses cosigned then. It is safe for concurrent use.
type Archive struct {
	files Files

	mu    sync.Mutex
	file  File    // guarded by mu, as is all below
	all   []place // rising in size, none two of one bucket but those of close and wide
	end   int64   // where the next record goes
	dead  int64   // bytes of records that others took the place of
	dirty bool    // written since the last Sync
}

// place is where a kept checkpoint is.
type place struct {
	size      uint64
	at        int64 // seconds
	witnesses int
	off       int64
	n         int // of the note
}

func openArchive(files Files) (*Archive, error) {
	f, err := files.Open(archiveFile)
	if err != nil {
		return nil, err
	}
	a := &Archive{files: files, file: f}
	if err := a.load(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// load reads the file and forgets what a crash tore or a disk rotted: it is had
// again from peers.
func (a *Archive) load() error {
	end, err := a.file.Size()
	if err != nil {
		return err
	}
	for a.end < end && len(a.all) < archiveMax {
		if k, n, ok := a.kept(a.end, end); ok {
			a.index(k, a.end)
			a.end += n
			continue
		}
		next := a.resync(a.end+1, end)
		if next == end {
			break
		}
		a.dead += next - a.end
		a.end = next
	}
	if a.end < end {
		return a.file.Truncate(a.end)
	}
	return nil
}

// kept is the whole checkpoint whose record is at off.
func (a *Archive) kept(off, end int64) (k Kept, n int64, ok bool) {
	note, at, n, err := a.record(off, end)
	if err != nil || n == 0 {
		return k, 0, false
	}
	k, err = NewKept(note, at)
	return k, n, err == nil
}

// resync finds the next whole record: a rotten length must not take along what
// stands behind it. It gives the end where there is none.
func (a *Archive) resync(off, end int64) int64 {
	for ; off+archiveHead < end; off++ {
		if _, _, ok := a.kept(off, end); ok {
			return off
		}
	}
	return end
}

// record reads the record at off; n is its length, 0 where none is whole. A note
// that rotted comes back empty.
func (a *Archive) record(off, end int64) (note []byte, at time.Time, n int64, err error) {
	var head [archiveHead]byte
	if off+archiveHead > end {
		return nil, at, 0, nil
	}
	if _, err := a.file.ReadAt(head[:], off); err != nil {
		return nil, at, 0, err
	}
	size := int64(binary.BigEndian.Uint32(head[:4]))
	if size == 0 || size > archiveNoteMax || off+archiveHead+size > end {
		return nil, at, 0, nil
	}
	note = make([]byte, size)
	if _, err := a.file.ReadAt(note, off+archiveHead); err != nil {
		return nil, at, 0, err
	}
	if crc32.ChecksumIEEE(note) != binary.BigEndian.Uint32(head[4:8]) {
		note = nil
	}
	return note, time.Unix(int64(binary.BigEndian.Uint64(head[8:])), 0).UTC(), archiveHead + size, nil
}

// Wants reports whether the archive would keep a checkpoint. Ask before proving
// one: most are not kept.
func (a *Archive) Wants(k Kept) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wants(k)
}

func (a *Archive) wants(k Kept) bool {
	if len(k.Note) == 0 || len(k.Note) > archiveNoteMax || k.Size == 0 || k.At.Unix() < 0 {
		return false
	}
	for _, p := range a.rivals(k) {
		if !betterThan(k.Witnesses, k.Size, a.all[p]) {
			return false
		}
	}
	return true
}

// betterThan: what more witnesses cosigned; of equals the last, so that the end
// of a log is kept when no more of it comes.
func betterThan(witnesses int, size uint64, p place) bool {
	if witnesses != p.witnesses {
		return witnesses > p.witnesses
	}
	return size > p.size
}

// rivals are those that are kept in the place of k, or k in theirs.
func (a *Archive) rivals(k Kept) (at []int) {
	span := a.spanOf(k.At.Unix())
	for i, p := range a.all {
		if p.size == k.Size || p.at/span == k.At.Unix()/span && a.spanOf(p.at) == span {
			at = append(at, i)
		}
	}
	return at
}

// spanOf is how many seconds share one checkpoint, at a time.
func (a *Archive) spanOf(at int64) int64 {
	newest := at
	if n := len(a.all); n > 0 {
		newest = max(newest, a.all[n-1].at)
	}
	if newest-at > int64(keepCloseFor/time.Second) {
		return int64(keepWide / time.Second)
	}
	return int64(keepClose / time.Second)
}

// Keep keeps a checkpoint that was proved, unless there is a better one of its
// time.
func (a *Archive) Keep(k Kept) (kept bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil || !a.wants(k) || len(a.all) >= archiveMax {
		return false, nil
	}
	data := appendKept(nil, k)
	if _, err := a.file.WriteAt(data, a.end); err != nil {
		return false, fmt.Errorf("keep the checkpoint of %d leaves: %w", k.Size, err)
	}
	a.index(k, a.end)
	a.end += int64(len(data))
	a.dirty = true
	return true, nil
}

func appendKept(out []byte, k Kept) []byte {
	out = binary.BigEndian.AppendUint32(out, uint32(len(k.Note)))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(k.Note))
	out = binary.BigEndian.AppendUint64(out, uint64(k.At.Unix()))
	return append(out, k.Note...)
}

// index notes where a record is, in the place of those that it is better than.
func (a *Archive) index(k Kept, off int64) {
	rivals := a.rivals(k)
	for _, i := range rivals {
		if p := a.all[i]; !betterThan(k.Witnesses, k.Size, p) {
			a.dead += archiveHead + int64(len(k.Note))
			return
		}
	}
	for _, i := range slices.Backward(rivals) {
		a.dead += archiveHead + int64(a.all[i].n)
		a.all = slices.Delete(a.all, i, i+1)
	}
	p := place{k.Size, k.At.Unix(), k.Witnesses, off, len(k.Note)}
	i, _ := slices.BinarySearchFunc(a.all, p.size, func(q place, size uint64) int { return cmp.Compare(q.size, size) })
	a.all = slices.Insert(a.all, i, p)
}

// Sync makes durable what was kept, and thins and rewrites the file when much of
// it is of no use any more.
func (a *Archive) Sync() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil || !a.dirty {
		return nil
	}
	a.thin()
	if live := a.end - a.dead; a.dead > live+64<<10 {
		if err := a.rewrite(); err != nil {
			return fmt.Errorf("rewrite the archive of checkpoints: %w", err)
		}
	} else if err := a.file.Sync(); err != nil {
		return fmt.Errorf("sync the archive of checkpoints: %w", err)
	}
	a.dirty = false
	return nil
}

// thin leaves one checkpoint an hour of those that have become old.
func (a *Archive) thin() {
	kept := a.all[:0:0]
	for _, p := range a.all {
		span := a.spanOf(p.at)
		if n := len(kept); n > 0 && kept[n-1].at/span == p.at/span && a.spanOf(kept[n-1].at) == span {
			last := &kept[n-1]
			if betterThan(p.witnesses, p.size, *last) {
				*last, p = p, *last
			}
			a.dead += archiveHead + int64(p.n)
			continue
		}
		kept = append(kept, p)
	}
	a.all = kept
}

func (a *Archive) rewrite() error {
	var data []byte
	next := make([]place, 0, len(a.all))
	for _, p := range a.all {
		note, at, _, err := a.record(p.off, a.end)
		if err != nil {
			return err
		}
		if note == nil {
			continue // it rotted; a record without a note would end the file for whoever loads it
		}
		p.off = int64(len(data))
		next = append(next, p)
		data = appendKept(data, Kept{Note: note, At: at})
	}
	if err := a.files.Replace(archiveFile, data); err != nil {
		return err
	}
	f, err := a.files.Open(archiveFile)
	if err != nil {
		return err
	}
	err = a.file.Close()
	a.file, a.all, a.end, a.dead = f, next, int64(len(data)), 0
	return err
}

// After gives the kept checkpoints of more than size leaves, rising, as many as
// fit into most bytes of notes, and at least one if there is any. One that
// cannot be read any more is left out.
func (a *Archive) After(size uint64, most int) (out []Kept, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil, errClosed
	}
	i, _ := slices.BinarySearchFunc(a.all, size+1, func(q place, size uint64) int { return cmp.Compare(q.size, size) })
	for _, p := range a.all[i:] {
		if most -= p.n; most < 0 && len(out) > 0 {
			break
		}
		note, _, _, err := a.record(p.off, a.end)
		if err != nil {
			return nil, fmt.Errorf("read the checkpoint of %d leaves: %w", p.size, err)
		}
		if note != nil {
			out = append(out, Kept{p.size, time.Unix(p.at, 0).UTC(), p.witnesses, note})
		}
	}
	return out, nil
}

var errClosed = errors.New("the archive of checkpoints is closed")

func (a *Archive) close() error {
	err := a.Sync()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err = errors.Join(err, a.file.Close())
	a.file = nil
	return err
}

// KeptPage is how many bytes of notes one answer to another replica has, and
// KeptAnswerMax bounds what [ParseKept] reads: heads come on top, and the first
// note whatever its size.
const (
	KeptPage      = 1 << 20
	KeptAnswerMax = 2*KeptPage + archiveNoteMax
)

// EncodeKept writes checkpoints for another replica, as the file has them.
func EncodeKept(all []Kept) (out []byte) {
	for _, k := range all {
		out = appendKept(out, k)
	}
	return out
}

// ParseKept reads what [EncodeKept] writes and nothing else.
func ParseKept(data []byte) (all []Kept, err error) {
	if len(data) > KeptAnswerMax {
		return nil, fmt.Errorf("no checkpoints: %d bytes are more than %d", len(data), KeptAnswerMax)
	}
	for len(data) > 0 {
		bad := fmt.Errorf("no checkpoints: number %d is cut short or damaged", len(all))
		if len(data) < archiveHead {
			return nil, bad
		}
		n := int64(binary.BigEndian.Uint32(data))
		at := int64(binary.BigEndian.Uint64(data[8:]))
		if n > int64(len(data)-archiveHead) || at < 0 {
			return nil, bad
		}
		note := data[archiveHead : archiveHead+n]
		if crc32.ChecksumIEEE(note) != binary.BigEndian.Uint32(data[4:]) {
			return nil, bad
		}
		k, err := NewKept(note, time.Unix(at, 0).UTC())
		if err != nil {
			return nil, fmt.Errorf("no checkpoints: number %d: %w", len(all), err)
		}
		if k.At.Unix() != at || len(all) > 0 && k.Size <= all[len(all)-1].Size {
			return nil, fmt.Errorf("no checkpoints: number %d is out of order, or of another time than it says", len(all))
		}
		all = append(all, k)
		data = data[archiveHead+n:]
	}
	return all, nil
}
