//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
)

// memory sends the guest's memory, round by round while it writes, until QEMU
// holds it still for the rest.
func (s *sender) memory(ctx context.Context) error {
	c, err := s.to.Open(ctx, streamMemory)
	if err != nil {
		return err
	}
	s.pipes.holds(c)
	ours, theirs, err := s.pipes.pair(streamMemory)
	if err != nil {
		return err
	}
	defer theirs.Close()
	s.pipes.join(ours, c)
	if err := capabilities(ctx, s.m, "pause-before-switchover", "events"); err != nil {
		return err
	}
	if err := s.pace(ctx, sendRate, stillMost); err != nil {
		return err
	}
	if err := s.m.RunFD(ctx, "getfd", map[string]string{"fdname": streamMemory}, nil, theirs); err != nil {
		return err
	}
	if s.once {
		err = s.beginOnce(ctx)
	} else {
		err = s.migrate(ctx)
	}
	if err != nil {
		return err
	}
	return s.rounds(ctx)
}

// rounds follows the memory until QEMU holds the guest still for the last of it.
func (s *sender) rounds(ctx context.Context) error {
	if s.paused {
		s.stands()
	}
	p, quick := patienceFor(s.d.cfg.LiveFor), false
	for {
		mig, err := s.migration(ctx)
		if err != nil {
			return err
		}
		if mig.Status == "pre-switchover" {
			if s.once && s.since.IsZero() {
				return errLostWrite
			}
			s.stands()
			s.beside(ctx)
			return nil
		}
		at := runner.MoveProgress{Phase: "memory"}
		if mig.RAM != nil {
			at.Bytes, at.Total = mig.RAM.Sent, mig.RAM.Sent+mig.RAM.Left
		}
		s.told(at)
		if s.since.IsZero() && (p.over() || s.once && mig.nearEnd(1)) {
			if err := s.rest(ctx); err != nil {
				return err
			}
		}
		if s.once && s.since.IsZero() {
			if !quick && mig.nearEnd(2) {
				// QEMU sleeps where it is held to a rate: it is not to when the guest stands.
				if err := s.pace(ctx, sendRate, onceStill); err != nil {
					return err
				}
				quick = true
			}
			pause(ctx, switchEvery/4)
			continue
		}
		if !s.since.IsZero() {
			s.beside(ctx)
			if err := errors.Join(p.moved(at.Bytes), s.heard()); err != nil {
				return err
			}
			s.await(ctx, switchEvery)
			continue
		}
		if err := errors.Join(p.moved(at.Bytes), s.logs.send(ctx), s.heard()); err != nil {
			return err
		}
		s.await(ctx, statusEvery)
	}
}

// pace bounds the memory's stream, in bytes a second, and says how long QEMU may
// think that the guest stands for what is left of it.
func (s *sender) pace(ctx context.Context, rate int64, still time.Duration) error {
	return ask(ctx, s.m, "migrate-set-parameters", map[string]any{"max-bandwidth": rate, "downtime-limit": still.Milliseconds()}, nil)
}

func (s *sender) migrate(ctx context.Context) error {
	return ask(ctx, s.m, "migrate", map[string]string{"uri": "fd:" + streamMemory}, nil)
}

// migration asks how far the memory got, and fails when it failed.
func (s *sender) migration(ctx context.Context) (migration, error) {
	var mig migration
	if err := ask(ctx, s.m, "query-migrate", nil, &mig); err != nil {
		return mig, err
	}
	switch mig.Status {
	case "failed", "cancelled", "cancelling", "none", "":
		return mig, fmt.Errorf("QEMU gives the migration up: it is %s %s", mig.Status, mig.Error)
	}
	return mig, nil
}

// await waits until QEMU says something, most at most.
func (s *sender) await(ctx context.Context, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-s.m.Events():
	case <-t.C:
	case <-ctx.Done():
	}
}
