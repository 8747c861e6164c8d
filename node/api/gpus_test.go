package api

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// holding submits a job of a tenant and places it on a device.
func (r *region) holding(t *testing.T, tenant placement.TenantID, device, resources string) placement.TaskID {
	t.Helper()
	c := r.client(r.token(state.Token{Roles: []state.Role{state.RoleSubmitter}, Tenant: tenant}))
	sub, err := c.Submit(t.Context(), readJob(t, `{"kind":"process","name":"of-`+string(tenant)+`","command":["x"],"residency":"FR","resources":`+resources+`}`), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	task := sub.Job.ID.Task(0, 1)
	r.ledger.must(t, state.Assign{Assignments: []placement.Assignment{{Task: task, Job: sub.Job.ID, Node: r.node, Devices: []string{device}}}})
	return task
}

// Who reads learns of the devices and nodes of the region, and of the tasks on
// them only those of its own tenant: in no byte of any answer stands what names
// another's. Operators see all.
func TestWhoHoldsADeviceIsItsOwnTenantsBusiness(t *testing.T) {
	w := newWorld(t)
	fra := w.add("fra-1", "FR", 4)
	const whole, third = `{"gpus":1}`, `{"gpus":1,"gpu_share":0.3}`
	tasks := map[string]placement.TaskID{
		"acme, shared": fra.holding(t, "acme", "GPU-fra-1-0", third), "beta, shared": fra.holding(t, "beta", "GPU-fra-1-0", third),
		"acme, again": fra.holding(t, "acme", "GPU-fra-1-0", third), "acme, whole": fra.holding(t, "acme", "GPU-fra-1-1", whole), "beta, whole": fra.holding(t, "beta", "GPU-fra-1-2", whole),
	}
	fra.ledger.must(t, state.DrainNode{Node: fra.node, Drain: DrainRequest{}.drain(w.clock.now())})
	reader := fra.token(state.Token{Roles: []state.Role{state.RoleViewer, state.RoleSubmitter}, Tenant: "beta"})
	asked := 0
	for _, op := range slices.Concat(regionOps(), nodeOps()) {
		if op.Method != http.MethodGet || op.Verb != VerbRead || !strings.Contains(op.Path, "/gpus") && !strings.Contains(op.Path, "/nodes") {
			continue
		}
		for _, device := range []string{"GPU-fra-1-0", "GPU-fra-1-1"} {
			path := strings.NewReplacer("{name}", string(fra.node), "{uuid}", device).Replace(op.Path)
			body, err := fra.web0(t, path, reader)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			text, err := io.ReadAll(body)
			_ = body.Close()
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			asked++
			for _, who := range []string{"acme, shared", "acme, again", "acme, whole"} {
				if strings.Contains(string(text), string(tasks[who].Job())) {
					t.Errorf("%s names a task of another tenant (%s): %s", path, who, text)
				}
			}
			if strings.Contains(string(text), "acme") {
				t.Errorf("%s names another tenant: %s", path, text)
			}
		}
	}
	if asked < 10 {
		t.Errorf("%d answers were looked at: the table has others now", asked)
	}

	beta := fra.client(reader)
	got, err := beta.GPUs(t.Context(), ListOptions{})
	if err != nil || len(got.Items) != 4 {
		t.Fatalf("%+v %v", got, err)
	}
	for i, want := range []struct {
		own  []placement.TaskID
		held bool
	}{{[]placement.TaskID{tasks["beta, shared"]}, true}, {nil, true}, {[]placement.TaskID{tasks["beta, whole"]}, false}, {nil, false}} {
		if g := got.Items[i]; !slices.Equal(g.Tasks, want.own) || g.Held != want.held {
			t.Errorf("%s: %v, held by others: %v; want %+v", g.UUID, g.Tasks, g.Held, want)
		}
	}
	n, err := beta.Node(t.Context(), fra.node)
	if err != nil || len(n.Tasks) != 2 || n.Hidden != 3 {
		t.Errorf("of the node: %d tasks, %d hidden, %v", len(n.Tasks), n.Hidden, err)
	}
	d, err := beta.DrainStatus(t.Context(), fra.node, ListOptions{})
	if err != nil || len(d.Tasks) != 2 || d.Hidden != 3 {
		t.Errorf("of the drain: %d tasks, %d hidden, %v", len(d.Tasks), d.Hidden, err)
	}

	g, err := fra.admin().GPU(t.Context(), "GPU-fra-1-0")
	all := []placement.TaskID{tasks["acme, shared"], tasks["beta, shared"], tasks["acme, again"]}
	slices.Sort(all)
	if err != nil || !slices.Equal(g.Tasks, all) || g.Held {
		t.Errorf("an operator sees %v of %v, held: %v, %v", g.Tasks, all, g.Held, err)
	}
}
