//go:build linux

// Package claims keeps the agents of one machine out of each other's way: ranges
// of user numbers, and what of the machine's own settings they share.
//
// The rule: what is claimed is written below one directory in memory that goes with
// a boot, and belongs to a directory of the claimant's. Whoever finds that gone, or
// for long without anything in it, may take the claim over, so that nothing has to be
// given back. Waits are bounded, and
// an end of one says who was waited for. Drivers rely on it.
package claims

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is where the agents of a machine find each other.
const Dir = "/run/sovmesh"

// Patience bounds the wait for one that holds a lock, far above what anybody holds
// one for. A queue may take longer.
const Patience = 30 * time.Second

// LockedError is a lock that somebody holds for longer than was waited.
type LockedError struct {
	Path   string
	Within time.Duration
	Holder string // in words
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s has been locked for more than %s by %s", e.Path, e.Within, e.Holder)
}

// Hint says what the node's operator can do.
func (e *LockedError) Hint() string {
	return "see what that process waits for, and end it if it does not go on"
}

// Lock locks a file or a directory against other processes, and against other
// locks of this one. It gives up once one process was the holder for so long as
// within, and at the latest when that has passed again: who waits in a queue that
// goes on is not told that somebody hangs.
func Lock(path string, within time.Duration) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	at, err := inodeOf(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t, q, err := waiting.join(at, f)
	switch {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	case t == nil:
		return func() { _ = f.Close() }, nil
	}
	who, got := await(t.got, within, func() string { return holder(at) })
	if who != "" && !waiting.leave(q, t) {
		who, got = "", <-t.got // just now
	}
	if who != "" {
		return nil, &LockedError{Path: path, Within: within, Holder: who}
	}
	if got.err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, got.err), got.f.Close())
	}
	return func() { _ = got.f.Close() }, nil
}

// waiting is who of this process waits for which lock. It is the process's own: the
// kernel's wait for a lock cannot be given up, and takes a thread and a descriptor,
// so that there is one for each lock, which later callers join.
var waiting = queues{of: make(map[inode]*queue)}

type queues struct {
	mu sync.Mutex
	of map[inode]*queue // guarded by mu, with what is in it
}

// queue is who waits for one lock, in their order.
type queue struct {
	turns []*turn
}

// turn is one caller who waits.
type turn struct {
	f   *os.File // its own, until the lock is asked for with it
	got chan got // takes one without blocking
}

// got is a file that is locked, or why it is not.
type got struct {
	f   *os.File
	err error
}

type inode struct{ dev, ino uint64 }

func inodeOf(f *os.File) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return inode{}, fmt.Errorf("see which file %s is: %w", f.Name(), err)
	}
	return inode{st.Dev, st.Ino}, nil
}

// join locks the file, or else has the caller wait for it behind those who do.
func (w *queues) join(at inode, f *os.File) (*turn, *queue, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.of[at]
	if q == nil {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil, err
		}
		q = &queue{}
		w.of[at] = q
		go w.ask(at, q) // it ends with the holder, once nobody waits
	}
	t := &turn{f, make(chan got, 1)}
	q.turns = append(q.turns, t)
	return t, q, nil
}

// leave takes back a turn, unless it has come.
func (w *queues) leave(q *queue, t *turn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := slices.Index(q.turns, t)
	if n < 0 {
		return false
	}
	q.turns = slices.Delete(q.turns, n, n+1)
	if t.f != nil {
		_ = t.f.Close()
	}
	return true
}

// ask asks the kernel for the lock, for one after the other. The kernel lets in who
// waited first; who asked again and again would starve.
func (w *queues) ask(at inode, q *queue) {
	for {
		w.mu.Lock()
		if len(q.turns) == 0 {
			delete(w.of, at)
			w.mu.Unlock()
			return
		}
		f := q.turns[0].f
		q.turns[0].f = nil
		w.mu.Unlock()
		err := flock(f, unix.LOCK_EX)
		w.mu.Lock()
		if len(q.turns) == 0 {
			_ = f.Close()
		} else { // whose turn it is by now
			t := q.turns[0]
			q.turns = q.turns[1:]
			if t.f != nil {
				_ = t.f.Close()
			}
			t.got <- got{f, err}
		}
		w.mu.Unlock()
	}
}

// await waits for the lock until the holder stayed the same for so long as within:
// it is then who.
func await(locked <-chan got, within time.Duration, holder func() string) (who string, g got) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for had := holder(); ; {
		select {
		case g := <-locked:
			return "", g
		case <-timer.C:
		}
		now := holder()
		if now == had || now == unknown {
			return now, got{}
		}
		had = now
		timer.Reset(within)
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const unknown = "a process that is not known"

// holder says who holds the lock of a file (proc_locks(5)).
func holder(at inode) string {
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 6 || w[1] != "FLOCK" || !strings.HasSuffix(w[5], ":"+strconv.FormatUint(at.ino, 10)) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join("/proc", w[4], "comm"))
		return strings.TrimSpace(fmt.Sprintf("process %s %s", w[4], strings.TrimSpace(string(name))))
	}
	return unknown
}

// Unasked is how long a claim is not asked for before another may have it: far above
// what passes between an owner's asking and something of it in its directory.
const Unasked = time.Hour

// Block claims one of so many blocks for the owner, a directory of its own with
// something in it for as long as a number of the block is in use: the one that it
// has, or else one that nobody has any more, or else one that its owner uses for
// nothing. The owner asks each time before it uses a number. The claim lies in dir.
func Block(dir, owner string, blocks int) (int, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("claim a range of %s: %w", dir, err)
	}
	unlock, err := Lock(dir, Patience)
	if err != nil {
		return 0, err
	}
	defer unlock()
	var free, unused []int
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(owner))
	first := int(sum.Sum64() % uint64(blocks)) // the same after a boot, where nobody else has it
	for i := range blocks {
		n := (first + i) % blocks
		switch has, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(n))); {
		case err == nil && string(has) == owner:
			now := time.Now()
			if err := os.Chtimes(filepath.Join(dir, strconv.Itoa(n)), now, now); err != nil {
				return 0, fmt.Errorf("claim a range: %w", err)
			}
			return n, nil
		case errors.Is(err, fs.ErrNotExist), err == nil && gone(string(has)):
			free = append(free, n)
		case err != nil:
			return 0, fmt.Errorf("claim a range: %w", err)
		case unusedBy(string(has), filepath.Join(dir, strconv.Itoa(n))):
			unused = append(unused, n)
		}
	}
	free = append(free, unused...)
	if len(free) == 0 {
		return 0, fmt.Errorf("claim a range: all %d of %s are in use by other agents on this machine", blocks, dir)
	}
	at := filepath.Join(dir, strconv.Itoa(free[0]))
	if err := os.WriteFile(at+".new", []byte(owner), 0o600); err != nil {
		return 0, fmt.Errorf("claim a range: %w", err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		return 0, fmt.Errorf("claim a range: %w", err)
	}
	return free[0], nil
}

func gone(owner string) bool {
	_, err := os.Lstat(owner)
	return errors.Is(err, fs.ErrNotExist)
}

// unusedBy reports whether the owner has nothing in its directory, and has not asked
// for the claim of late.
func unusedBy(owner, claim string) bool {
	st, err := os.Stat(claim)
	if err != nil || time.Since(st.ModTime()) < Unasked {
		return false
	}
	within, err := os.ReadDir(owner)
	return err == nil && len(within) == 0
}
