package agents

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// The home region has no room, so its jobs are forwarded. One of the three
// nodes of the other region is killed in the middle: no forwarded job fails.
// Then all of them are: a question that needs them is answered "unknown" in
// under a second, and local work goes on.
func TestProcesses_remoteNodesKilled(t *testing.T) {
	const jobs, killAfter = 24, 8
	w := newWorld(t)
	fr, de := found(t, w, "fra-1", "FR", 1), found(t, w, "ber-1", "DE", 3)
	if err := w.Federate(within(t, startLimit), de, fr); err != nil {
		t.Fatal(err)
	}
	home := fr.Agents[0]
	c := clientOf(t, fr, home)
	if _, err := c.Cordon(within(t, startLimit), placement.NodeID(home.Name)); err != nil {
		t.Fatal(err)
	}
	leader, err := de.Leader(within(t, startLimit))
	if err != nil {
		t.Fatal(err)
	}
	wire, err := fr.Wire(1)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()

	victim := de.Others(leader)[0]
	var ids []placement.JobID
	for i := range jobs {
		if i == killAfter {
			if err := victim.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		key := fmt.Sprintf("forwarded-%d", i)
		tally, err := wire.Persist(within(t, 10*time.Second), []*Agent{home}, "EU", key, shell(t, key, "EU", "exit 0", nil))
		if err != nil || tally.Refused > 0 || tally.Lost > 0 {
			t.Fatalf("submit %d: %+v, %v", i, tally, err)
		}
		ids = append(ids, tally.Job)
	}
	began := time.Now()
	there, err := de.Wire(1)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	held := 0
	for _, id := range ids {
		// What the dead node was given before it was missed is unknown, never
		// run a second time elsewhere; everything else completes without it.
		err := Until(within(t, startLimit), func(ctx context.Context) string {
			j, err := there.Wait(ctx, leader.API, id, 0)
			switch {
			case err != nil:
				return err.Error()
			case j.Status.Terminal():
				return ""
			case j.Node == placement.NodeID(victim.Name):
				held++
				return ""
			}
			return fmt.Sprintf("%s is %s (%s) on %q", id, j.Status, j.Reason, j.Node)
		})
		if err != nil {
			home, _ := c.Job(within(t, startLimit), id)
			t.Fatalf("%v; at home %+v", err, home)
		}
	}
	t.Logf("%d of %d forwarded jobs complete %v after the last submit, %d wait for the dead node; %s", jobs-held, jobs, time.Since(began).Round(time.Millisecond), held, Machine())
	if err := victim.Start(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		j := becomes(t, c, id, "complete", startLimit, func(j *placement.Job) bool { return j.Status.Terminal() })
		if j.Status != placement.JobComplete || j.Region != placement.RegionID(de.Name) {
			t.Errorf("job %s is %s (%s) in %q, want complete in %s", id, j.Status, j.Reason, j.Region, de.Name)
		}
	}

	for _, a := range de.Agents {
		if err := a.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 { // at once, and when the link's loss is known
		began = time.Now()
		res, err := fr.Run(within(t, startLimit), home, string(shell(t, "check", "DE", "exit 0", nil)), "job", "check", "-", "--json")
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		if res.Exit != api.ExitUnknown || took > time.Second {
			t.Errorf("check %d: exit %d after %v, want %d within a second; %s\n%s\n%s", i, res.Exit, took, api.ExitUnknown, Machine(), res.Stdout, res.Stderr)
		}
	}
	if _, err := c.Resume(within(t, startLimit), placement.NodeID(home.Name)); err != nil {
		t.Fatal(err)
	}
	local := runs(t, fr, home, shell(t, "local", "FR", "exit 0", nil), "--wait")
	if local.Status != placement.JobComplete || local.Region != placement.RegionID(fr.Name) {
		t.Errorf("a local job is %s in %q while the other region is gone", local.Status, local.Region)
	}
}
