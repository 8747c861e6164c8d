//go:build linux

package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const patience = time.Minute

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, d *Driver, s runner.Spec) runner.Handle {
	t.Helper()
	h, err := d.Start(within(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func wait(t *testing.T, d *Driver, h runner.Handle) runner.Exit {
	t.Helper()
	exit, err := d.Wait(within(t), h)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// printed is all that the task prints until its end.
func printed(t *testing.T, d *Driver, h runner.Handle) string {
	t.Helper()
	r, err := d.Logs(within(t), h, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// awaitOutput waits until the task has printed the text.
func awaitOutput(t *testing.T, d *Driver, h runner.Handle, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q is printed", text), func() bool {
		r, err := d.Logs(within(t), h, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		data, _ := io.ReadAll(r)
		return strings.Contains(string(data), text)
	})
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	var e *runner.StartError
	if !errors.As(err, &e) || e.Hint() == "" {
		t.Errorf("%v (%T); want a StartError with a hint", err, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Reason+" "+e.Advice, w) {
			t.Errorf("%q, %q does not say %q", e.Reason, e.Advice, w)
		}
	}
}

// TestBoundary looks from within at all that holds a container in.
func TestBoundary(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		probe := app("each", "cat /proc/self/status", "write /outside", "write /tmp/inside", "write /data/kept", "whoami",
			"cat /proc/net/dev", "dial 192.0.2.1:80", "stat /dev/null", "stat /dev/kmsg", "forks 60", "env")
		h := start(t, d, task(0, func(s *runner.Spec) {
			s.Setup.User, s.Setup.WorkDir, s.Setup.Pids = "1234:1234", "/tmp", 40
			s.Setup.Volumes = []placement.Volume{{Name: "kept", Path: "/data"}}
			s.Env = map[string]string{"MODE": "batch"}
			s.Tag, s.Tenant = "EEA,!HU", "acme"
		}, probe...))
		seen := printed(t, d, h)
		parts := make(map[string]string)
		for _, p := range strings.Split(seen, "== ")[1:] {
			what, said, _ := strings.Cut(p, "\n")
			parts[what] = said
		}
		for what, words := range map[string][]string{
			"cat /proc/self/status": {"NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2", "Uid:\t1234\t1234\t1234\t1234"},
			"write /outside":        {"error:", "read-only"},
			"write /tmp/inside":     {""},
			"write /data/kept":      {""},
			"whoami":                {"1234 1234 /tmp"},
			"dial 192.0.2.1:80":     {"error:", "unreachable"},
			"stat /dev/null":        {"Dcrw"},
			"stat /dev/kmsg":        {"error:"},
			"forks 60":              {"resource temporarily unavailable"},
			"env":                   {"MODE=batch", "FROM_IMAGE=yes", "SOVMESH_TASK=", "NVIDIA_VISIBLE_DEVICES=void"},
		} {
			for _, w := range words {
				if !strings.Contains(parts[what], w) {
					t.Errorf("%s says\n%s; want %q", what, parts[what], w)
				}
				if w == "" && parts[what] != "" {
					t.Errorf("%s says %q", what, parts[what])
				}
			}
		}
		if lines := strings.Count(parts["cat /proc/net/dev"], ":"); lines != 1 || !strings.Contains(parts["cat /proc/net/dev"], "lo:") {
			t.Errorf("its network is\n%s", parts["cat /proc/net/dev"])
		}
		// The next task of the job finds what the first one kept.
		again := start(t, d, task(1, func(s *runner.Spec) {
			s.Setup.User = "1234"
			s.Setup.Volumes = []placement.Volume{{Name: "kept", Path: "/data", ReadOnly: true}}
		}, app("each", "cat /data/kept", "write /data/other")...))
		if got := printed(t, d, again); !strings.Contains(got, "written\n") || !strings.Contains(got, "error:") {
			t.Errorf("the volume gives %q", got)
		}
		if list, err := d.List(within(t)); err != nil || len(list) != 2 {
			t.Errorf("%v, %v", list, err)
		}
		long, place := time.Now().Add(-40*24*time.Hour), filepath.Dir(d.volume(h.Task.Job(), "kept"))
		if err := errors.Join(os.Chtimes(place, long, long), d.Destroy(within(t), h)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(place); err != nil || time.Since(info.ModTime()) > time.Hour {
			t.Errorf("a task that had the volume has just ended, and it was last used at %v, %v", info.ModTime(), err)
		}
	})
}

// TestWhatIsNotGiven asks for more than a node gives.
func TestWhatIsNotGiven(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		for name, test := range map[string]struct {
			change func(*runner.Spec)
			words  string
		}{
			"host network":  {func(s *runner.Spec) { s.Setup.Network = &placement.Network{Host: true} }, "own network"},
			"address list":  {func(s *runner.Spec) { s.Setup.Network = &placement.Network{Allow: []string{"192.0.2.7:443"}} }, "list of addresses"},
			"capability":    {func(s *runner.Spec) { s.Setup.Capabilities = []string{"SYS_ADMIN"} }, "SYS_ADMIN"},
			"volume by dir": {func(s *runner.Spec) { s.Setup.Volumes = []placement.Volume{{Name: "../../etc", Path: "/data"}} }, "plain name"},
			"volume at /":   {func(s *runner.Spec) { s.Setup.Volumes = []placement.Volume{{Name: "a", Path: "/data/.."}} }, "cannot be at"},
			"volume at dev": {func(s *runner.Spec) { s.Setup.Volumes = []placement.Volume{{Name: "a", Path: "/dev/shm"}} }, "cannot be at"},
			"workdir":       {func(s *runner.Spec) { s.Setup.WorkDir = "relative" }, "absolute"},
			"no image":      {func(s *runner.Spec) { s.Image = "" }, "image"},
			"no such image": {func(s *runner.Spec) { s.Image = "127.0.0.1:1/nobody/nothing:1" }, "cannot be had"},
			"user":          {func(s *runner.Spec) { s.Setup.User = "nobody-knows" }, "user"},
		} {
			kept := false
			s := task(0, test.change, app("sleep")...)
			s.Keep = func(runner.Handle) error { kept = true; return nil }
			err := d.Prepare(within(t), s)
			if err == nil {
				_, err = d.Start(within(t), s)
			}
			refused(t, err, test.words)
			if kept {
				if err := d.Destroy(within(t), runner.Handle{Task: s.Task}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		nothingLeft(t, d)
	})
}

// nothingLeft looks for containers of the driver's.
func nothingLeft(t *testing.T, d *Driver) {
	t.Helper()
	found, err := d.engine.ContainerList(within(t), client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelInstance+"="+d.cfg.Instance),
	})
	if err != nil || len(found.Items) != 0 {
		t.Errorf("left: %+v, %v", found.Items, err)
	}
}

func TestHostNetworkWhereAllowed(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), func(c *Config) { c.AllowHostNetwork = true })
		h := start(t, d, task(0, func(s *runner.Spec) { s.Setup.Network = &placement.Network{Host: true} }, app("cat", "/proc/net/dev")...))
		if exit := wait(t, d, h); exit.Code != 0 {
			t.Errorf("%+v", exit)
		}
	})
}

