package agents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/sovmesh/sovmesh/placement"
)

// An agent is killed with -9 and started again. A task that ran goes on under
// the same pid, started once; one that ended meanwhile is known with its code.
func TestProcesses_tasksOutliveTheirAgent(t *testing.T) {
	w := newWorld(t)
	r := found(t, w, "fra-1", "FR", 1)
	a := r.Agents[0]
	dir := w.Shared()
	gate := filepath.Join(dir, "gate")
	stays := runs(t, r, a, shell(t, "stays", "FR", `echo $$ >> `+dir+`/stays; exec sleep 600`, nil))
	ends := runs(t, r, a, shell(t, "ends", "FR", `echo $$ >> `+dir+`/ends; while [ ! -e `+gate+` ]; do sleep 0.02; done; exit 7`, nil))
	c := clientOf(t, r, a)
	for _, j := range []*placement.Job{stays, ends} {
		becomes(t, c, j.ID, "running", startLimit, is(placement.JobRunning))
	}
	onePID(t, dir+"/stays")
	onePID(t, dir+"/ends")
	staysPID, endsPID := pidOf(t, a, stays.ID), pidOf(t, a, ends.ID)

	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Until(within(t, startLimit), func(context.Context) string {
		if Running(endsPID) {
			return fmt.Sprintf("process %d still runs", endsPID)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if !Running(staysPID) {
		t.Fatal("the task went with its agent")
	}
	if err := a.Start(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}

	j := becomes(t, c, ends.ID, "failed", startLimit, is(placement.JobFailed))
	if j.ExitCode == nil || *j.ExitCode != 7 || j.Restarts != 0 {
		t.Errorf("the exit that happened meanwhile: %+v, want code 7 and no restart", j)
	}
	j = becomes(t, c, stays.ID, "running", startLimit, is(placement.JobRunning))
	if j.Attempts != 1 || j.Restarts != 0 {
		t.Errorf("the running task was tried %d times, restarted %d times; want one and none", j.Attempts, j.Restarts)
	}
	onePID(t, dir+"/stays")
	if pid := pidOf(t, a, stays.ID); pid != staysPID || !Running(pid) {
		t.Errorf("the task has pid %d, had %d", pid, staysPID)
	}
	onePID(t, dir+"/ends")

	if _, err := c.StopJob(within(t, startLimit), stays.ID, "the test is over"); err != nil {
		t.Fatal(err)
	}
	becomes(t, c, stays.ID, "stopped", startLimit, is(placement.JobStopped))
	if Running(staysPID) {
		t.Error("the recovered task was not stopped")
	}
}

// pidOf is the process that an agent has for its one task of a job, as the
// machine numbers it: the task itself sees another number.
func pidOf(t *testing.T, a *Agent, job placement.JobID) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(a.Data, "tasks", string(job)+"_*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("tasks of job %s: %v, %v", job, found, err)
	}
	procs, err := named(found[0], "child")
	if err != nil || len(procs) != 1 {
		t.Fatalf("processes of job %s: %v, %v", job, procs, err)
	}
	return procs[0].PID
}

// onePID is the process id in a file that a task appends its own to at each
// start: there must be one.
func onePID(t *testing.T, file string) int {
	t.Helper()
	var lines []string
	err := Until(within(t, startLimit), func(context.Context) string {
		if lines = linesOf(file); len(lines) == 0 {
			return file + " is empty"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil || len(lines) != 1 {
		t.Fatalf("%s holds %q: want one start", file, lines)
	}
	return pid
}
