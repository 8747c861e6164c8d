package agents

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

// What a job's owner typed and what the job wrote are on the disks of its region
// while it is known, and on none of them after it was erased: not in the ledger,
// the raft log, a snapshot, the node's own records or its logs. What remains is
// proven as before, and says that something was erased.
func TestProcesses_erasedBytesLeaveEveryFile(t *testing.T) {
	w := newWorld(t)
	r := found(t, w, "fra-1", "FR", 3)
	a := r.Agents[0]
	c := clientOf(t, r, a)
	word := func(place string) string { return "marker-of-" + place + "-5c1f" }
	places := []string{"name", "command", "output", "env", "envname", "key", "reason"}
	env := map[string]any{"env": map[string]string{strings.ReplaceAll(word("envname"), "-", "_"): word("env")}}
	script := fmt.Sprintf("echo marker-of-output-$((5))c1f >&2; : %s", word("command"))
	jobs := []*placement.Job{
		runs(t, r, a, shell(t, word("name"), "FR", script+"; sleep 600", env), "--idempotency-key", word("key")),
		runs(t, r, a, shell(t, word("name"), "FR", script+"; exit 3", map[string]any{"restart": map[string]any{"policy": "never"}})),
	}
	becomes(t, c, jobs[0].ID, "running", startLimit, is(placement.JobRunning))
	becomes(t, c, jobs[1].ID, "failed", startLimit, is(placement.JobFailed))
	if _, err := c.StopJob(within(t, startLimit), jobs[0].ID, word("reason")); err != nil {
		t.Fatal(err)
	}
	becomes(t, c, jobs[0].ID, "over", startLimit, func(j *placement.Job) bool { return j.Status.Terminal() })

	anywhere := func(place string) (files []string) {
		text := word(place)
		if place == "envname" {
			text = strings.ReplaceAll(text, "-", "_")
		}
		for _, agent := range r.Agents {
			files = append(files, contains(t, agent.Data, text)...)
		}
		return files
	}
	for _, place := range places {
		if len(anywhere(place)) == 0 {
			t.Errorf("the %s was never on a disk: that it is gone would show nothing", place)
		}
	}
	for _, j := range jobs {
		res, err := r.Run(within(t, startLimit), a, "", "audit", "erase", string(j.ID), "--yes")
		if err != nil || res.Exit != 0 {
			t.Fatalf("audit erase: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
		}
	}
	for _, place := range places {
		err := Until(within(t, time.Minute), func(context.Context) string {
			if files := anywhere(place); len(files) > 0 {
				return fmt.Sprintf("the %s stands in %q", place, files)
			}
			return ""
		})
		if err != nil {
			t.Error(err)
		}
	}

	for _, agent := range r.Agents {
		for _, place := range places {
			if strings.Contains(agent.Output(), word(place)) {
				t.Errorf("the log of %s has the %s, where no erasure reaches it", agent.Name, place)
			}
		}
	}

	pack := filepath.Join(t.TempDir(), "all.pack")
	res, err := r.Run(within(t, startLimit), a, "", "audit", "export", "--out", pack, "--job", string(jobs[0].ID))
	if err != nil || res.Exit != 0 {
		t.Fatalf("audit export: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	res, err = r.Run(within(t, startLimit), a, "", "audit", "verify", pack)
	if err != nil || !strings.Contains(res.Stdout, "erased: ") || strings.Contains(res.Stdout, "erased: 0") {
		t.Errorf("audit verify: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	for _, verdict := range []string{"integrity", "consistency", "completeness", "law"} {
		if !strings.Contains(res.Stdout, verdict) {
			t.Errorf("no verdict on %s:\n%s", verdict, res.Stdout)
		}
	}
}
