//go:build linux

package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const agentCommand = "test-agent"

// agentMain is an agent with nothing but a runner: args[0] is its directory,
// in which "wanted" is the committed view and "reports" takes what it says.
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
		cfg.Dir, cfg.Cgroup = filepath.Join(base, "tasks"), "sovmesh-test"
		cfg.Hold.Paths = []string{filepath.Join(base, "shared")}
		d, err := New(cfg)
		if err != nil {
			return err
		}
		store, err := runner.OpenDir(filepath.Join(base, "records"))
		if err != nil {
			return err
		}
		rc := runner.DefaultConfig()
		rc.Drivers, rc.Store = map[string]runner.Driver{"process": d}, store
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
func (f reportFile) said(t *testing.T, id placement.TaskID) []string {
	t.Helper()
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
			if r.Task != id {
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

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// TestAgentKilledWithKill9 kills a real agent process twice: what ran goes on
// and is recovered, an exit meanwhile is known, nothing is started twice.
func TestAgentKilledWithKill9(t *testing.T) {
	base := t.TempDir()
	common := filepath.Join(base, "shared") // what the tasks and this test both see
	if err := errors.Join(os.Mkdir(common, 0o700), os.Chmod(common, 0o777)); err != nil {
		t.Fatal(err)
	}
	job := placement.JobID("fra-1.01jd0000000000000000000000")
	long, short := job.Task(0, 1), job.Task(1, 1)
	script := `echo $$ >> "$STARTS"; trap 'exit 0' TERM; while [ ! -e "$GO" ]; do sleep 0.02; done; exit 7`
	want := func(id placement.TaskID, goFile string) runner.Want {
		return runner.Want{
			Task: placement.Task{ID: id, Job: job, Kind: placement.KindProcess, Status: placement.TaskAssigned, AssignedAt: time.Now()},
			Job: placement.Job{ID: job, Spec: placement.JobSpec{Command: shell(script), StopGrace: placement.Duration(20 * time.Second),
				Env: map[string]string{"GO": filepath.Join(common, goFile), "STARTS": filepath.Join(common, "starts-"+goFile)}}},
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
		agent := exec.Command("/proc/self/exe", agentCommand, base)
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
	d := newDriver(t, filepath.Join(base, "tasks"), nil)
	t.Cleanup(func() {
		for _, id := range []placement.TaskID{long, short} {
			if err := d.Destroy(context.Background(), d.handle(id)); err != nil {
				t.Error(err)
			}
		}
	})
	state := func(id placement.TaskID) runner.Observed {
		o, err := d.observe(id, false)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}

	commit(1, want(long, "long"), want(short, "short"))
	agent := start()
	eventually(t, "both tasks are reported as running", func() bool {
		return len(reports.said(t, long)) == 1 && len(reports.said(t, short)) == 1
	})
	eventually(t, "both wrote their number", func() bool {
		a, _ := os.ReadFile(filepath.Join(common, "starts-long"))
		b, _ := os.ReadFile(filepath.Join(common, "starts-short"))
		return len(a) > 0 && len(b) > 0
	})
	pid := state(long).Facts["pid"]
	kill9(agent)

	if o := state(long); o.State != runner.StateRunning {
		t.Fatalf("after kill -9 of its agent the task is %s", o.State)
	}
	if err := os.WriteFile(filepath.Join(common, "short"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the short task ends without an agent", func() bool { return state(short).State == runner.StateExited })

	agent = start()
	eventually(t, "the exit meanwhile is reported", func() bool { return slices.Contains(reports.said(t, short), "failed 7") })
	eventually(t, "the long task is reported again", func() bool { return len(reports.said(t, long)) == 2 })
	kill9(agent)
	if now := state(long); now.State != runner.StateRunning || now.Facts["pid"] != pid {
		t.Errorf("the task is %s with pid %s, it had %s", now.State, now.Facts["pid"], pid)
	}

	stop := want(long, "long")
	stop.Task.Stop, stop.Task.StopReason = true, "its owner asked"
	commit(2, stop)
	agent = start()
	eventually(t, "the stop is carried out", func() bool { return slices.Contains(reports.said(t, long), "stopped 0") })
	kill9(agent)
	for _, name := range []string{"starts-long", "starts-short"} {
		data, err := os.ReadFile(filepath.Join(common, name))
		if err != nil || strings.Count(string(data), "\n") != 1 {
			t.Errorf("%s: %q, %v; want one start", name, data, err)
		}
	}
}
