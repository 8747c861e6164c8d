package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/sovmesh/sovmesh/consensus/ledger/store"
	"github.com/sovmesh/sovmesh/placement"
)

// Identity says whose data a store holds.
type Identity struct {
	Region placement.RegionID `json:"region"`
	Node   placement.NodeID   `json:"node"`
}

// Stores are what raft keeps on disk. Log must be monotonic like raft-wal.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Close     func() error
	// Ledger is where the region's leaves go; nil keeps none.
	Ledger store.Files
	// Forget makes sure that no snapshot and no file of the log holds an entry up
	// to an index, as far as a newer snapshot is there, and reports whether that is
	// so. Nil: nothing is on a disk.
	Forget func(index uint64) (bool, error)
	// Committed remembers, roughly, how far this replica had come: a log that
	// ends before it was damaged. Both are optional.
	Committed     func() (uint64, error)
	NoteCommitted func(index uint64) error
}

// Storage opens what a group keeps; it is opened again after every restart.
type Storage interface {
	Open(id Identity, log *slog.Logger) (*Stores, error)
}

// Foreign says that a data directory belongs to somebody else.
type Foreign struct {
	Dir       string
	Has, Want Identity
}

func (e *Foreign) Error() string {
	return fmt.Sprintf("the data directory %s belongs to node %s of region %s, not to node %s of region %s", e.Dir, e.Has.Node, e.Has.Region, e.Want.Node, e.Want.Region)
}

// Hint says what to do.
func (e *Foreign) Hint() string {
	return "start the agent with its own data directory, or with the node's own configuration"
}

// Corrupt says that the log cannot be read.
type Corrupt struct {
	Where string
	Err   error
}

func (e *Corrupt) Error() string {
	return fmt.Sprintf("the raft log is damaged: %s: %v", e.Where, e.Err)
}

// Unwrap gives the cause.
func (e *Corrupt) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Corrupt) Hint() string {
	return "if the other voters are well: sovmesh node remove this node there, move its data directory away, and let it join again; else restore the directory from a backup"
}

// Dir keeps everything below one directory: the log in raft-wal's segments,
// snapshots as files, the ledger, and a note whose they are.
func Dir(path string) Storage { return dir(path) }

type dir string

const (
	identityFile  = "consensus.json"
	committedFile = "consensus.committed"
	ledgerDir     = "ledger"
	logDir        = "raft"
	snapshotsKept = 2
)

func (d dir) Open(id Identity, log *slog.Logger) (*Stores, error) {
	path := string(d)
	logs := filepath.Join(path, logDir)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, fmt.Errorf("make the raft directory: %w", err)
	}
	if err := checkIdentity(path, id); err != nil {
		return nil, err
	}
	if err := d.dropUnfinished(); err != nil {
		return nil, fmt.Errorf("remove half-written snapshots below %s: %w", path, err)
	}
	w, err := openLog(logs, log)
	if err != nil {
		return nil, &Corrupt{logs, err}
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(path, snapshotsKept, hclogger(log, "snapshot"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the snapshots below %s: %w", path, err), w.Close())
	}
	file := filepath.Join(path, committedFile)
	stores := &Stores{
		Log: w, Stable: w, Snapshots: snapshots, Close: w.Close, Ledger: store.Dir(filepath.Join(path, ledgerDir)),
		Committed:     func() (uint64, error) { return readCommitted(file) },
		NoteCommitted: func(index uint64) error { return replaceFile(file, strconv.FormatUint(index, 10)) },
	}
	stores.Forget = func(index uint64) (bool, error) { return d.forget(stores, index) }
	return stores, nil
}

// openLog opens raft-wal's files. Its index is mapped into memory, and the library
// takes it as it finds it: one that is empty or cut short ends in a panic or a
// fault of the memory, which is damage like any other.
func openLog(dir string, log *slog.Logger) (w *wal.WAL, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its index cannot be read: %v", p)
		}
	}()
	return wal.Open(dir, wal.WithLogger(hclogger(log, "wal")))
}

func readCommitted(file string) (uint64, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	index, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, &Corrupt{file, err}
	}
	return index, nil
}

