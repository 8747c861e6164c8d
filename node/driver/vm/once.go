//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// QEMU's interpreter can lose a write to a page that it begins to copy just then:
// what a processor remembers of the page makes it tell of the write too early, or
// not at all. So under the interpreter QEMU looks for pages that were written only
// while the guest stands: as the copy begins, for a moment, and before the first
// round ends. onceRate bounds that round, in bytes a second. The guest stands for
// the rest of it when a part of onceLeft of its memory is left, or onceLeast bytes
// if that is more: as late as this program, which looks every half millisecond, is
// sure to be quicker than QEMU. With onceStill QEMU does not look earlier than it
// must.
const (
	onceRate  = 256 << 20
	onceLeft  = 8
	onceLeast = 64 << 20
	onceStill = time.Millisecond
)

var errLostWrite = errors.New("QEMU was too quick: it looked at the memory while its guest ran, and its interpreter may have lost a write; move it again")

// nearEnd reports whether no more is left of the first round than what the guest
// stands for, so many times over.
func (m migration) nearEnd(times int64) bool {
	return m.RAM != nil && m.RAM.Left < times*max(m.RAM.Total/onceLeft, min(onceLeast, m.RAM.Total/2/times))
}

// beginOnce starts the memory's one round.
func (s *sender) beginOnce(ctx context.Context) error {
	if s.paused || !s.since.IsZero() {
		return s.migrate(ctx)
	}
	err := s.pace(ctx, onceRate, onceStill)
	if err == nil {
		err = ask(ctx, s.m, "stop", nil, nil)
	}
	if err == nil {
		err = s.migrate(ctx)
	}
	for err == nil {
		var mig migration
		if mig, err = s.migration(ctx); err != nil || mig.Status == "pre-switchover" {
			break
		}
		if mig.Status == "active" && mig.RAM != nil && mig.RAM.Rounds > 0 {
			err = ask(ctx, s.m, "cont", nil, nil)
			s.happened() // up to here
			return err
		}
		pause(ctx, switchEvery)
		err = ctx.Err()
	}
	return err
}

// rest holds the guest still for what is left of its memory. A round that ended
// before that cannot be relied upon where there is to be but one.
func (s *sender) rest(ctx context.Context) error {
	missed := s.m.Dropped()
	if err := s.hold(ctx); err != nil {
		return err
	}
	if s.once && (s.m.Dropped() != missed || lookedBefore(s.happened())) {
		return errLostWrite
	}
	return s.pace(ctx, sendRate, stillMost)
}

// happening is what QEMU told of by itself.
type happening struct {
	name string
	pass int
}

// happened takes what QEMU has told of by itself since it was last asked for.
func (s *sender) happened() (all []happening) {
	for {
		select {
		case e, open := <-s.m.Events():
			if !open {
				return all
			}
			var round struct{ Pass int }
			_ = json.Unmarshal(e.Data, &round) // other events have none
			all = append(all, happening{e.Name, round.Pass})
		default:
			return all
		}
	}
}

// lookedBefore reports whether QEMU may have looked for pages that were written
// before the guest stood. QEMU tells of both in the order in which they were.
func lookedBefore(all []happening) bool {
	for _, h := range all {
		switch {
		case h.name == "STOP":
			return false
		case h.name == "MIGRATION_PASS" && h.pass > 1:
			return true
		}
	}
	return true // it did not say that the guest stands
}
