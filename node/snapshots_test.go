package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestSnapshotsLeaveRoomForTheLog(t *testing.T) {
	var free atomic.Int64
	free.Store(10)
	s := newSnapshots(filepath.Join(t.TempDir(), "snapshots"))
	s.reserve, s.free, s.look = 5, func(string) (int64, error) { return free.Load(), nil }, time.Millisecond
	quick := func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "memory"), nil, 0o600)
	}
	var full *snapshotError

	var removes []func()
	for range snapshotsMost {
		dir, remove, err := s.make(t.Context(), quick)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "memory")); err != nil {
			t.Error(err)
		}
		removes = append(removes, remove)
	}
	if _, _, err := s.make(t.Context(), quick); !errors.As(err, &full) || full.Hint() == "" {
		t.Errorf("one more at once: %v", err)
	}
	for _, remove := range removes {
		remove()
	}
	// It is stopped when the disk fills up meanwhile, and what it wrote is gone.
	_, _, err := s.make(t.Context(), func(ctx context.Context, dir string) error {
		free.Store(4)
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.As(err, &full) {
		t.Errorf("while the disk fills up: %v", err)
	}
	if _, _, err := s.make(t.Context(), quick); !errors.As(err, &full) {
		t.Errorf("on a full disk: %v", err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	free.Store(10)
	for range 2 * snapshotsMost { // the slots of those that failed are free
		_, remove, err := s.make(t.Context(), quick)
		if err != nil {
			t.Fatal(err)
		}
		remove()
	}
}
