//go:build linux

package vm

import (
	"context"
	"fmt"
	"time"
)

// span bounds one part of a move.
type span struct {
	until time.Time
	last  int64
	since time.Time // it moved
}

func patienceFor(most time.Duration) *span {
	now := time.Now()
	return &span{until: now.Add(most), since: now}
}

func (p *span) over() bool { return time.Now().After(p.until) }

// moved fails when nothing did for long.
func (p *span) moved(bytes int64) error {
	if bytes != p.last {
		p.last, p.since = bytes, time.Now()
	}
	if time.Since(p.since) > stallPatience {
		return fmt.Errorf("nothing was sent for %v", stallPatience)
	}
	return nil
}

// cutAfter makes what is done under a connection's deadline fail after most, or
// when ctx ends, until it is called.
func cutAfter(ctx context.Context, deadline func(time.Time) error, most time.Duration) func() {
	_ = deadline(time.Now().Add(most))
	stop := context.AfterFunc(ctx, func() { _ = deadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = deadline(time.Time{})
		}
	}
}
