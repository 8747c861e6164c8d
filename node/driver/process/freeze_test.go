//go:build linux

package process

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// soFar is how often a task that prints all the time has printed.
func soFar(t *testing.T, d *Driver) int {
	t.Helper()
	r, err := d.Logs(t.Context(), d.handle("a.b/0.1"), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// What is frozen does nothing, for whichever agent, until it is let go on; and it
// can be ended as it stands.
func TestFreeze(t *testing.T) {
	for _, cgroup := range []string{testCgroup, ""} {
		t.Run("cgroup="+cgroup, func(t *testing.T) {
			dir := t.TempDir()
			d := newDriver(t, dir, func(c *Config) { c.Cgroup = cgroup })
			h := start(t, d, nil, shell(`while :; do echo x; sleep 0.01; done`)...)
			more := func(than int) {
				t.Helper()
				for deadline := time.Now().Add(time.Minute); soFar(t, d) <= than; {
					if time.Now().After(deadline) {
						t.Fatalf("it prints no more than %d lines", than)
					}
					<-time.After(10 * time.Millisecond)
				}
			}
			more(3)
			if err := d.Freeze(t.Context(), h.Task); err != nil {
				t.Fatal(err)
			}
			settled := soFar(t, d) // what it wrote before may still be read
			for same := 0; same < 20; <-time.After(50 * time.Millisecond) {
				if now := soFar(t, d); now == settled {
					same++
				} else {
					same, settled = 0, now
				}
			}
			again := newDriver(t, dir, func(c *Config) { c.Cgroup = cgroup })
			if !again.Frozen(h.Task) {
				t.Error("the next agent does not see that it is frozen")
			}
			<-time.After(200 * time.Millisecond)
			if now := soFar(t, d); now != settled {
				t.Errorf("frozen, it prints %d lines more", now-settled)
			}
			for range 2 { // let go on is let go on
				if err := again.Thaw(h.Task); err != nil {
					t.Fatal(err)
				}
			}
			more(settled)
			if d.Frozen(h.Task) {
				t.Error("it goes on, and counts as frozen")
			}
			if err := d.Freeze(t.Context(), h.Task); err != nil {
				t.Fatal(err)
			}
			if err := d.Stop(t.Context(), h, 0); err != nil {
				t.Fatal(err)
			}
			if exit, err := d.Wait(t.Context(), h); err != nil || exit.Code == 0 {
				t.Errorf("ended as it stood: %+v, %v", exit, err)
			}
			if err := d.Freeze(t.Context(), h.Task); err != nil || d.Frozen(h.Task) {
				t.Errorf("what has ended is frozen: %v", err)
			}
		})
	}
}

// What runs outside the cgroup that was made for it is held all the same; and of
// what is not known nothing is said to stand.
func TestFreezeOutsideOfItsCgroup(t *testing.T) {
	d := newDriver(t, t.TempDir(), func(c *Config) { c.Cgroup = "" })
	h := start(t, d, nil, shell(`while :; do echo x; sleep 0.01; done`)...)
	var what child
	for deadline := time.Now().Add(time.Minute); d.dir(h.Task).readJSON("child", &what) != nil; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was launched is not written down")
		}
	}
	// A directory that looks as the kernel's does for an empty cgroup which is frozen.
	empty := t.TempDir()
	for name, text := range map[string]string{freezeFile: "1", "cgroup.procs": "", "cgroup.events": "populated 0\nfrozen 1\n"} {
		if err := os.WriteFile(filepath.Join(empty, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	what.Cgroups = []string{empty}
	data, err := json.Marshal(what)
	if err == nil {
		err = os.WriteFile(d.dir(h.Task).path("child"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Freeze(t.Context(), h.Task); err != nil {
		t.Fatal(err)
	}
	if state, _, _, err := stat(what.PID); state != 'T' || err != nil || !d.Frozen(h.Task) {
		t.Errorf("frozen, its state is %c, %v", state, err)
	}
	if err := d.Thaw(h.Task); err != nil || d.Frozen(h.Task) {
		t.Errorf("it does not go on: %v", err)
	}
	if err := os.Remove(d.dir(h.Task).path("child")); err != nil {
		t.Fatal(err)
	}
	if err := d.Freeze(t.Context(), h.Task); err == nil {
		t.Error("what is not known is frozen")
	}
	if err := d.Thaw(h.Task); err != nil {
		t.Errorf("what was not frozen does not go on: %v", err)
	}
}
