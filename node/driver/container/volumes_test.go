//go:build linux

package container

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Two tasks of a job start at once: each finds the volume whole.
func TestAVolumeIsThereWholeOrNotAtAll(t *testing.T) {
	uid, user := uint32(os.Geteuid()), ""
	if uid == 0 {
		uid, user = 1234, "1234:1234"
	}
	for range 50 {
		job := filepath.Join(t.TempDir(), "job")
		dir := filepath.Join(job, "data")
		var tasks sync.WaitGroup
		for range 4 {
			tasks.Go(func() {
				err := makeVolume(dir, user)
				info, statErr := os.Stat(dir)
				if err != nil || statErr != nil || info.Sys().(*syscall.Stat_t).Uid != uid {
					t.Errorf("%v, %v, %+v", err, statErr, info)
				}
			})
		}
		tasks.Wait()
		if left, err := os.ReadDir(job); err != nil || len(left) != 1 {
			t.Errorf("there is %v, %v", left, err)
		}
	}
}
