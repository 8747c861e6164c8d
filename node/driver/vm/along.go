//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// Snapshots of a machine's disks go along with its move. The offer names them, with
// the size of each of their files. The stream "snapshots" carries the files in that
// order, each followed by its digest, which the source makes as it reads: a move does
// not wait until all of it was read once before. When the other side has all of it on
// its disk it says so there in one byte. Only then the disks follow.

// offerSnapshot is one that goes along. The target makes up the names of files itself.
type offerSnapshot struct {
	Name   string      `json:"name"`
	At     time.Time   `json:"at"`
	Frozen bool        `json:"frozen,omitempty"`
	Why    string      `json:"why,omitempty"`
	Copies []offerCopy `json:"copies"`
}

// offerCopy is a disk's in a snapshot.
type offerCopy struct {
	Disk int   `json:"disk"` // its number
	Size int64 `json:"size"` // of the file, in bytes
}

const (
	maxWhy      = 300     // bytes of a snapshot's reason on the wire
	largestDisk = 1 << 50 // bytes of a disk that has snapshots; so no sum is too large to be counted
	alongSync   = 64 << 20
)

// largestCopy is how large the file of a disk's copy can be: each of its clusters
// once, and what says where they lie.
func largestCopy(disk int64) int64 { return disk + disk>>10 + 16<<20 }

// checkSnapshots refuses what no honest side offers.
func checkSnapshots(all []offerSnapshot, disks []offerDisk) error {
	if len(all) > mostSnapshots {
		return fmt.Errorf("the offer has %d snapshots, and a copy has %d at most", len(all), mostSnapshots)
	}
	seen := make(map[string]bool)
	for _, s := range all {
		if !placement.ValidDiskSnapshotName(s.Name) || seen[s.Name] {
			return fmt.Errorf("the offer has a snapshot %.80q, which cannot be called so, or is there twice", s.Name)
		}
		seen[s.Name] = true
		if len(s.Why) > maxWhy || strings.ContainsFunc(s.Why, unicode.IsControl) {
			return fmt.Errorf("snapshot %s: what is said of it is no line of text", s.Name)
		}
		if len(s.Copies) == 0 {
			return fmt.Errorf("snapshot %s is of no disk", s.Name)
		}
		last := -1
		for _, c := range s.Copies {
			if c.Disk <= last || c.Disk >= len(disks) || !disks[c.Disk].Kept {
				return fmt.Errorf("snapshot %s is of a disk %d, which is none that has snapshots", s.Name, c.Disk)
			}
			last = c.Disk
			if size := disks[c.Disk].Size; size <= 0 || size > largestDisk || c.Size <= 0 || c.Size > largestCopy(size) {
				return fmt.Errorf("snapshot %s has a file of %d bytes for a disk of %d bytes", s.Name, c.Size, size)
			}
		}
	}
	return nil
}

func copiesSize(all []offerSnapshot) (sum int64) {
	for _, s := range all {
		for _, c := range s.Copies {
			sum += c.Size
		}
	}
	return sum
}

// along are the snapshots that go along with a machine; why says which cannot.
func (d *Driver) along(id placement.TaskID, disks []disk) (all []offerSnapshot, why string, err error) {
	snaps, err := d.diskSnapshots(id)
	if err != nil {
		return nil, "", err
	}
	for _, s := range snaps {
		one, have := offerSnapshot{Name: s.Name, At: s.At, Frozen: s.Frozen, Why: plainLine(s.Why)}, []string(nil)
		for i, disk := range disks {
			if !disk.Kept {
				continue
			}
			st, err := os.Lstat(filepath.Join(d.snapshots(id), s.Name, copyName(i, disk)))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case err != nil:
				return nil, "", err
			}
			one.Copies = append(one.Copies, offerCopy{Disk: i, Size: st.Size()})
			have = append(have, disk.Name)
		}
		if !slices.Equal(have, s.Disks) {
			return nil, fmt.Sprintf("its snapshot %s is of other disks (%s) than it has now, and would not go along: remove it, sovmesh job snapshot ID --remove %s, and it can be moved", s.Name, strings.Join(s.Disks, ", "), s.Name), nil
		}
		all = append(all, one)
	}
	return all, "", nil
}

// plainLine is a text as it goes over the wire.
func plainLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), maxWhy)], "") // a rune is not cut
}

// patient is a stream on which every piece has its time.
type patient struct {
	ctx context.Context
	net.Conn
}

func (p patient) Write(b []byte) (int, error) {
	defer cutAfter(p.ctx, p.SetWriteDeadline, stallPatience)()
	return p.Conn.Write(b)
}

func (p patient) Read(b []byte) (int, error) {
	defer cutAfter(p.ctx, p.SetReadDeadline, stallPatience)()
	return p.Conn.Read(b)
}

