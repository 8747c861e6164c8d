package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// exec runs a command in a job's task and gives its outputs and its end.
func (c *Client) exec(id placement.JobID, stdin string, command ...string) (stdout, stderr string, code int, err error) {
	var out, complaint bytes.Buffer
	ctx, cancel := context.WithTimeout(c.m.t.Context(), 20*time.Second)
	defer cancel()
	exit, err := c.Exec(ctx, id, api.Session{
		Head:  api.ReachHead{Command: command, Env: map[string]string{"A": "b"}},
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &complaint,
	})
	if exit != nil {
		code = exit.Code
	}
	return out.String(), complaint.String(), code, err
}

// taskOf is the job's newest task as its region has it.
func (m *Mesh) taskOf(region placement.RegionID, id placement.JobID) *placement.Task {
	tasks := m.region(region).newest().TasksOf(id)
	if len(tasks) == 0 {
		m.t.Fatalf("job %s has no task in %s", id, region)
	}
	return tasks[len(tasks)-1]
}

// accesses are the ways in which the job's task was reached, as the region has them.
func (m *Mesh) accesses(region placement.RegionID, id placement.JobID) string {
	var out []string
	for _, n := range m.taskOf(region, id).Notes {
		if n.What == placement.NoteAccess {
			out = append(out, n.Subject)
		}
	}
	return strings.Join(out, " ")
}

// A running task is reached from every node of its region: whatever runs it, and
// whichever node is asked. Each time is in the ledger, its words are not.
func TestReachingIntoATaskIsRecorded(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8)) // n8 holds no state
		for _, host := range []placement.NodeID{"n2", "n8"} {
			for _, asked := range []placement.NodeID{"n1", "n2", "n8"} {
				c := m.AtNode("fra-1", asked)
				job := c.Submit(fmt.Sprintf(`{"kind":"fake","residency":"FR","command":["sleep"],"node":%q}`, host))
				m.Within(20*time.Second, "it runs", job.Is(placement.JobRunning))
				where := fmt.Sprintf("on %s through %s", host, asked)
				if out, _, code, err := c.exec(job.ID, "typed", "cat"); err != nil || out != "typed" || code != 0 {
					t.Errorf("%s: cat gives %q, %d, %v", where, out, code, err)
				}
				if _, complaint, code, err := c.exec(job.ID, "", "complain", "secret-word"); err != nil || complaint != "secret-word\n" || code != 0 {
					t.Errorf("%s: complain gives %q, %d, %v", where, complaint, code, err)
				}
				if _, _, code, err := c.exec(job.ID, "", "exit", "7"); err != nil || code != 7 {
					t.Errorf("%s: exit 7 gives %d, %v", where, code, err)
				}
				if _, _, _, err := c.exec(job.ID, "", "no-such-program"); api.CodeOf(err) != api.CodeNoPart {
					t.Errorf("%s: no such program: %v", where, err)
				}
				var back bytes.Buffer
				if err := c.Connect(t.Context(), job.ID, 7, api.Session{Stdin: strings.NewReader(strings.Repeat("x", 200_000)), Stdout: &back}); err != nil || back.Len() != 200_000 {
					t.Errorf("%s: connect gives %d bytes, %v", where, back.Len(), err)
				}
				if err := c.Connect(t.Context(), job.ID, 8, api.Session{Stdin: strings.NewReader(""), Stdout: &back}); api.CodeOf(err) != api.CodeNoPart {
					t.Errorf("%s: a port where nothing listens: %v", where, err)
				}
				back.Reset()
				if err := c.Console(t.Context(), job.ID, api.Session{Stdin: strings.NewReader("hello"), Stdout: &back}); err != nil || back.String() != "hello" {
					t.Errorf("%s: the console gives %q, %v", where, back.String(), err)
				}
				m.Within(5*time.Second, "every access is noted", func() bool {
					return m.accesses("fra-1", job.ID) == "exec exec exec exec connect connect console"
				})
				m.leavesSay(t, "fra-1", job.ID, "exec", "secret-word")
			}
		}
	})
}

// leaves are all entries of a region's ledger, as a replica gets them.
func (m *Mesh) leaves(id placement.RegionID) (out [][]byte) {
	m.t.Helper()
	r := m.rogue(m.stolen(id, "n1"), outside(9))
	defer r.stop()
	from := r.mesh.Ledger(m.peer(id, "n1"))
	for size := m.region(id).newest().LedgerSize(); uint64(len(out)) < size; {
		at := uint64(len(out))
		width := int(min(size-at, ledger.TileWidth))
		data, err := from.ReadTile(m.t.Context(), ledger.Tile{Level: ledger.EntriesLevel, Index: at / ledger.TileWidth, Width: width})
		m.must(err)
		all, err := ledger.ParseBundle(data, width)
		m.must(err)
		out = append(out, all...)
	}
	return out
}

