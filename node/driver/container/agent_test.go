//go:build linux

package container

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const agentCommand = "test-agent"

// agentMain is an agent with nothing but a runner: args are its directory, in
// which "wanted" is the committed view and "reports" takes what it says, and its engine.
func agentMain(args []string) int {
	base := args[0]
	err := func() error {
		var view runner.Wanted
		data, err := os.ReadFile(filepath.Join(base, "wanted"))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &view); err != nil {
			return err
		}
		cfg := DefaultConfig()
		cfg.Dir, cfg.Host, cfg.Instance = filepath.Join(base, "driver"), args[1], filepath.Join(base, "driver")
		d, err := New(cfg)
		if err != nil {
			return err
		}
		store, err := runner.OpenDir(filepath.Join(base, "records"))
		if err != nil {
			return err
		}
		rc := runner.DefaultConfig()
		rc.Drivers, rc.Store = map[string]runner.Driver{"container": d}, store
		rc.Assignments, rc.Reporter = oneView(view), reportFile(filepath.Join(base, "reports"))
		rc.Gate = func(placement.Task, placement.Job) error { return nil }
		r, err := runner.New(rc)
		if err != nil {
			return err
		}
		return r.Run(context.Background())
	}()
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// oneView is all that is ever committed.
type oneView runner.Wanted

func (v oneView) Next(ctx context.Context, after uint64) (runner.Wanted, error) {
	if v.Index > after {
		return runner.Wanted(v), nil
	}
	<-ctx.Done()
	return runner.Wanted{}, ctx.Err()
}

type reportFile string

func (f reportFile) Report(_ context.Context, reports []placement.TaskReport) error {
	out, err := os.OpenFile(string(f), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	return json.NewEncoder(out).Encode(reports)
}

// said are the statuses reported of a task, in order.
func (f reportFile) said(id placement.TaskID) []string {
	file, err := os.Open(string(f))
	if err != nil {
		return nil
	}
	defer file.Close()
	var all []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var reports []placement.TaskReport
		if json.Unmarshal(lines.Bytes(), &reports) != nil {
			continue // half a line, written now
		}
		for _, r := range reports {
			if r.Task != id || r.Status == placement.TaskStarting {
				continue
			}
			s := string(r.Status)
			if r.ExitCode != nil {
				s += fmt.Sprint(" ", *r.ExitCode)
			}
			all = append(all, s)
		}
	}
	return all
}

