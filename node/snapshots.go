package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
)

// snapshots are those of tasks, from their making until they are sent. They lie on
// the disk of the raft log, which must not be filled by them: so many at once, and
// none goes on while less than a reserve is free.
type snapshots struct {
	dir     string
	slots   chan struct{}                   // taken by each until it is removed
	reserve int64                           // bytes
	free    func(dir string) (int64, error) // bytes
	look    time.Duration                   // how often the space is looked at meanwhile
}

// snapshotsMost are at once on a node; snapshotReserve stays free of them, in bytes.
const (
	snapshotsMost   = 2
	snapshotReserve = 1 << 30
)

func newSnapshots(dir string) *snapshots {
	return &snapshots{dir: dir, slots: make(chan struct{}, snapshotsMost), reserve: snapshotReserve, free: runner.Free, look: 200 * time.Millisecond}
}

// snapshotError is a snapshot that this node has no room for.
type snapshotError struct{ why, hint string }

func (e *snapshotError) Error() string { return e.why }
func (e *snapshotError) Hint() string  { return e.hint }

// make has a snapshot written into a directory of its own, which stays until it is
// removed. Nothing of one that fails stays.
func (s *snapshots) make(ctx context.Context, write func(ctx context.Context, dir string) error) (dir string, remove func(), err error) {
	select {
	case s.slots <- struct{}{}:
	default:
		return "", nil, &snapshotError{fmt.Sprintf("%d snapshots are being made or sent on this node, which is the most at once", cap(s.slots)), "try again when one of them is over"}
	}
	release := func() { <-s.slots }
	if err := errors.Join(os.MkdirAll(s.dir, 0o700), s.room()); err != nil {
		release()
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(s.dir, "snapshot-"); err != nil {
		release()
		return "", nil, err
	}
	remove = func() {
		_ = os.RemoveAll(dir) // what stays is removed at the next start
		release()
	}
	if err := s.watched(ctx, dir, write); err != nil {
		remove()
		return "", nil, err
	}
	return dir, remove, nil
}

// watched writes until there is no room any more.
func (s *snapshots) watched(ctx context.Context, dir string, write func(ctx context.Context, dir string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(s.look)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if err := s.room(); err != nil {
					cancel(err)
				}
			}
		}
	}()
	err := write(ctx, dir)
	close(done)
	<-stopped
	var full *snapshotError
	if err != nil && errors.As(context.Cause(ctx), &full) {
		return full
	}
	return err
}

func (s *snapshots) room() error {
	free, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("see how much space is left for a snapshot: %w", err)
	}
	if free < s.reserve {
		return &snapshotError{
			fmt.Sprintf("the node's disk has %d MiB free, and %d MiB of it are kept for the region's own log", free>>20, s.reserve>>20),
			"free some space on the node, or put its data directory on a larger disk",
		}
	}
	return nil
}

// clear removes snapshots that an agent left which died while it sent them.
func (s *snapshots) clear() error {
	if err := os.RemoveAll(s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