// leavesSay holds the ledger to this: some leaf about the job notes the access, by
// somebody, and none has the words.
func (m *Mesh) leavesSay(t *testing.T, region placement.RegionID, id placement.JobID, what, hidden string) {
	t.Helper()
	found := false
	for _, entry := range m.leaves(region) {
		if bytes.Contains(entry, []byte(hidden)) {
			t.Errorf("a leaf holds %q", hidden)
		}
		leaf, err := ledger.Decode(entry)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(leaf.Get(ledger.ShownNote), string(id)+" access "+what) {
			found = leaf.Actor != ""
		}
	}
	if !found {
		t.Errorf("no leaf of %s says that somebody reached into %s", region, id)
	}
}

func TestPausingAndLookingAtATask(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 4))
		c := m.AtNode("fra-1", "n1")
		job := c.Submit(`{"kind":"fake","residency":"FR","command":["run","60s"],"node":"n4"}`)
		m.Within(20*time.Second, "it runs", job.Is(placement.JobRunning))
		if a, err := c.PauseJob(t.Context(), job.ID); err != nil || !a.Paused {
			t.Fatalf("%+v, %v", a, err)
		}
		time.Sleep(5 * time.Minute)
		if now := job.Now(); now.Status != placement.JobRunning {
			t.Errorf("a paused task became %s", now.Status)
		}
		if a, err := c.ResumeJob(t.Context(), job.ID); err != nil || a.Paused {
			t.Fatalf("%+v, %v", a, err)
		}
		task := m.taskOf("fra-1", job.ID)
		world := m.host("fra-1", "n4").world
		world.See(task.ID, runner.Actual{Boundary: []runner.Boundary{{What: "network", Holds: true, How: "a namespace of its own"}, {What: "kernel", How: "it shares the machine's"}}})
		world.Deny(task.ID, runner.Denial{Destination: "192.0.2.1:443/tcp", Packets: 3})
		auditor, err := c.CreateToken(t.Context(), api.TokenRequest{Roles: []state.Role{state.RoleAuditor}})
		m.must(err)
		a := m.AtNodeWith("fra-1", "n2", auditor.Secret)
		iso, err := a.Isolation(t.Context(), job.ID)
		if err != nil || len(iso.Boundaries) != 2 || !iso.Boundaries[0].Holds || len(iso.Denied) != 1 || len(iso.Access) != 2 || iso.Node != "n4" {
			t.Errorf("an auditor sees %+v, %v", iso, err)
		}
		if d, err := a.Drift(t.Context(), job.ID); err != nil || d.Mode != placement.DriftReport || len(d.Findings) != 0 {
			t.Errorf("drift: %+v, %v", d, err)
		}
		if _, err := a.PauseJob(t.Context(), job.ID); api.CodeOf(err) != api.CodeRole {
			t.Errorf("an auditor pauses: %v", err)
		}
		if _, err := a.Snapshot(t.Context(), job.ID, t.TempDir()); api.CodeOf(err) != api.CodeRole {
			t.Errorf("an auditor copies its state: %v", err)
		}
		diskSnapshots(t, m, c, a, job.ID)
		snap, err := c.Snapshot(t.Context(), job.ID, t.TempDir())
		if err != nil || len(snap.Parts) != 1 || snap.Parts[0].Name != "console.log" {
			t.Errorf("a snapshot: %+v, %v", snap, err)
		}
		m.Within(60*time.Second, "it ends in its own time", job.Exited(0))
		digest := ""
		for _, n := range m.taskOf("fra-1", job.ID).Notes {
			if n.What == placement.NoteSnapshot {
				digest = n.Digest
			}
		}
		if len(digest) != 64 {
			t.Errorf("the ledger has the hash %q of the snapshot", digest)
		}
		if _, _, _, err := c.exec(job.ID, "", "cat"); api.CodeOf(err) != api.CodeNotRunning {
			t.Errorf("into a task that is over: %v", err)
		}
	})
}

