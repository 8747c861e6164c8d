//go:build linux

package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sovmesh/sovmesh/node/runner"
)

// A place that was named is named once, whoever asks at the same time, and what is
// no name there is no name for anything.
func TestAPlaceHasOneName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "name")
	got := make([]string, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = named(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, name := range got {
		if !isID(name) || name != got[0] {
			t.Errorf("it has the names %q", got)
		}
	}
	left, err := filepath.Glob(path + "?*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.WriteFile(path, []byte("../../etc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err := named(path); err == nil {
		t.Errorf("it is named %q", name)
	}
}

// Two nodes share disks if they see the same directory, and not because one was
// made from a copy of the other, or says so.
func TestWhoSharesDisks(t *testing.T) {
	one := newDriver(t, t.TempDir(), nil)
	dir := t.TempDir()
	if err := os.Symlink(one.disks(), filepath.Join(dir, "disks")); err != nil {
		t.Fatal(err)
	}
	beside, copied := newDriver(t, dir, nil), newDriver(t, t.TempDir(), nil)
	storage, probe, done, err := one.shows()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied.disks(), storageFile), []byte(storage), 0o600); err != nil {
		t.Fatal(err)
	}
	if shared, err := beside.sees(storage, probe); !shared || err != nil {
		t.Errorf("it does not see the disks of the node beside it: %v", err)
	}
	if shared, err := copied.sees(storage, probe); shared || err == nil || !strings.Contains(err.Error(), filepath.Join(copied.disks(), storageFile)) {
		t.Errorf("a copy of a node sees disks that it may not have: %t, %v", shared, err)
	}
	for _, other := range [][2]string{{"", ""}, {randomID(), probe}} {
		if shared, err := beside.sees(other[0], other[1]); shared || err != nil {
			t.Errorf("it sees %q: %t, %v", other, shared, err)
		}
	}
	for _, wrong := range [][2]string{{storage, ""}, {"", probe}, {storage, "../" + storageFile}, {storage, randomID()}} {
		if shared, err := beside.sees(wrong[0], wrong[1]); shared || err == nil {
			t.Errorf("it sees %q: %t, %v", wrong, shared, err)
		}
	}
	done()
	if shared, err := beside.sees(storage, probe); shared || err == nil {
		t.Errorf("it sees what is gone: %t, %v", shared, err)
	}
	// A name that cannot be read says nothing.
	name := filepath.Join(beside.disks(), storageFile)
	if err := errors.Join(os.Remove(name), os.Mkdir(name, 0o700)); err != nil {
		t.Fatal(err)
	}
	if shared, err := beside.sees(storage, probe); shared || err == nil {
		t.Errorf("its place has no name, and it sees %t, %v", shared, err)
	}
}

// What one node takes in over shared disks no other node gives up.
func TestAPlaceThatAnotherNodeFillsIsLeftAlone(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	id := testJob.Task(45, 2)
	if err := d.freshPlace(id); err != nil {
		t.Fatal(err)
	}
	puts(t, d.kept(id), "new")
	dir := t.TempDir()
	if err := os.Symlink(d.disks(), filepath.Join(dir, "disks")); err != nil {
		t.Fatal(err)
	}
	other := newDriver(t, dir, nil)
	claims, err := other.claimDisks(t.Context(), serviceOf(45, 3))
	other.release(claims)
	if err == nil || !strings.Contains(err.Error(), "ledger decides") {
		t.Errorf("another node begins on it: %v", err)
	}
	lies(t, d.kept(id), "new")
	claims, err = d.claimDisks(t.Context(), serviceOf(45, 3)) // which knows of no such task any more
	d.release(claims)
	if err != nil {
		t.Error(err)
	}
	lies(t, d.kept(id), "")
}

// Disks that may have gone on elsewhere are not booted from, until the ledger's
// word about them is heard.
func TestWhatMayHaveGoneOnElsewhereIsNotBooted(t *testing.T) {
	for name, c := range map[string]struct {
		note  note
		ask   *bool // Finish
		boots bool
		disk  string
	}{
		"not decided":          {note{Way: out, Stage: said}, nil, false, "old"},
		"decided here":         {note{Way: out, Stage: said}, new(bool), true, "old"},
		"decided elsewhere":    {note{Way: out, Stage: said}, new(bool), true, ""},
		"never sent":           {note{Way: out, Stage: underWay}, nil, true, "old"},
		"shared with where to": {note{Way: out, Stage: said, Shared: true}, nil, true, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, t.TempDir(), nil)
			s := serviceOf(46, 1)
			puts(t, d.kept(s.Task), "old")
			h := leftByReboot(t, d, s.Task, &c.note)
			if err := d.Destroy(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			if c.ask != nil {
				*c.ask = name == "decided here"
				// Nothing of the task is here any more; its disks are settled all the same.
				if err := d.Finish(t.Context(), h, *c.ask); (err == nil) == *c.ask {
					t.Errorf("decided: %v", err)
				}
			}
			next := serviceOf(46, 3)
			claims, err := d.claimDisks(t.Context(), next)
			d.release(claims)
			if err != nil {
				t.Fatal(err)
			}
			err = d.notGiven(next)
			var refused *runner.StartError
			if (err == nil) != c.boots || (err != nil && (!errors.As(err, &refused) || refused.Advice == "")) {
				t.Errorf("it boots: %v", err)
			}
			lies(t, d.kept(next.Task), c.disk)
		})
	}
}

// A start on such disks is refused, and says what to do.
func TestAStartOnGivenDisksIsRefused(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	s := spec(49, "exit", func(s *runner.Spec) { s.Task, s.Service = testJob.Task(49, 3), true })
	puts(t, d.kept(s.Task), "old")
	if err := d.markGiven(testJob.Task(49, 1)); err != nil {
		t.Fatal(err)
	}
	var refused *runner.StartError
	if _, err := d.Start(t.Context(), s); !errors.As(err, &refused) || !strings.Contains(refused.Advice, givenFile) {
		t.Errorf("started: %v", err)
	}
	if o, err := d.Recover(t.Context(), runner.Handle{Task: s.Task}); err != nil || o.State != runner.StateAbsent {
		t.Errorf("it is %s, %v", o.State, err)
	}
	lies(t, d.kept(s.Task), "old")
}
