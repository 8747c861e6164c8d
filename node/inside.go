package node

import (
	"context"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// inside is the runner as the API reaches into tasks.
type inside struct {
	r     *runner.Runner
	snaps *snapshots
}

func (i inside) Exec(ctx context.Context, task placement.TaskID, r api.ExecRequest) (api.ReachExit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sizes := make(chan runner.TermSize, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s := <-r.Resize:
				select {
				case sizes <- runner.TermSize(s):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	exit, err := i.r.Exec(ctx, task, runner.ExecRequest{
		Command: r.Command, Env: r.Env, TTY: r.TTY, Size: runner.TermSize(r.Size), Resize: sizes,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
	})
	cancel()
	<-done
	if err != nil {
		return api.ReachExit{}, err
	}
	return api.ReachExit{Code: exit.Code, Reason: exit.Reason}, nil
}

func (i inside) Console(ctx context.Context, task placement.TaskID) (io.ReadWriteCloser, error) {
	return i.r.Console(ctx, task)
}

func (i inside) Dial(ctx context.Context, task placement.TaskID, port int) (net.Conn, error) {
	return i.r.Dial(ctx, task, port)
}

func (i inside) Serve(ctx context.Context, task placement.TaskID, tenant placement.TenantID, port int) (net.Conn, error) {
	return i.r.Serve(ctx, task, tenant, port)
}

func (i inside) Pause(ctx context.Context, task placement.TaskID) error { return i.r.Pause(ctx, task) }

func (i inside) Resume(ctx context.Context, task placement.TaskID) error {
	return i.r.Resume(ctx, task)
}

func (i inside) Isolation(ctx context.Context, task placement.TaskID) (held []api.Boundary, denied []api.Denial, err error) {
	boundaries, denials, err := i.r.Isolation(ctx, task)
	for _, b := range boundaries {
		held = append(held, api.Boundary(b))
	}
	for _, d := range denials {
		denied = append(denied, api.Denial(d))
	}
	return held, denied, err
}

func (i inside) Drift(ctx context.Context, task placement.TaskID) (placement.Drift, []api.DriftFinding, error) {
	declared, _, found, err := i.r.Drift(ctx, task)
	out := make([]api.DriftFinding, 0, len(found))
	for _, f := range found {
		out = append(out, api.DriftFinding{Subject: f.Subject, Count: f.Count, Text: f.Text})
	}
	return declared.Mode, out, err
}

func (i inside) Disks(ctx context.Context, task placement.TaskID, what api.DisksVerb, name string) (api.DiskSnapshots, error) {
	var one runner.DiskSnapshot
	var err error
	switch what {
	case api.DisksTake:
		one, err = i.r.SnapshotDisks(ctx, task, name)
	case api.DisksRestore:
		one, err = i.r.RestoreDisks(ctx, task, name)
	case api.DisksRemove:
		err = i.r.RemoveDiskSnapshot(ctx, task, name)
	}
	if err != nil {
		return api.DiskSnapshots{}, err
	}
	all, err := i.r.DiskSnapshots(ctx, task)
	out := api.DiskSnapshots{Task: task, Snapshots: []api.DiskSnapshot{}}
	if one.Name != "" {
		used := api.DiskSnapshot(one)
		out.Snapshot = &used
		if err != nil { // it was done all the same
			return out, nil
		}
	}
	for _, s := range all {
		out.Snapshots = append(out.Snapshots, api.DiskSnapshot(s))
	}
	return out, err
}

func (i inside) Snapshot(ctx context.Context, task placement.TaskID) (api.SnapshotDir, error) {
	var snap runner.Snapshot
	dir, remove, err := i.snaps.make(ctx, func(ctx context.Context, dir string) (err error) {
		snap, err = i.r.Snapshot(ctx, task, dir)
		return err
	})
	if err != nil {
		return api.SnapshotDir{}, err
	}
	out := api.SnapshotDir{Path: dir, Remove: remove}
	job, _, _ := strings.Cut(string(task), "/")
	out.Manifest = api.SnapshotManifest{Job: placement.JobID(job), Task: task, At: snap.At, Missing: append([]string{}, snap.Missing...), Parts: []api.SnapshotPart{}}
	if snap.Paused > 0 {
		out.Manifest.Paused = snap.Paused.Round(time.Microsecond).String()
	}
	for _, p := range snap.Parts {
		out.Manifest.Parts = append(out.Manifest.Parts, api.SnapshotPart(p))
	}
	return out, nil
}
