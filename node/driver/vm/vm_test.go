//go:build linux

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/driver/drivertest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func TestConformance(t *testing.T) {
	images := smallGuest(t)
	dirs := make(map[*testing.T]string) // one machine per test
	drivertest.Run(t, drivertest.Harness{
		New: func(t *testing.T) runner.Driver {
			if dirs[t] == "" {
				dirs[t] = t.TempDir()
			}
			return newDriver(t, dirs[t], func(c *Config) {
				c.ImageDirs, c.LogFileSize, c.LogFiles = []string{images}, 8<<10, 4
			})
		},
		Exit:       func(s *runner.Spec, code int) { does("exit")(s) },
		Print:      func(s *runner.Spec, text string) { does("print " + text)(s) },
		Sleep:      does("sleep"),
		Stubborn:   does("stubborn"),
		Flood:      func(s *runner.Spec, n int) { does(fmt.Sprint("flood ", n))(s) },
		Missing:    func(s *runner.Spec) { does("exit")(s); s.Image = filepath.Join(images, "none.raw") },
		KeptOutput: 32 << 10, Patience: patience,
		Without: map[string]string{
			"want of memory is told apart": "a guest has no more memory than its machine, and its own kernel says who goes without; the machine runs on",
			"exit code is known":           "a machine that powers off has no exit code but 0; TestHowMachinesEnd has what it has",
			"an exit while away is known":  "the same; TestHowMachinesEnd looks with a new driver",
		},
	})
}

func TestHowMachinesEnd(t *testing.T) {
	images := smallGuest(t)
	dir := t.TempDir()
	d := newDriver(t, dir, func(c *Config) { c.ImageDirs = []string{images} })
	for n, test := range []struct {
		does   string
		code   int
		reason string
	}{
		{"exit", 0, ""},
		{"panic", 1, "panicked"},
		{"reset", 1, "reset itself"},
	} {
		t.Run(test.does, func(t *testing.T) {
			h := start(t, d, spec(n, test.does, nil))
			exit := wait(t, d, h)
			again := newDriver(t, dir, nil)
			o, err := again.Recover(t.Context(), h)
			if err != nil || o.State != runner.StateExited || o.Exit.Code != exit.Code {
				t.Errorf("the agent that comes back sees %+v, %v", o, err)
			}
			if exit.Code != test.code || exit.Stopped || !strings.Contains(exit.Reason, test.reason) {
				t.Errorf("it ends with %+v\n%s", exit, printed(t, d, h))
			}
			if test.does == "reset" && strings.Count(printed(t, d, h), "boots") < mostResets {
				t.Errorf("it ends before it has reset itself so often:\n%s", printed(t, d, h))
			}
		})
	}
}

// TestResetsAreCounted: what QEMU told of guests that began anew, each twice.
func TestResetsAreCounted(t *testing.T) {
	const outside = -1
	for name, c := range map[string]struct {
		at   []time.Duration // and outside before one that the guest did not ask for
		over bool
	}{
		"two reboots, on a busy node":           {at: []time.Duration{0, 163, 14727, 14926, 14926, 14990, 15010}},
		"four reboots":                          {at: []time.Duration{0, 60, 20000, 20060, 40000, 40060, 60000, 60060}},
		"five":                                  {[]time.Duration{0, 60, 20000, 20060, 40000, 40060, 60000, 60060, 80000}, true},
		"five in half an hour":                  {at: []time.Duration{0, 400_000, 800_000, 1_200_000, 1_600_000}},
		"again and again, at once":              {[]time.Duration{0, 2000, 4000, 6000, 8000, 10000, 12000, 14000, 16000, 18000, 20000, 22000, 24000}, true},
		"disks set back, each with many echoes": {at: []time.Duration{outside, 0, 100, 110, 160, 170, 180, outside, 9000, 9100, 9110, 9160, 9170, outside, 18000, 18100}},
		"disks set back after four":             {at: []time.Duration{0, 10000, 20000, 30000, outside, 40000, 40060, 50000, 60000}},
	} {
		began, over, fromOutside := time.Now(), false, false
		var r resets
		for _, at := range c.at {
			if at == outside {
				fromOutside = true
				continue
			}
			over = r.add(began.Add(at*time.Millisecond), fromOutside) > 0 || over
			fromOutside = false
		}
		if over != c.over {
			t.Errorf("%s: it does not come up: %t", name, over)
		}
	}
}

func TestDisksAreKeptAndGrow(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	run := func(attempt int, word string, service bool, root, extra placement.Bytes) string {
		t.Helper()
		h := start(t, d, spec(0, "disk "+word, func(s *runner.Spec) {
			s.Task, s.Service = testJob.Task(0, attempt), service
			s.Setup.RootSize, s.Setup.Disks = root, []placement.Disk{{Name: "data", Size: extra}}
		}))
		if exit := wait(t, d, h); exit.Code != 0 {
			t.Fatalf("it ends with %+v\n%s", exit, printed(t, d, h))
		}
		return printed(t, d, h)
	}
	const mib = placement.MiB
	for attempt, step := range []struct {
		word        string
		root, extra placement.Bytes
		want        string
	}{
		{"one", 0, mib, "vda 1048576 \"\" <nil>\nvdb 1048576 \"\" <nil>\n"},
		{"two", 4 * mib, 2 * mib, "vda 4194304 \"one\" <nil>\nvdb 2097152 \"one\" <nil>\n"},
		{"three", 0, 2 * mib, "vda 4194304 \"two\" <nil>\nvdb 2097152 \"two\" <nil>\n"},
	} {
		if got := run(attempt, step.word, true, step.root, step.extra); got != step.want {
			t.Errorf("attempt %d of a service prints %q, want %q", attempt, got, step.want)
		}
	}
	for name, setup := range map[string]placement.Setup{
		"root": {RootSize: 2 * mib, Disks: []placement.Disk{{Name: "data", Size: 2 * mib}}},
		"data": {Disks: []placement.Disk{{Name: "data", Size: mib}}},
	} {
		s := spec(0, "disk", func(s *runner.Spec) { s.Task, s.Service = testJob.Task(0, 9), true })
		setup.Boot = placement.BootDirect
		s.Setup = &setup
		if _, err := d.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), "not made smaller") {
			t.Errorf("%s made smaller: %v", name, err)
		}
	}
	if err := d.Forget(testJob); err != nil {
		t.Fatal(err)
	}
	if got := run(5, "four", false, 0, mib); !strings.Contains(got, "vda 1048576 \"\"") || !strings.Contains(got, "vdb 1048576 \"\"") {
		t.Errorf("forgotten, it prints %q", got)
	}
	if got := run(6, "five", false, 0, mib); !strings.Contains(got, "vda 1048576 \"\"") || !strings.Contains(got, "vdb 1048576 \"four\"") {
		t.Errorf("a batch job begins anew but for its named disks; it prints %q", got)
	}
	if left, _ := os.ReadDir(filepath.Join(d.cfg.Dir, "tasks")); len(left) > 0 {
		// Tasks are destroyed when the test ends; here they are all over.
		for _, e := range left {
			if strings.HasPrefix(e.Name(), ".new-") {
				t.Errorf("%s is left", e.Name())
			}
		}
	}
}