// snapshots sends those that were offered, while the guest runs.
func (s *sender) snapshots(ctx context.Context) error {
	if s.shared || len(s.along) == 0 {
		return nil
	}
	c, err := s.to.Open(ctx, streamSnapshots)
	if err != nil {
		return err
	}
	s.streams++
	s.pipes.holds(c)
	if err := s.sendSnapshots(ctx, patient{ctx, c}); err != nil {
		return errors.Join(s.word(ctx), fmt.Errorf("send the snapshots of its disks: %w", err))
	}
	return c.Close()
}

// word waits a moment for what the other side says of a stream that broke off.
func (s *sender) word(ctx context.Context) error {
	t := time.NewTimer(greetPatience)
	defer t.Stop()
	select {
	case w := <-s.words:
		return w.failed()
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

func (s *sender) sendSnapshots(ctx context.Context, to patient) error {
	_, t, err := s.d.told(s.h.Task)
	if err != nil {
		return err
	}
	f := &forward{s: s, ctx: ctx, to: to, at: runner.MoveProgress{Phase: "snapshots", Total: copiesSize(s.along)}}
	for _, snap := range s.along {
		for _, c := range snap.Copies {
			if err := f.file(filepath.Join(s.d.snapshots(s.h.Task), snap.Name, copyName(c.Disk, t.Disks[c.Disk])), c.Size); err != nil {
				return fmt.Errorf("%s: %w", snap.Name, err)
			}
		}
	}
	var there [1]byte
	if _, err := io.ReadFull(to, there[:]); err != nil {
		return fmt.Errorf("hear that they are there: %w", err)
	}
	return nil
}

// forward writes to the other side, and tells how far it got.
type forward struct {
	s    *sender
	ctx  context.Context
	to   patient
	at   runner.MoveProgress
	said time.Time
}

func (f *forward) Write(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := f.to.Write(p)
	f.at.Bytes += int64(n)
	if err != nil || time.Since(f.said) < statusEvery {
		return n, err
	}
	f.said = time.Now()
	f.s.told(f.at)
	return n, f.s.logs.send(f.ctx)
}

func (f *forward) file(path string, size int64) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, sum), io.LimitReader(in, size), make([]byte, pipeRoom))
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%s has %d bytes, and had %d", filepath.Base(path), n, size)
	}
	_, err = f.to.Write(sum.Sum(nil))
	return err
}

// takeSnapshots writes those that were offered beside the disks that come. They are
// given up with them, and the copy's own with them.
func (r *receiver) takeSnapshots(ctx context.Context, c net.Conn) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if err := ctx.Err(); err != nil { // what lies there is being removed
		return err
	}
	_, t, err := r.d.told(r.h.Task)
	if err != nil {
		return err
	}
	dir, left := r.d.snapshots(r.h.Task), copiesSize(r.along)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return explainSpace(err)
	}
	in := patient{ctx, c}
	for _, s := range r.along {
		if err := r.takeSnapshot(ctx, in, s, t.Disks, &left); err != nil {
			return fmt.Errorf("%s: %w", s.Name, explainSpace(err))
		}
	}
	if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
		return err
	}
	r.snapped.Store(true)
	_, err = in.Write([]byte{'\n'})
	return err
}

func (r *receiver) takeSnapshot(ctx context.Context, in patient, s offerSnapshot, disks []disk, left *int64) error {
	dir := r.d.snapshots(r.h.Task)
	fresh := filepath.Join(dir, ".new-"+s.Name)
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	snap := runner.DiskSnapshot{At: s.At, Frozen: s.Frozen, Why: s.Why}
	for _, c := range s.Copies {
		path := filepath.Join(fresh, copyName(c.Disk, disks[c.Disk]))
		if err := r.takeCopy(ctx, in, path, c.Size, left); err != nil {
			return fmt.Errorf("disk %s: %w", disks[c.Disk].Name, err)
		}
		taken, err := takes(path)
		if err != nil {
			return err
		}
		snap.Disks, snap.Bytes = append(snap.Disks, disks[c.Disk].Name), snap.Bytes+taken
	}
	if err := writeJSON(filepath.Join(fresh, snapshotNote), snap); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(dir, s.Name))
}

// takeCopy takes so many bytes and their digest, piece by piece: what else is written
// to the node's disk meanwhile may leave no room for the rest.
func (r *receiver) takeCopy(ctx context.Context, in patient, path string, size int64, left *int64) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	sum, buf := sha256.New(), make([]byte, pipeRoom)
	for at := int64(0); at < size; {
		if err := errors.Join(ctx.Err(), r.d.room(r.h.Task, *left)); err != nil {
			return err
		}
		n, err := io.CopyBuffer(io.MultiWriter(out, sum), io.LimitReader(in, min(alongSync, size-at)), buf)
		if err == nil && n < min(alongSync, size-at) {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			err = out.Sync()
		}
		if err != nil {
			return err
		}
		at, *left = at+n, *left-n
	}
	var said [sha256.Size]byte
	if _, err := io.ReadFull(in, said[:]); err != nil {
		return err
	}
	if said != [sha256.Size]byte(sum.Sum(nil)) {
		return errors.New("it is not what the other side read: their digests are not the same")
	}
	return out.Close()
}
