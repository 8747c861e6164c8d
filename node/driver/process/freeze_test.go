//go:build linux

package process

import (
	"io"
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
	for _, cgroup := range []string{"sovmesh-test", ""} {
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
			for last := -1; last != settled; <-time.After(50 * time.Millisecond) {
				last, settled = settled, soFar(t, d)
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
