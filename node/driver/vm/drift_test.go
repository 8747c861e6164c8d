//go:build linux

package vm

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// ledger keeps what an agent notes; it is the agent's region.
type ledger struct {
	view runner.Wanted
	mu   sync.Mutex
	said []string // guarded by mu
}

func (l *ledger) Next(ctx context.Context, after uint64) (runner.Wanted, error) {
	if l.view.Index > after {
		return l.view, nil
	}
	<-ctx.Done()
	return runner.Wanted{}, ctx.Err()
}

func (l *ledger) Report(context.Context, []placement.TaskReport) error { return nil }

func (l *ledger) Note(_ context.Context, notes []placement.TaskNote) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range notes {
		l.said = append(l.said, string(n.What)+" "+n.Subject+" "+n.Text)
	}
	return nil
}

// noted reports whether something was noted that begins so.
func (l *ledger) noted(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.said {
		if strings.HasPrefix(s, what) {
			return true
		}
	}
	return false
}

// byHand makes a package in the guest and installs it, as somebody would who has
// a login there.
const byHand = `set -e; cd /tmp; mkdir -p byhand/DEBIAN
printf 'Package: byhand\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.test>\nDescription: by hand\n' > byhand/DEBIAN/control
dpkg-deb --build byhand >/dev/null; sudo dpkg -i byhand.deb >/dev/null`

// packageByHandIsDrift has an agent take over the running guest, waits until it
// knows what is in it, and installs a package that nobody declared.
func packageByHandIsDrift(ctx context.Context, t *testing.T, d *Driver, h runner.Handle, spec runner.Spec, client *ssh.Client) {
	t.Helper()
	store, err := runner.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	setup := *spec.Setup
	setup.Inputs = nil // this agent fetches none; the guest has its own
	region := &ledger{view: runner.Wanted{Index: 1, Tasks: []runner.Want{{
		Task: placement.Task{ID: h.Task, Job: spec.Job, Kind: placement.KindVM, Status: placement.TaskAssigned, AssignedAt: time.Now()},
		Job: placement.Job{ID: spec.Job, Spec: placement.JobSpec{Kind: placement.KindVM, Type: placement.TypeService, Image: spec.Image,
			Setup: &setup, Resources: spec.Resources}},
	}}}}
	cfg := runner.DefaultConfig()
	cfg.Drivers, cfg.Store, cfg.Assignments, cfg.Reporter, cfg.Noter = map[string]runner.Driver{"vm": d}, store, region, region, region
	cfg.DriftEvery, cfg.DeniedEvery = 5*time.Second, 5*time.Second
	cfg.Gate = func(placement.Task, placement.Job) error { return nil }
	r, err := runner.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	await := func(what string, holds func() bool) {
		t.Helper()
		began := time.Now()
		for !holds() {
			if pause(ctx, 500*time.Millisecond); ctx.Err() != nil {
				t.Fatalf("never: %s; noted: %q", what, region.said)
			}
		}
		t.Logf("%s after %v", what, time.Since(began).Round(time.Second))
	}
	await("what is in the guest is known", func() bool {
		declared, _, _, err := r.Drift(ctx, h.Task)
		return err == nil && declared.Inside
	})
	if region.noted("drift packages") {
		t.Errorf("its own boot is noted: %q", region.said)
	}
	remote(t, client, byHand)
	await("the package is noted", func() bool { return region.noted("drift packages not declared: byhand 1.0") })
	if _, _, found, err := r.Drift(ctx, h.Task); err != nil || len(found) == 0 || !strings.Contains(found[0].Text+found[len(found)-1].Text, "byhand 1.0") {
		t.Errorf("asked, it finds %+v, %v", found, err)
	}
	if was, ok := d.Remembered(h); !ok || was.Packages["byhand"] != "" || was.Packages["cloud-init"] == "" {
		t.Errorf("with the disk is kept: %v, %d packages", ok, len(was.Packages))
	}
}
