//go:build linux

package vm

import (
	"context"
	"sync"
)

// meanwhile is what a move's source does from the instant on at which the guest
// stands, beside what is left of its memory: all that waits for nothing but that.
// Two ways are gone at once: the copies of disks end, which QEMU waits for before
// it sends the devices; and the guest's last words, its sessions and the note are
// seen to, which the word "sent" waits for.
type meanwhile struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	copied chan struct{} // closed when the copies have ended, or failed
	ready  chan struct{} // closed when the rest is done, or failed
	// What came of it, to be read once the channel is closed.
	copyErr, readyErr error
	open              int // sessions whose streams were opened
}

func newMeanwhile(ctx context.Context) *meanwhile {
	m := &meanwhile{copied: make(chan struct{}), ready: make(chan struct{})}
	m.ctx, m.cancel = context.WithCancel(ctx)
	return m
}

// beside begins it, once.
func (s *sender) beside(ctx context.Context) {
	s.meanwhile.once.Do(func() {
		m := s.meanwhile
		m.wg.Go(func() {
			defer close(m.copied)
			m.copyErr = endMirrors(m.ctx, s.m, false)
			if m.copyErr == nil {
				// QEMU flushes all disks that it knows before it sends the devices: one that
				// the other side does not serve any more would end the migration.
				m.copyErr = dropNodes(m.ctx, s.m)
			}
			if m.copyErr == nil {
				m.copyErr = s.say(m.ctx, step{Step: stepDisks})
			}
		})
		m.wg.Go(func() {
			defer close(m.ready)
			// Early is safe: it says no more than that the other side may have all of it.
			m.readyErr = writeNote(s.d.TaskDir(s.h.Task), note{Way: out, Stage: said, Paused: s.paused, Shared: s.shared})
			if m.readyErr == nil {
				m.open = s.d.sessions.send(m.ctx, s.h.Task, sessionsBeside(s.streams), s.to)
				m.readyErr = s.logs.rest(m.ctx)
			}
		})
	})
}

// disks waits until the disks are whole on the other side.
func (m *meanwhile) disks(ctx context.Context) error {
	select {
	case <-m.copied:
		return m.copyErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rest waits for all else, and says how many sessions go along.
func (m *meanwhile) rest(ctx context.Context) (sessions int, err error) {
	select {
	case <-m.ready:
		return m.open, m.readyErr
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// end waits until nothing of it is under way any more.
func (m *meanwhile) end() {
	m.cancel()
	m.wg.Wait()
}