func TestOutOfMemoryIsToldApart(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		h := start(t, d, task(0, nil, app("eat", "256")...))
		if exit := wait(t, d, h); !exit.OOM || exit.Code != 137 || exit.Stopped {
			t.Errorf("%+v; printed %q", exit, printed(t, d, h))
		}
		h = start(t, d, task(1, nil, app("eat", "8")...))
		awaitOutput(t, d, h, "ate 8")
		if err := d.Stop(within(t), h, 0); err != nil {
			t.Fatal(err)
		}
		if exit := wait(t, d, h); exit.OOM || !exit.Stopped || !exit.Killed {
			t.Errorf("killed by order it is %+v", exit)
		}
	})
}

func TestExec(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		h := start(t, d, task(0, func(s *runner.Spec) { s.Setup.User = "1234:1234" }, app("sleep")...))
		var out bytes.Buffer
		do := func(req runner.ExecRequest, command ...string) (runner.Exit, error) {
			out.Reset()
			req.Command, req.Stdout, req.Stderr = command, &out, &out
			return d.Exec(within(t), h, req)
		}
		if exit, err := do(runner.ExecRequest{}, app("exit", "7")...); err != nil || exit.Code != 7 {
			t.Errorf("%+v, %v", exit, err)
		}
		if exit, err := do(runner.ExecRequest{Env: map[string]string{"GIVEN": "yes"}}, app("each", "whoami", "env")...); err != nil || exit.Code != 0 ||
			!strings.Contains(out.String(), "1234 1234") || !strings.Contains(out.String(), "GIVEN=yes") {
			t.Errorf("%+v, %v, %q", exit, err, out.String())
		}
		if exit, err := do(runner.ExecRequest{Stdin: strings.NewReader("through and back")}, app("stdin")...); err != nil || exit.Code != 0 || out.String() != "through and back" {
			t.Errorf("%+v, %v, %q", exit, err, out.String())
		}
		if _, err := do(runner.ExecRequest{TTY: true, Size: runner.TermSize{Columns: 101, Rows: 37}}, app("size")...); err != nil {
			t.Errorf("%v, %q", err, out.String())
		}
		_, err := do(runner.ExecRequest{}, "/no-such-program")
		refused(t, err, "/no-such-program")
		// Given up, the command ends too.
		ctx, cancel := context.WithCancel(within(t))
		ended := make(chan error, 1)
		go func() {
			_, err := d.Exec(ctx, h, runner.ExecRequest{Command: app("stubborn"), Stdout: io.Discard})
			ended <- err
		}()
		eventually(t, "the command runs", func() bool { return countOf(t, "stubborn", h) > 0 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		eventually(t, "the command has ended", func() bool { return countOf(t, "stubborn", h) == 0 })
		if o, err := d.Recover(within(t), h); err != nil || o.State != runner.StateRunning {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

// countOf counts processes of a task by a word of their command line.
func countOf(t *testing.T, word string, h runner.Handle) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.HasPrefix(line, []byte("/workload\x00"+word)) && bytes.Contains(env, []byte("SOVMESH_TASK="+string(h.Task))) {
			n++
		}
	}
	return n
}

func TestPortsPauseFiguresAndInspection(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		h := start(t, d, task(0, func(s *runner.Spec) { s.Setup.Capabilities = []string{"NET_BIND_SERVICE"} }, app("listen", "127.0.0.1:80")...))
		awaitOutput(t, d, h, "listening")
		conn, err := d.Dial(within(t), h, 80)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		echo := make([]byte, 5)
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "hello" {
			t.Errorf("%q, %v", echo, err)
		}
		if c, err := d.Dial(within(t), h, 81); err == nil {
			_ = c.Close()
			t.Error("a port that nobody listens on answers")
		}
		if s, err := d.Stats(within(t), h); err != nil || s.Processes < 1 || s.Memory <= 0 || s.CPU <= 0 {
			t.Errorf("%+v, %v", s, err)
		}
		a, err := d.Inspect(within(t), h)
		if err != nil || a.Memory != 64*placement.MiB || a.CPU != 500 || a.Pids != placement.DefaultPids || !slices.Equal(a.Networks, []string{"none"}) || a.ImageDigest == "" {
			t.Errorf("%+v, %v", a, err)
		}
		own, err := os.Readlink(fmt.Sprintf("/proc/%s/ns/net", recovered(t, d, h).Facts["pid"]))
		others, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", e.PID()))
		if own == others || errors.Join(err, err2) != nil {
			t.Errorf("its network is %s, the engine's %s: %v, %v", own, others, err, err2)
		}
		for _, b := range a.Boundary {
			if want := b.What != "kernel" && b.What != "user"; b.Holds != want || b.How == "" {
				t.Errorf("boundary %+v", b)
			}
		}
		for range 2 {
			if err := d.Pause(within(t), h); err != nil {
				t.Error(err)
			}
		}
		if o, err := d.Recover(within(t), h); err != nil || o.State != runner.StateRunning {
			t.Errorf("paused: %+v, %v", o, err)
		}
		_, err = d.Exec(within(t), h, runner.ExecRequest{Command: app("exit", "0")})
		refused(t, err, "paused")
		for range 2 {
			if err := d.Resume(within(t), h); err != nil {
				t.Error(err)
			}
		}
		if err := d.Pause(within(t), h); err != nil {
			t.Error(err)
		}
		if err := d.Stop(within(t), h, 100*time.Millisecond); err != nil { // a paused one ends as well
			t.Error(err)
		}
	})
}

