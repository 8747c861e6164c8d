// Package output keeps what a task prints, in bounded files of its directory.
//
// A file is named by the byte that it begins at, counted from the start of the
// task: whoever reads on at a byte finds it, or the oldest after it, whichever
// program wrote the files and how often the agent was started anew. Drivers
// whose tasks have a supervisor of ours write with it; all of them read with it.
package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Writer keeps the last part of an output in files named by the byte they
// begin at. It never fails: what the disk does not take is dropped and counted,
// for a task must not stand still because its output cannot be kept. It begins
// at byte 0 unless [Writer.Resume] was called.
type Writer struct {
	Dir      string
	FileSize int64 // bytes of one file
	Files    int   // the oldest above so many is dropped
	// Behind: what another writer has kept by the time that the first byte comes
	// is gone on behind.
	Behind bool

	file    *os.File
	begin   int64 // of file
	end     int64 // of all output that was kept
	dropped int64
	reason  error
}

func logName(begin int64) string { return fmt.Sprintf("log.%020d", begin) }

func path(dir string, begin int64) string { return filepath.Join(dir, logName(begin)) }

// Files are the beginnings of the files that are there, in order.
func Files(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), "log."); ok {
			if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// Resume makes the writer go on behind what an earlier one kept.
func (w *Writer) Resume() error {
	all, err := Files(w.Dir)
	if err != nil || len(all) == 0 {
		return err
	}
	begin := all[len(all)-1]
	f, err := os.OpenFile(path(w.Dir, begin), os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.begin, w.end = f, begin, begin+st.Size()
	return nil
}

// Begin makes the writer count from there, for an output whose beginning was
// kept elsewhere and dropped.
func (w *Writer) Begin(at int64) { w.begin, w.end = at, at }

// End is how much output there was before what is written next, in bytes.
func (w *Writer) End() int64 { return w.end }

// Write keeps p.
func (w *Writer) Write(p []byte) (int, error) {
	if w.Behind && w.file == nil {
		w.Behind = false
		_ = w.Resume() // what cannot be read on is counted anew
	}
	if w.dropped > 0 {
		note := fmt.Appendf(nil, "\n[sovmesh: %d bytes of output were not kept: %v]\n", w.dropped, w.reason)
		if w.put(note) == nil {
			w.dropped = 0
		}
	}
	for rest := p; len(rest) > 0; {
		n := min(int64(len(rest)), max(w.FileSize-(w.end-w.begin), 0))
		if w.file == nil || n == 0 {
			if err := w.rotate(); err != nil {
				w.drop(len(rest), err)
				break
			}
			continue
		}
		if err := w.put(rest[:n]); err != nil {
			w.drop(len(rest), err)
			break
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (w *Writer) drop(n int, err error) {
	w.dropped += int64(n)
	w.reason = err
}

func (w *Writer) put(p []byte) error {
	if w.file == nil {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := w.file.Write(p)
	w.end += int64(n)
	return err
}

func (w *Writer) rotate() error {
	f, err := os.OpenFile(path(w.Dir, w.end), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if w.file != nil {
		_ = w.file.Close()
	}
	w.file, w.begin = f, w.end
	all, err := Files(w.Dir)
	if err != nil {
		return nil // the file is there; the old ones go another time
	}
	for len(all) > w.Files {
		_ = os.Remove(path(w.Dir, all[0]))
		all = all[1:]
	}
	return nil
}

// Close closes the file in use.
func (w *Writer) Close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// A reader that follows looks for more after lookFirst, for the first line of what
// just began is waited for; then ever later, until it looks every followEvery. What
// came makes it look again after lookAgain: soon, and not for every line of many.
const (
	lookFirst   = time.Millisecond
	lookAgain   = 5 * time.Millisecond
	followEvery = 25 * time.Millisecond
)

// Open reads what a [Writer] keeps, also while it does, from the given byte on;
// with follow until over says that nothing more will be written. Close ends a
// read in progress, and so does the end of ctx.
func Open(ctx context.Context, dir string, from int64, follow bool, over func() bool) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	return &reader{ctx: ctx, cancel: cancel, dir: dir, at: max(from, 0), follow: follow, over: over, pause: lookFirst}
}

// reader reads what a Writer keeps.
type reader struct {
	ctx    context.Context // of the one read that it serves; ended by Close
	cancel context.CancelFunc
	dir    string
	at     int64
	follow bool
	over   func() bool // nothing more will be written

	file  *os.File
	begin int64
	pause time.Duration // before the next look
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		over := r.over() // asked before reading: what came before the end is read
		n, err := r.some(p)
		if n > 0 {
			r.pause = lookAgain
		}
		if n > 0 || err != nil {
			return n, err
		}
		if over || !r.follow {
			return 0, io.EOF
		}
		t := time.NewTimer(r.pause)
		r.pause = min(r.pause*3/2, followEvery)
		select {
		case <-t.C:
		case <-r.ctx.Done():
			t.Stop()
		}
	}
}

// some reads what is there now; nothing is no error.
func (r *reader) some(p []byte) (int, error) {
	for {
		if r.file == nil {
			if found, err := r.open(); !found || err != nil {
				return 0, err
			}
		}
		n, err := r.file.ReadAt(p, r.at-r.begin)
		if n > 0 {
			r.at += int64(n)
			return n, nil
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		// The end of this file: the output goes on in a later one, if any.
		all, err := Files(r.dir)
		if err != nil || len(all) == 0 || all[len(all)-1] <= r.begin {
			return 0, err
		}
		// More may have come into this file before the next one was begun.
		if n, _ := r.file.ReadAt(p, r.at-r.begin); n > 0 {
			r.at += int64(n)
			return n, nil
		}
		i, _ := slices.BinarySearch(all, r.begin+1)
		r.at = max(r.at, all[i])
		_ = r.file.Close()
		r.file = nil
	}
}

// open finds the file that holds the byte wanted, or the oldest after it.
func (r *reader) open() (bool, error) {
	for {
		all, err := Files(r.dir)
		if err != nil || len(all) == 0 {
			return false, err
		}
		i, exact := slices.BinarySearch(all, r.at)
		if !exact && i > 0 {
			i--
		}
		f, err := os.Open(path(r.dir, all[i]))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped just now
		}
		if err != nil {
			return false, err
		}
		r.file, r.begin, r.at = f, all[i], max(r.at, all[i])
		return true, nil
	}
}

// Close ends a read in progress; it may be called from another goroutine.
func (r *reader) Close() error {
	r.cancel()
	return nil
}