// replaceFile writes a small file in one step. It is on the disk before it has
// its name: a power cut would leave an empty one, which is taken for damage.
func replaceFile(file, content string) error {
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = f.WriteString(content + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(tmp, file)
}

// checkIdentity reads the note, or writes it on a fresh directory.
func checkIdentity(path string, want Identity) error {
	file := filepath.Join(path, identityFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		data, _ = json.Marshal(want)
		return replaceFile(file, string(data))
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	var has Identity
	if err := json.Unmarshal(data, &has); err != nil {
		return &Corrupt{file, err}
	}
	if has != want {
		return &Foreign{path, has, want}
	}
	return nil
}

// checkLog reads every entry once, so that damage is one clear line at start
// and not a crash later. It is a few thousand entries: the rest is in snapshots.
//
// raft-wal takes damage near the log's end for a torn write and cuts it off, so
// that the log must also reach what this replica knew to be committed.
func checkLog(stores *Stores) error {
	log := stores.Log
	first, err := log.FirstIndex()
	if err != nil {
		return &Corrupt{"its first index", err}
	}
	last, err := log.LastIndex()
	if err != nil {
		return &Corrupt{"its last index", err}
	}
	for i := first; i != 0 && i <= last; i++ {
		var entry raft.Log
		if err := log.GetLog(i, &entry); err != nil {
			return &Corrupt{fmt.Sprintf("entry %d of %d to %d", i, first, last), err}
		}
		if entry.Index != i {
			return &Corrupt{fmt.Sprintf("entry %d of %d to %d", i, first, last), fmt.Errorf("it says it is entry %d", entry.Index)}
		}
		if entry.Type == raft.LogCommand {
			if _, err := decodeBatch(entry.Data); err != nil {
				return &Corrupt{fmt.Sprintf("entry %d of %d to %d", i, first, last), err}
			}
		}
	}
	return checkEnds(stores, first, last)
}

// checkEnds looks whether log and snapshots together reach from the beginning to
// what this replica knew to be committed.
func checkEnds(stores *Stores, first, last uint64) error {
	snapshots, err := stores.Snapshots.List()
	if err != nil {
		return &Corrupt{"its snapshots", err}
	}
	newest := uint64(0)
	for _, s := range snapshots {
		newest = max(newest, s.Index)
	}
	if first > newest+1 {
		return &Corrupt{"its snapshots", fmt.Errorf("the log begins with entry %d, and no snapshot that can be read has what was before", first)}
	}
	if stores.Committed == nil {
		return nil
	}
	committed, err := stores.Committed()
	if err != nil {
		return err
	}
	if last = max(last, newest); last < committed {
		return &Corrupt{"its end", fmt.Errorf("it ends at entry %d, and had reached %d", last, committed)}
	}
	return nil
}

const cachedEntries = 1024

// logStore is raft's log with a cache in front and an ear for faults.
type logStore struct {
	*raft.LogCache
	monotonic bool
	note      func(error)

	mu     sync.Mutex
	faulty bool // the last write failed; guarded by mu
}

func cached(log raft.LogStore, note func(error)) raft.LogStore {
	c, err := raft.NewLogCache(cachedEntries, log)
	if err != nil {
		panic(err) // the size is a constant above zero
	}
	m, ok := log.(raft.MonotonicLogStore)
	return &logStore{LogCache: c, monotonic: ok && m.IsMonotonic(), note: note}
}

// IsMonotonic forwards what the store below says: without it raft leaves a
// hole in raft-wal after a snapshot was installed.
func (l *logStore) IsMonotonic() bool { return l.monotonic }

// StoreLog implements raft.LogStore.
func (l *logStore) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l *logStore) StoreLogs(entries []*raft.Log) error {
	err := l.LogCache.StoreLogs(entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	if (err != nil) != l.faulty {
		l.note(err)
	}
	l.faulty = err != nil
	return err
}

// patientStore keeps raft's term and vote. Raft panics when they cannot be
// written; a full disk is no reason to take the whole agent down, so a write is
// tried again until it succeeds, and meanwhile this replica says nothing.
type patientStore struct {
	raft.StableStore
	stop  <-chan struct{}
	note  func(error)
	after func(time.Duration, <-chan struct{}) bool
}

// Set implements raft.StableStore.
func (p *patientStore) Set(key, val []byte) error {
	return p.retry(func() error { return p.StableStore.Set(key, val) })
}

// SetUint64 implements raft.StableStore.
func (p *patientStore) SetUint64(key []byte, val uint64) error {
	return p.retry(func() error { return p.StableStore.SetUint64(key, val) })
}

func (p *patientStore) retry(write func() error) error {
	err := write()
	if err == nil {
		return nil
	}
	p.note(err)
	for err != nil {
		if !p.after(500*time.Millisecond, p.stop) {
			// The replica is muted and going away: nobody hears what was not kept.
			return nil
		}
		err = write()
	}
	p.note(nil)
	return nil
}
