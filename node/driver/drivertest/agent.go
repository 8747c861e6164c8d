package drivertest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// AgentCommand is the first argument of a test binary that is an agent: it ends
// in [AgentMain].
const AgentCommand = "test-agent"

// Files in an agent's directory: the view that is committed, and what it says.
const (
	wantedFile  = "wanted"
	reportsFile = "reports"
)

// AgentMain is an agent with nothing but a runner. Its arguments are its
// directory and those of [Agent].Args, which are for build.
func AgentMain(args []string, build func(dir string, more []string) (runner.Driver, error)) int {
	err := func() error {
		dir := args[0]
		var view runner.Wanted
		data, err := os.ReadFile(filepath.Join(dir, wantedFile))
		if err == nil {
			err = json.Unmarshal(data, &view)
		}
		if err != nil {
			return err
		}
		d, err := build(dir, args[1:])
		if err != nil {
			return err
		}
		store, err := runner.OpenDir(filepath.Join(dir, "records"))
		if err != nil {
			return err
		}
		cfg := runner.DefaultConfig()
		cfg.Drivers, cfg.Store = map[string]runner.Driver{d.Name(): d}, store
		cfg.Assignments, cfg.Reporter = oneView(view), reportFile(filepath.Join(dir, reportsFile))
		cfg.Gate = func(placement.Task, placement.Job) error { return nil }
		r, err := runner.New(cfg)
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
	data, err := os.ReadFile(string(f))
	if err != nil {
		return nil
	}
	var all []string
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
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
			all = append(all, strings.TrimSpace(s+" "+r.Reason))
		}
	}
	return all
}

// Agent is a driver whose agent is killed: see [KilledAgent].
type Agent struct {
	Args []string // for the build of [AgentMain]
	// Driver is one in the test's own process, on the same directory.
	Driver func(t *testing.T, dir string) runner.Driver
	// Job counts aloud until it is asked to end: lines of Word and a number, each
	// one more than the one before; a first line may say which boot it is. dir is
	// the agent's and name tells two jobs apart.
	Job  func(dir, name string) placement.JobSpec
	Word string
	// End has the short job's task end as if by itself, with the code that Ended says.
	End   func(t *testing.T, dir string, h runner.Handle)
	Ended string // the status and the code reported then: "complete 0"
	// Patience bounds each wait; zero is two minutes.
	Patience time.Duration
}

// KilledAgent kills a real agent process three times with work running: the
// process goes on as it was, by its number and the instant of its start; what it
// prints meanwhile is there line by line; an exit meanwhile is known; and the
// agent that comes back carries out what was ordered meanwhile.
func KilledAgent(t *testing.T, a Agent) {
	t.Helper()
	if a.Patience == 0 {
		a.Patience = 2 * time.Minute
	}
	dir := t.TempDir()
	k := &killing{T: t, Agent: a, dir: dir, reports: reportFile(filepath.Join(dir, reportsFile)), d: a.Driver(t, dir)}
	long, short := k.task(0, "long"), k.task(1, "short")
	t.Cleanup(k.cleanUp)

	k.commit(1, long, short)
	agent := k.start()
	for _, w := range []runner.Want{long, short} {
		k.await("a task is reported as running", func() bool { return slices.Contains(k.reports.said(w.Task.ID), "running") })
	}
	k.counts(long, 10)
	k.counts(short, 1)
	before := k.identity(long)
	k.kill9(agent)
	a.End(t, dir, k.handle(short))
	k.await("the short task ends without an agent", func() bool { return k.observe(short).State == runner.StateExited })
	k.counts(long, k.counted(long)+20)

	agent = k.start()
	k.await("the exit meanwhile is reported", func() bool {
		return slices.ContainsFunc(k.reports.said(short.Task.ID), func(s string) bool { return strings.HasPrefix(s, a.Ended) })
	})
	k.await("the long task is reported again", func() bool { return len(k.reports.said(long.Task.ID)) >= 2 })
	k.kill9(agent)
	if now := k.identity(long); now != before {
		t.Errorf("the task is %s, it was %s", now, before)
	}
	k.counts(long, k.counted(long)+5)

	long.Task.Stop, long.Task.StopReason = true, "its owner asked"
	k.commit(2, long)
	agent = k.start()
	k.await("the stop is carried out", func() bool {
		return slices.ContainsFunc(k.reports.said(long.Task.ID), func(s string) bool { return strings.HasPrefix(s, "stopped") })
	})
	k.kill9(agent)
	t.Logf("%d lines, none missing, of %s", k.counted(long), before)
}