// diskSnapshots are taken, seen, used and removed, each noted before; an auditor
// does none of it.
func diskSnapshots(t *testing.T, m *Mesh, c, auditor *Client, id placement.JobID) {
	t.Helper()
	ctx := t.Context()
	for what, ask := range map[string]func() (*api.DiskSnapshots, error){
		"takes":    func() (*api.DiskSnapshots, error) { return auditor.TakeDiskSnapshot(ctx, id, "one") },
		"lists":    func() (*api.DiskSnapshots, error) { return auditor.DiskSnapshots(ctx, id) },
		"restores": func() (*api.DiskSnapshots, error) { return auditor.RestoreDiskSnapshot(ctx, id, "one") },
	} {
		if _, err := ask(); api.CodeOf(err) != api.CodeRole {
			t.Errorf("an auditor %s snapshots: %v", what, err)
		}
	}
	taken, err := c.TakeDiskSnapshot(ctx, id, "before-upgrade")
	if err != nil || taken.Snapshot == nil || taken.Snapshot.Name != "before-upgrade" || len(taken.Snapshots) != 1 {
		t.Fatalf("taken: %+v, %v", taken, err)
	}
	if _, err := c.TakeDiskSnapshot(ctx, id, "before-upgrade"); api.CodeOf(err) != api.CodeNoPart {
		t.Errorf("taken twice: %v", err)
	}
	for _, name := range []string{"..", "../x", "A", "a b"} {
		if _, err := c.TakeDiskSnapshot(ctx, id, name); err == nil {
			t.Errorf("a snapshot is called %q", name)
		}
	}
	if back, err := c.RestoreDiskSnapshot(ctx, id, "before-upgrade"); err != nil || back.Snapshot == nil || back.Job != id {
		t.Errorf("set back: %+v, %v", back, err)
	}
	if left, err := c.RemoveDiskSnapshot(ctx, id, "before-upgrade"); err != nil || len(left.Snapshots) != 0 {
		t.Errorf("removed: %+v, %v", left, err)
	}
	if all, err := c.DiskSnapshots(ctx, id); err != nil || all.Snapshots == nil || len(all.Snapshots) != 0 {
		t.Errorf("there are %+v, %v", all, err)
	}
	var said []string
	for _, n := range m.taskOf("fra-1", id).Notes {
		if n.What == placement.NoteAccess && n.Text != "" {
			said = append(said, n.Subject+" "+n.Text)
		}
	}
	if got := strings.Join(said, "; "); got != "snapshot keeps its disks as before-upgrade; snapshot keeps its disks as before-upgrade; snapshot sets its disks back to before-upgrade; snapshot removes its disks kept as before-upgrade" {
		t.Errorf("the ledger has %q", got)
	}
}

// Who may not end a job may not reach into it; and nobody comes around the
// record: not by another tenant's token, not by a worker that was taken over.
func TestWhoMayNotReachIntoATask(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8))
		owner := m.At("fra-1")
		job := owner.Submit(`{"kind":"fake","residency":"FR","command":["sleep"],"node":"n4"}`)
		m.Within(20*time.Second, "it runs", job.Is(placement.JobRunning))
		_, err := owner.SetTenant(t.Context(), state.Tenant{ID: "other"})
		m.must(err)
		with := func(tenant placement.TenantID, roles ...state.Role) *Client {
			tok, err := owner.CreateToken(t.Context(), api.TokenRequest{Roles: roles, Tenant: tenant})
			m.must(err)
			return m.AtNodeWith("fra-1", "n1", tok.Secret)
		}
		for name, c := range map[string]struct {
			*Client
			code string
		}{
			"a viewer":          {with("default", state.RoleViewer), api.CodeRole},
			"an auditor":        {with("default", state.RoleAuditor), api.CodeRole},
			"another tenant":    {with("other", state.RoleSubmitter), api.CodeNotFound},
			"nobody in a wrong": {m.AtNodeWith("fra-1", "n8", "nonsense"), api.CodeBadToken},
		} {
			if _, _, _, err := c.exec(job.ID, "", "cat"); api.CodeOf(err) != c.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		r := m.rogue(m.stolen("fra-1", "n8"), outside(1))
		task := m.taskOf("fra-1", job.ID)
		for _, path := range []string{"/reach/exec", "/reach/connect", "/hold/pause", "/snapshot"} {
			if status, code := r.answer(http.MethodPost, m.peer("fra-1", "n4"), api.MeshPrefix+"/tasks/"+string(task.ID)+path, nil, "{}"); status != http.StatusForbidden || code != api.CodeRole {
				t.Errorf("a worker at %s: %d %s", path, status, code)
			}
		}
		if got := m.accesses("fra-1", job.ID); got != "" {
			t.Errorf("it was reached: %s", got)
		}
	})
}