func recovered(t *testing.T, d *Driver, h runner.Handle) runner.Observed {
	t.Helper()
	o, err := d.Recover(within(t), h)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestUnhealthyFails(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		check := func(command ...string) func(*runner.Spec) {
			return func(s *runner.Spec) {
				s.Setup.Health = &placement.Health{Command: command, Interval: placement.Duration(50 * time.Millisecond), Retries: 2}
			}
		}
		ill := start(t, d, task(0, check(app("cat", "/not-there")...), app("sleep")...))
		well := start(t, d, task(1, check(app("exit", "0")...), app("sleep")...))
		if exit := wait(t, d, ill); exit.Stopped || !strings.Contains(exit.Reason, "unhealthy: its check failed 2 times in a row") || !strings.Contains(exit.Reason, "not-there") {
			t.Errorf("%+v", exit)
		}
		eventually(t, "the other one is seen to be well", func() bool {
			o, err := d.Recover(within(t), well)
			if err != nil || o.State != runner.StateRunning {
				t.Fatalf("%+v, %v", o, err)
			}
			return o.Facts["health"] == "healthy"
		})
	})
}

// A secret is a file that the image's user reads, whoever that is, and nothing
// that the engine tells of the container.
func TestASecretIsAFileAndNoWordOfTheEngine(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		secrets := filepath.Join(t.TempDir(), "task")
		if err := os.Mkdir(secrets, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(secrets, "TOKEN"), []byte("hunter2"), 0o400); err != nil {
			t.Fatal(err)
		}
		h := start(t, d, task(0, func(s *runner.Spec) { s.SecretsDir, s.Setup.User = secrets, "1234" }, app("cat", runner.SecretsPath+"/TOKEN")...))
		if got := printed(t, d, h); !strings.Contains(got, "hunter2") {
			t.Errorf("it reads %q", got)
		}
		told, err := d.engine.ContainerInspect(t.Context(), d.containerName(h.Task), client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("%+v", told); strings.Contains(text, "hunter2") {
			t.Error("the engine tells the secret to whoever asks for the container")
		}
	})
}

