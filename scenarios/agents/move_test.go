//go:build linux

package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/vm/guesttest"
	"github.com/sovmesh/sovmesh/placement"
)

// machineLimit bounds what machines do: they are emulated where tests run.
const machineLimit = 4 * time.Minute

// images lets the agents of a region take machines' images from a directory.
func (r *Region) images(t *testing.T, dir string) {
	t.Helper()
	for _, a := range r.Agents {
		data, err := os.ReadFile(a.Config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(a.Config, fmt.Appendf(data, "images: [%q]\n", dir), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.Stop(within(t, startLimit)); err != nil {
			t.Fatal(err)
		}
		if err := a.Start(within(t, startLimit)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Whole(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}
}

// told is what the guest says at its port, reached through a node as sovmesh job
// connect does: its boot id and its counter.
func told(t *testing.T, r *Region, a *Agent, id placement.JobID) (boot string, count int) {
	t.Helper()
	c := clientOf(t, r, a)
	err := Until(within(t, machineLimit), func(ctx context.Context) string {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		typed, close := io.Pipe() // stays open, as that of a ProxyCommand does
		defer close.Close()
		var said bytes.Buffer
		err := c.Connect(ctx, id, 7, api.Session{Stdin: typed, Stdout: &said})
		if err != nil {
			return err.Error()
		}
		words := strings.Fields(said.String())
		if len(words) != 2 {
			return fmt.Sprintf("it said %q", said.String())
		}
		boot = words[0]
		if count, err = strconv.Atoi(words[1]); err != nil {
			return err.Error()
		}
		return ""
	})
	if err != nil {
		t.Fatalf("reach %s from %s: %v", id, a.Name, err)
	}
	return boot, count
}

// isOn reports whether a task of the job is on a node of the client's region: the
// job's own region is another.
func isOn(t *testing.T, c *api.Client, node placement.NodeID, id placement.JobID) bool {
	t.Helper()
	plan, err := c.PlanDrain(within(t, startLimit), node, api.DrainRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(plan.Tasks, func(k api.DrainTask) bool { return k.Job == id })
}

// A machine runs in one region and is reached from a node of another inside its
// tag. Its node is drained: it goes on on the region's other node, with its boot id
// and its counter, and is reached as before. Drained from there with no other node
// inside the tag, it stays, although a region outside is free.
func TestProcesses_aMachineIsMovedWhileItRuns(t *testing.T) {
	w := newWorld(t)
	guest := guesttest.Small(t)
	t.Cleanup(guesttest.Remove)
	fr, de, us := found(t, w, "fra-1", "FR", 2), found(t, w, "ber-1", "DE", 1), found(t, w, "iad-1", "US", 1)
	fr.images(t, guest)
	us.images(t, guest)
	for _, pair := range [][2]*Region{{de, fr}, {us, fr}, {us, de}} {
		if err := w.Federate(within(t, startLimit), pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
	}
	c, there := clientOf(t, fr, fr.Agents[0]), clientOf(t, de, de.Agents[0])
	first, second := placement.NodeID(fr.Agents[0].Name), placement.NodeID(fr.Agents[1].Name)
	if _, err := c.Cordon(within(t, startLimit), first); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Cordon(within(t, startLimit), placement.NodeID(de.Agents[0].Name)); err != nil {
		t.Fatal(err) // its own region would take it
	}
	what := "tell"
	if os.Geteuid() == 0 {
		what += " held" // machines have networks of their own, at another address
	}
	file, err := json.Marshal(map[string]any{
		"name": "teller", "kind": "vm", "type": "service", "residency": "EU", "image": guesttest.SmallDisk(), "boot": "direct",
		"cloud_init": "#cloud-config\n#test " + what + "\n", "resources": map[string]any{"cpu": "500m", "memory": "192MiB"},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := runs(t, de, de.Agents[0], file).ID
	becomes(t, there, id, "running", machineLimit, is(placement.JobRunning))
	if !isOn(t, c, second, id) {
		t.Fatalf("it does not run on %s", second)
	}
	boot, count := told(t, de, de.Agents[0], id)
	if _, err := c.Resume(within(t, startLimit), first); err != nil {
		t.Fatal(err)
	}

	res, err := fr.Run(within(t, startLimit), fr.Agents[0], "", "node", "drain", string(second), "--plan")
	if err != nil || res.Exit != 0 || !strings.Contains(res.Stdout, "live: ") {
		t.Errorf("the plan: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	res, err = fr.Run(within(t, machineLimit), fr.Agents[0], "", "node", "drain", string(second), "--wait")
	if err != nil || res.Exit != 0 {
		t.Fatalf("the drain: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	if !isOn(t, c, first, id) || isOn(t, c, second, id) {
		t.Errorf("it did not get to %s", first)
	}
	after, later := told(t, de, de.Agents[0], id)
	if after != boot || later <= count {
		t.Errorf("boot %s, counter %d before; boot %s, counter %d after", boot, count, after, later)
	}

	report, err := c.Drain(within(t, startLimit), first, api.DrainRequest{})
	if err != nil || report.Blockers != 1 || report.Tasks[0].Fate != "blocked" || report.Tasks[0].To != "" {
		t.Errorf("with none but a region outside the tag free: %+v, %v", report, err)
	}
	if again, last := told(t, de, de.Agents[0], id); again != boot || last < later {
		t.Errorf("left where it is: boot %s, counter %d", again, last)
	}
	if jobs, err := clientOf(t, us, us.Agents[0]).Jobs(within(t, startLimit), api.ListOptions{}); err != nil || len(jobs.Items) != 0 {
		t.Errorf("the region outside the tag has %+v, %v", jobs, err)
	}
}