// A job that was forwarded is reached through its home, which judges its owner,
// and the region that runs it keeps a record of its own. What may not come home
// as output does not come home so either.
func TestReachingIntoAForwardedTask(t *testing.T) {
	Run(t, func(t *testing.T) {
		de := Region("ber-1", "DE", 4)
		de.GPUs = []placement.Device{h200}
		m := New(t, Region("fra-1", "FR", 3), de, Region("mad-1", "ES", 1))
		c := m.At("fra-1")
		job := c.Submit(`{"kind":"fake","residency":"EU","resources":{"gpus":1},"command":["sleep"]}`)
		m.Within(40*time.Second, "it runs", job.Is(placement.JobRunning))
		if at := job.Now().Region; at != "ber-1" {
			t.Fatalf("it runs in %s", at)
		}
		if out, _, code, err := c.exec(job.ID, "typed", "cat"); err != nil || out != "typed" || code != 0 {
			t.Errorf("cat gives %q, %d, %v", out, code, err)
		}
		if _, _, _, err := c.exec(job.ID, "", "no-such-program"); api.CodeOf(err) != api.CodeNoPart || strings.Contains(err.Error(), "no-such-program") {
			t.Errorf("no such program: %v", err)
		}
		var back bytes.Buffer
		if err := c.Connect(t.Context(), job.ID, 7, api.Session{Stdin: strings.NewReader("over the border"), Stdout: &back}); err != nil || back.String() != "over the border" {
			t.Errorf("connect gives %q, %v", back.String(), err)
		}
		m.Within(5*time.Second, "it is noted where it runs", func() bool { return m.accesses("ber-1", job.ID) == "exec exec connect" })
		m.leavesSay(t, "ber-1", job.ID, "connect", "over the border")
		for what, ask := range map[string]func() error{
			"isolation": func() error { _, err := c.Isolation(t.Context(), job.ID); return err },
			"pause":     func() error { _, err := c.PauseJob(t.Context(), job.ID); return err },
			"snapshot":  func() error { _, err := c.Snapshot(t.Context(), job.ID, t.TempDir()); return err },
			"disks":     func() error { _, err := c.TakeDiskSnapshot(t.Context(), job.ID, "stolen"); return err },
		} {
			if err := ask(); api.CodeOf(err) != api.CodeElsewhere {
				t.Errorf("%s from another region: %v", what, err)
			}
		}
		// A third region, whose certificate is good, is not its home.
		r := m.rogue(m.stolen("mad-1", "n1"), outside(1))
		if status, code := r.answer(http.MethodPost, m.peer("ber-1", "n1"), api.MeshPrefix+"/jobs/"+string(job.ID)+"/reach/exec", nil, "\x01\x00\x00\x11{\"command\":[\"cat\"]}"); status != http.StatusNotFound || code != api.CodeNotFound {
			t.Errorf("a third region: %d %s", status, code)
		}
		// From now on nothing leaves Germany.
		export := "DE"
		_, err := m.At("ber-1").SetRegionPolicy(t.Context(), api.RegionPolicyRequest{Export: &export})
		m.must(err)
		if out, _, _, err := c.exec(job.ID, "typed", "cat"); err == nil || out != "" {
			t.Errorf("against the export rule: %q, %v", out, err)
		}
		if got := m.accesses("ber-1", job.ID); got != "exec exec connect" {
			t.Errorf("noted: %s", got)
		}
	})
}

// Whoever vanishes leaves no session behind, and a head that never comes holds
// nothing open.
func TestASessionEndsWithItsCaller(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 4))
		c := m.AtNode("fra-1", "n1")
		job := c.Submit(`{"kind":"fake","residency":"FR","command":["sleep"],"node":"n4"}`)
		m.Within(20*time.Second, "it runs", job.Is(placement.JobRunning))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		silent, end := io.Pipe()
		defer end.Close()
		if _, err := c.Exec(ctx, job.ID, api.Session{Head: api.ReachHead{Command: []string{"sleep"}}, Stdin: silent, Stdout: io.Discard}); err == nil || ctx.Err() == nil {
			t.Errorf("sleep ended: %v", err)
		}
		_ = end.CloseWithError(errors.New("over"))
		stopped := make(chan error, 1)
		go func() {
			_, err := c.Exec(t.Context(), job.ID, api.Session{Head: api.ReachHead{Command: []string{"sleep"}}, Stdout: io.Discard})
			stopped <- err
		}()
		time.Sleep(2 * time.Second)
		_, err := c.StopJob(t.Context(), job.ID, "enough")
		m.must(err)
		select {
		case <-stopped: // the command ended with its task
		case <-time.After(20 * time.Second):
			t.Error("a command outlives its task")
		}
	})
}
