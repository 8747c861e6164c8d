//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
)

// sizes are what QEMU has, which may have grown a disk.
func (s *sender) sizes(ctx context.Context, disks []offerDisk) error {
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		}
	}
	if err := ask(ctx, s.m, "query-named-block-nodes", map[string]bool{"flat": true}, &nodes); err != nil {
		return err
	}
	for i := range disks {
		for _, n := range nodes {
			if n.Name == fmt.Sprintf("disk%d", i) {
				disks[i].Size = n.Image.Size
			}
		}
	}
	return nil
}

// hold holds the guest still from here on.
func (s *sender) hold(ctx context.Context) error {
	if err := ask(ctx, s.m, "stop", nil, nil); err != nil {
		return err
	}
	s.stands()
	return nil
}

func (s *sender) stands() {
	if s.since.IsZero() {
		s.since = time.Now()
		s.d.stands(s.h.Task, true)
		s.d.mark("stands")
	}
}

// mirror begins to copy a disk, and every write to it from now on. Of the first
// disk only what is not the image's goes over the wire.
func (s *sender) mirror(ctx context.Context, i int) error {
	name := moveName(i)
	c, err := s.to.Open(ctx, fmt.Sprintf("disk%d", i))
	if err != nil {
		return err
	}
	s.pipes.holds(c)
	l, err := s.pipes.listen(s.d.TaskDir(s.h.Task), name+".sock")
	if err != nil {
		return err
	}
	s.pipes.meet(ctx, l, c)
	// QEMU does nothing else while it greets the other side, its guest's disks
	// included: one that does not answer is hung up on.
	late := time.AfterFunc(greetPatience, func() { _, _ = l.Close(), c.Close() })
	err = ask(ctx, s.m, "blockdev-add", map[string]any{
		"driver": "nbd", "node-name": name, "export": fmt.Sprintf("disk%d", i),
		"server": map[string]string{"type": "unix", "path": name + ".sock"},
	}, nil)
	late.Stop()
	if err != nil {
		return err
	}
	sync := "full"
	if i == 0 {
		sync = "top"
	}
	return ask(ctx, s.m, "blockdev-mirror", map[string]any{
		"job-id": name, "device": fmt.Sprintf("disk%d", i), "target": name, "sync": sync, "auto-dismiss": false,
	}, nil)
}

// mirrored waits until every disk is the same on both sides. A guest that writes
// faster than the network takes is held still for the rest.
func (s *sender) mirrored(ctx context.Context) error {
	p := patienceFor(s.d.cfg.LiveFor)
	for {
		jobs, err := moveJobs(ctx, s.m)
		if err != nil {
			return err
		}
		ready, at := true, runner.MoveProgress{Phase: "disk"}
		for _, j := range jobs {
			switch {
			case j.Status == "concluded":
				return fmt.Errorf("copy a disk: %s", j.Error)
			case j.Status != "ready":
				ready = false
			}
			at.Bytes += j.Done
			at.Total += j.Total
		}
		if len(jobs) > 0 {
			s.told(at)
		}
		if ready {
			return nil
		}
		if p.over() && s.since.IsZero() {
			if err := s.hold(ctx); err != nil {
				return err
			}
		}
		if err := errors.Join(p.moved(at.Bytes), s.logs.send(ctx), s.heard()); err != nil {
			return err
		}
		pause(ctx, statusEvery)
	}
}
