//go:build linux

package vm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/driver/qemu"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// leftByReboot lays out the directory of a task as a reboot leaves it: no process of it,
// no socket, and how far its move got.
func leftByReboot(t *testing.T, d *Driver, id placement.TaskID, n *note) runner.Handle {
	t.Helper()
	dir := d.TaskDir(id)
	if err := os.MkdirAll(filepath.Join(dir, qemu.Home), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, what := range map[string]any{"spec": runner.Spec{Task: id}, "claim": map[string]any{"pid": 1 << 22, "boot": "an earlier one"}} {
		data, err := json.Marshal(what)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n != nil {
		if err := writeNote(dir, *n); err != nil {
			t.Fatal(err)
		}
	}
	h := runner.Handle{Version: 1, Driver: d.Name(), Task: id}
	if o, err := d.Recover(t.Context(), h); err != nil || o.State != runner.StateGone {
		t.Fatalf("after a reboot it is %s, %v", o.State, err)
	}
	return h
}

// puts writes a disk into a place.
func puts(t *testing.T, place, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(place, 0o700), os.WriteFile(filepath.Join(place, "disk-data.raw"), []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// lies checks which disk is in a place; none if want is empty.
func lies(t *testing.T, place, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(place, "disk-data.raw"))
	if string(got) != want || (err != nil && want != "") {
		t.Errorf("in %s lies %q, %v; want %q", filepath.Base(place), got, err, want)
	}
}

// takenIn is a copy that was taken in over what lay there before.
func takenIn(t *testing.T, stage moveStage) (*Driver, runner.Handle) {
	t.Helper()
	d := newDriver(t, t.TempDir(), nil)
	id := testJob.Task(40, 2)
	puts(t, d.kept(id), "old")
	if err := d.freshPlace(id); err != nil {
		t.Fatal(err)
	}
	puts(t, d.kept(id), "new")
	return d, leftByReboot(t, d, id, &note{Way: in, Stage: stage})
}

// What was taken in whole may be the only copy that there is: neither its
// removal nor the job's next attempt touches it before the move is decided, and
// a machine that ended meanwhile is decided like any other.
func TestWhatWasTakenInWholeWaitsForTheLedger(t *testing.T) {
	for name, here := range map[string]bool{"here": true, "elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			d, h := takenIn(t, whole)
			if err := d.Destroy(t.Context(), h); err == nil || !strings.Contains(err.Error(), "ledger decides") {
				t.Errorf("it is destroyed: %v", err)
			}
			next := serviceOf(40, 3)
			claims, err := d.claimDisks(t.Context(), next)
			d.release(claims)
			if err == nil || !strings.Contains(err.Error(), "ledger decides") {
				t.Errorf("the next attempt begins: %v", err)
			}
			lies(t, d.kept(h.Task), "new")
			for range 2 {
				if err := d.Finish(t.Context(), h, here); err != nil {
					t.Fatal(err)
				}
			}
			if claims, err = d.claimDisks(t.Context(), next); err != nil {
				t.Error(err)
			}
			d.release(claims)
			if err := d.Destroy(t.Context(), h); err != nil {
				t.Error(err)
			}
			want := "old"
			if here {
				want = "new"
			}
			lies(t, d.kept(h.Task), want)
			lies(t, d.beside("before", place(h.Task)), "")
		})
	}
}

// A decision for this side that was cut off keeps the place, whoever comes next.
func TestADecisionThatWasCutOffKeepsThePlace(t *testing.T) {
	for name, next := range map[string]func(*Driver, runner.Handle) error{
		"destroyed":     func(d *Driver, h runner.Handle) error { return d.Destroy(t.Context(), h) },
		"decided again": func(d *Driver, h runner.Handle) error { return d.Finish(t.Context(), h, true) },
		"started anew": func(d *Driver, h runner.Handle) error {
			claims, err := d.claimDisks(t.Context(), serviceOf(40, 3))
			d.release(claims)
			return err
		},
		"its note is gone": func(d *Driver, h runner.Handle) error {
			if err := os.Remove(filepath.Join(d.TaskDir(h.Task), moveFile)); err != nil {
				return err
			}
			claims, err := d.claimDisks(t.Context(), serviceOf(40, 3))
			d.release(claims)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, h := takenIn(t, goesOn)
			if err := next(d, h); err != nil {
				t.Fatal(err)
			}
			lies(t, d.kept(h.Task), "new")
			if _, err := os.Stat(filepath.Join(d.kept(h.Task), comingFile)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it still counts as coming: %v", err)
			}
		})
	}
}

// Half of a disk gives way to what lay there before.
func TestWhatIsNotWholeGivesWay(t *testing.T) {
	d, h := takenIn(t, underWay)
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	lies(t, d.kept(h.Task), "old")
}

// Where an agent is killed in the middle of making a fresh place, or of giving it
// up, the next start finds what lay there before.
func TestAFreshPlaceLosesNothing(t *testing.T) {
	id := testJob.Task(41, 2)
	again := func(t *testing.T, d *Driver) {
		t.Helper()
		claims, err := d.claimDisks(t.Context(), serviceOf(41, 3))
		d.release(claims)
		if err != nil {
			t.Fatal(err)
		}
		lies(t, d.kept(id), "old")
		lies(t, d.beside("before", place(id)), "")
	}
	t.Run("killed between the two names", func(t *testing.T) {
		d := newDriver(t, t.TempDir(), nil)
		puts(t, d.beside("before", place(id)), "old")
		puts(t, d.beside("fresh", place(id)), "half")
		again(t, d)
	})
	t.Run("killed while it is given up", func(t *testing.T) {
		d := newDriver(t, t.TempDir(), nil)
		puts(t, d.kept(id), "old")
		if err := errors.Join(d.freshPlace(id), d.dropPlace(place(id))); err != nil {
			t.Fatal(err)
		}
		again(t, d)
	})
}