// TestAgentKilledWithKill9 kills a real agent process twice: the container goes
// on with the same process, what it prints meanwhile is there line by line, and
// an exit meanwhile is known.
func TestAgentKilledWithKill9(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		base := t.TempDir()
		job := placement.JobID("fra-1.01jd0000000000000000000000")
		long, short := job.Task(0, 1), job.Task(1, 1)
		want := func(id placement.TaskID, command ...string) runner.Want {
			return runner.Want{
				Task: placement.Task{ID: id, Job: job, Kind: placement.KindContainer, Status: placement.TaskAssigned, AssignedAt: time.Now()},
				Job: placement.Job{ID: job, Spec: placement.JobSpec{Kind: placement.KindContainer, Command: command, Image: appImage,
					StopGrace: placement.Duration(20 * time.Second), Resources: placement.Resources{CPU: 200, Memory: 64 * placement.MiB}}},
			}
		}
		commit := func(index uint64, wants ...runner.Want) {
			data, err := json.Marshal(runner.Wanted{Index: index, Tasks: wants})
			if err == nil {
				err = os.WriteFile(filepath.Join(base, "wanted"), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		start := func() *exec.Cmd {
			agent := exec.Command("/proc/self/exe", agentCommand, base, e.Host)
			agent.Stderr = os.Stderr
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
			return agent
		}
		kill9 := func(agent *exec.Cmd) {
			if err := agent.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = agent.Wait()
		}
		reports := reportFile(filepath.Join(base, "reports"))
		d := newDriver(t, e, filepath.Join(base, "driver"), nil)
		handle := func(id placement.TaskID) runner.Handle {
			return runner.Handle{Version: 1, Driver: d.Name(), Task: id}
		}
		observe := func(id placement.TaskID) runner.Observed {
			list, err := d.List(within(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range list {
				if o.Handle.Task == id {
					return o
				}
			}
			t.Fatalf("task %s is not listed", id)
			return runner.Observed{}
		}

		commit(1, want(long, app("tick", "20")...), want(short, app("tick", "5000")...))
		agent := start()
		eventually(t, "both tasks are reported as running", func() bool {
			return slices.Contains(reports.said(long), "running") && slices.Contains(reports.said(short), "running")
		})
		awaitOutput(t, d, handle(long), "tick 10\n")
		pid := observe(long).Facts["pid"]
		kill9(agent)
		// The short one ends while nobody of ours but its supervisor is there.
		if err := d.endFromWithin(within(t), handle(short)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the short task ends without an agent", func() bool { return observe(short).State == runner.StateExited })
		awaitOutput(t, d, handle(long), "tick 100\n")

		agent = start()
		eventually(t, "the exit meanwhile is reported", func() bool { return slices.Contains(reports.said(short), "complete 0") })
		eventually(t, "the long task is reported again", func() bool { return len(reports.said(long)) >= 2 })
		kill9(agent)
		if now := observe(long); now.State != runner.StateRunning || now.Facts["pid"] != pid || pid == "" {
			t.Errorf("the task is %s with pid %s, it had %s", now.State, now.Facts["pid"], pid)
		}
		stop := want(long, app("tick", "20")...)
		stop.Task.Stop, stop.Task.StopReason = true, "its owner asked"
		commit(2, stop)
		agent = start()
		eventually(t, "the stop is carried out", func() bool { return slices.Contains(reports.said(long), "stopped 0") })
		kill9(agent)
		withoutHole(t, printed(t, d, handle(long)))
	})
}

// endFromWithin ends a task as if it had ended by itself.
func (d *Driver) endFromWithin(ctx context.Context, h runner.Handle) error {
	c, err := d.look(ctx, h.Task)
	if err != nil {
		return err
	}
	return unix.Kill(c.State.Pid, unix.SIGTERM)
}

// withoutHole sees that every number stands there once, in order.
func withoutHole(t *testing.T, output string) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSuffix(output, "\n"), "\n") {
		if line != fmt.Sprint("tick ", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

// TestStraysAreFoundAndEnded takes a supervisor away, then all that is known of a task.
func TestStraysAreFoundAndEnded(t *testing.T) {
	eachEngine(t, func(t *testing.T, e *enginetest.Engine) {
		d := newDriver(t, e, t.TempDir(), nil)
		h := start(t, d, task(0, nil, app("sleep")...))
		var claim struct {
			PID int `json:"pid"`
		}
		data, err := os.ReadFile(filepath.Join(d.TaskDir(h.Task), "claim"))
		if err == nil {
			err = json.Unmarshal(data, &claim)
		}
		if err != nil || claim.PID == 0 {
			t.Fatal(err, claim)
		}
		if err := unix.Kill(claim.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the task is gone", func() bool {
			o, err := d.Recover(within(t), h)
			return err == nil && o.State == runner.StateGone
		})
		if err := d.Stop(within(t), h, 0); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, d)

		s := task(1, nil, app("sleep")...)
		h = start(t, d, s)
		data, err = os.ReadFile(filepath.Join(d.TaskDir(h.Task), "claim"))
		if err == nil {
			err = json.Unmarshal(data, &claim)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(claim.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its supervisor has ended", func() bool { return unix.Kill(claim.PID, 0) != nil || isZombie(claim.PID) })
		if err := os.RemoveAll(d.TaskDir(h.Task)); err != nil {
			t.Fatal(err)
		}
		list, err := d.List(within(t))
		i := slices.IndexFunc(list, func(o runner.Observed) bool { return o.Handle.Task == h.Task })
		if err != nil || i < 0 || list[i].State != runner.StateRunning || list[i].Facts["stray"] == "" {
			t.Fatalf("%+v, %v", list, err)
		}
		if err := d.Destroy(within(t), list[i].Handle); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, d)
	})
}

func isZombie(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Contains(string(data), ") Z ")
}

// TestEngineDiesMidStart kills the engine between the making and the starting
// of a container, and starts it again.
func TestEngineDiesMidStart(t *testing.T) {
	for _, kind := range enginetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			if why := enginetest.Missing(kind); why != "" {
				t.Skipf("no %s here: %s", kind, why)
			}
			e, err := enginetest.Start(kind) // one that may die
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			})
			img, err := enginetest.Image()
			if err != nil {
				t.Fatal(err)
			}
			e.Load(t, appImage, img)
			proxy := newDouble(t, e)
			d := newDriver(t, e, t.TempDir(), func(c *Config) { c.Host, c.Ulimits = proxy.host, ownLimits })
			h := runner.Handle{Task: task(0, nil).Task}
			proxy.before("/start", func() {
				if err := e.Kill(); err != nil {
					t.Error(err)
				}
			})
			_, err = d.Start(within(t), task(0, nil, app("sleep")...))
			refused(t, err, "engine ended")
			if _, err := d.Start(within(t), task(1, nil, app("sleep")...)); err == nil {
				t.Error("a task starts without an engine")
			}
			if fp, err := d.Fingerprint(within(t)); err != nil || fp.Healthy || !strings.Contains(fp.Reason, "does not answer") {
				t.Errorf("%+v, %v", fp, err)
			}
			if err := d.Destroy(within(t), h); err == nil {
				t.Error("a task is destroyed whose engine does not answer")
			}
			proxy.before("/start", nil)
			if err := e.Run(); err != nil {
				t.Fatal(err)
			}
			if err := d.Destroy(within(t), h); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, d)
			other := start(t, d, task(2, nil, app("print", "here again")...))
			if got := printed(t, d, other); got != "here again\n" {
				t.Errorf("%q", got)
			}
		})
	}
}