func TestInputsAreReadAndNotWritten(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		in := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(in, "model"), []byte("weights\n"), 0o444), os.Chmod(in, 0o755)); err != nil {
			t.Fatal(err)
		}
		d := newDriver(t, e, t.TempDir(), nil)
		h := start(t, d, task(0, func(s *runner.Spec) { s.InputsDir = in }, app("each", "cat /run/inputs/model", "write /run/inputs/model", "env")...))
		got := printed(t, d, h)
		if !strings.Contains(got, "weights\n") || !strings.Contains(got, "read-only") || !strings.Contains(got, runner.InputsEnv+"="+runner.InputsPath+"\n") {
			t.Errorf("it prints %q", got)
		}
	})
}

// TestExitCodeThatComesLate has an engine say that a container ended before it
// knows with which code, as Podman does until the program that it starts for that
// has written it down: -1 to who asks and to who waits.
func TestExitCodeThatComesLate(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		x := newDouble(t, e)
		var mu sync.Mutex
		late := 0
		x.response = func(path string, v map[string]any) bool {
			mu.Lock()
			defer mu.Unlock()
			state, _ := v["State"].(map[string]any)
			switch {
			case late == 6: // it is known now
				return false
			case strings.HasSuffix(path, "/wait"):
				v["StatusCode"] = -1
			case state != nil && state["Running"] == false && state["Status"] == "exited":
				late++
				state["ExitCode"] = -1
			default:
				return false
			}
			return true
		}
		d := newDriver(t, e, t.TempDir(), func(c *Config) { c.Host, c.Ulimits = x.host, ownLimits })
		h := start(t, d, task(0, nil, app("exit", "3")...))
		if exit := wait(t, d, h); exit.Code != 3 || exit.Reason != "" {
			t.Errorf("exit 3 is seen as %+v", exit)
		}
		mu.Lock()
		defer mu.Unlock()
		if late != 6 {
			t.Errorf("%d answers without a code were asked for", late)
		}
	})
}
