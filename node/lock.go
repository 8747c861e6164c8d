package node

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const fileLock = "lock"

// lock takes the data directory for this process until unlock. Two agents on
// one directory would wait for each other's files, and gossip of each other as
// dead. The operating system drops the lock with the process, however it ends.
func (d dataDir) lock() (unlock func(), err error) {
	f, err := os.OpenFile(d.path(fileLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another agent runs on %s; end it first, one directory belongs to one agent", d)
		}
		return nil, fmt.Errorf("lock %s: %w", d.path(fileLock), err)
	}
	return func() { _ = f.Close() }, nil
}