type killing struct {
	*testing.T
	Agent
	dir     string
	reports reportFile
	d       runner.Driver
	agents  []*exec.Cmd
}

func (k *killing) task(n int, name string) runner.Want {
	job := placement.JobID("fra-1.01jd0000000000000000000000")
	spec := k.Job(k.dir, name)
	return runner.Want{
		Task: placement.Task{ID: job.Task(n, 1), Job: job, Kind: spec.Kind, Status: placement.TaskAssigned, AssignedAt: time.Now()},
		Job:  placement.Job{ID: job, Spec: spec},
	}
}

func (k *killing) handle(w runner.Want) runner.Handle {
	return runner.Handle{Version: 1, Driver: k.d.Name(), Task: w.Task.ID}
}

// cleanUp ends what a failed test left running: agents first, or they would
// start it anew.
func (k *killing) cleanUp() {
	for _, agent := range k.agents {
		k.kill9(agent)
	}
	ctx, cancel := context.WithTimeout(context.Background(), k.Patience)
	defer cancel()
	all, err := k.d.List(ctx)
	if err != nil {
		k.Error(err)
	}
	for _, o := range all {
		if err := k.d.Destroy(ctx, o.Handle); err != nil {
			k.Error(err)
		}
	}
}

func (k *killing) commit(index uint64, wants ...runner.Want) {
	k.Helper()
	data, err := json.Marshal(runner.Wanted{Index: index, Tasks: wants})
	if err == nil {
		err = os.WriteFile(filepath.Join(k.dir, wantedFile), data, 0o600)
	}
	if err != nil {
		k.Fatal(err)
	}
}

func (k *killing) start() *exec.Cmd {
	k.Helper()
	agent := exec.Command("/proc/self/exe", append([]string{AgentCommand, k.dir}, k.Args...)...)
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		k.Fatal(err)
	}
	k.agents = append(k.agents, agent)
	return agent
}

// kill9 is the end that no agent can prepare for.
func (k *killing) kill9(agent *exec.Cmd) {
	k.Helper()
	if agent.ProcessState != nil {
		return
	}
	if err := agent.Process.Kill(); err != nil {
		k.Error(err)
	}
	_ = agent.Wait()
}

func (k *killing) observe(w runner.Want) runner.Observed {
	k.Helper()
	o, err := k.d.Recover(k.Context(), k.handle(w))
	if err != nil {
		k.Fatal(err)
	}
	return o
}

// identity is what tells a running process from any other, also one that has its number.
func (k *killing) identity(w runner.Want) string {
	k.Helper()
	o := k.observe(w)
	if o.State != runner.StateRunning || o.Facts["pid"] == "" {
		k.Fatalf("task %s is %s, with facts %v", w.Task.ID, o.State, o.Facts)
	}
	stat, err := os.ReadFile("/proc/" + o.Facts["pid"] + "/stat")
	if err != nil {
		k.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		k.Fatalf("%q", stat)
	}
	id := "pid " + o.Facts["pid"] + " started at " + fields[19] // starttime is the 22nd: proc_pid_stat(5)
	if boot := o.Facts["boot_id"]; boot != "" {
		id += " boot " + boot
	}
	return id
}

// counted is how far the task has counted; what is missing in between fails the test.
func (k *killing) counted(w runner.Want) int {
	k.Helper()
	r, err := k.d.Logs(k.Context(), k.handle(w), 0, false)
	if err != nil {
		k.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		k.Fatal(err)
	}
	next := -1
	for line := range strings.Lines(string(data)) {
		if next < 0 && strings.HasPrefix(line, "boot ") || !strings.HasSuffix(line, "\n") {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(line, k.Word+" %d\n", &n); err != nil || next >= 0 && n != next {
			k.Fatalf("a hole in the log: %q follows upon number %d", line, next-1)
		}
		next = n + 1
	}
	return next - 1
}

func (k *killing) counts(w runner.Want, to int) {
	k.Helper()
	k.await(fmt.Sprintf("task %s counts to %d", w.Task.ID, to), func() bool { return k.counted(w) >= to })
}

func (k *killing) await(what string, holds func() bool) {
	k.Helper()
	deadline := time.After(k.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			k.Fatalf("not within %v: %s; reported: %q, %q", k.Patience, what, k.reports.said("fra-1.01jd0000000000000000000000/0.1"), k.reports.said("fra-1.01jd0000000000000000000000/1.1"))
		}
	}
}
