package state

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
)

func toldTo(v *View, node placement.NodeID) (map[string][]byte, string) {
	data, digests := map[string][]byte{}, ""
	for _, t := range append(v.SharedFacts(nil), v.FactsOf(node)...) {
		data[t.Name] = t.Data
		digests += t.Name + " " + t.Digest + "\n"
	}
	return data, digests
}

// A node hears of its own tasks whole, of others' nothing, and of the law, the
// nodes and what was revoked all that its gates read.
func TestFactsAreWhatANodeMayKnow(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	f.peer("ber-1", "DE")
	mine, other := f.submit(1, "FR"), f.submit(2, "FR")
	f.assign(mine, "n2")
	f.assign(other, "n1")
	whole := f.s.Freeze()
	data, digests := toldTo(whole, "n2")
	v, err := RestoreFacts(data, 77, f.now)
	if err != nil {
		t.Fatal(err)
	}
	if v.Index() != 77 || !v.Time().Equal(f.now) || v.Pack().Hash() != whole.Pack().Hash() || v.Self().ID != "fra-1" || v.Region("ber-1") == nil || len(v.Nodes()) != 2 {
		t.Errorf("index %d at %s, %d nodes", v.Index(), v.Time(), len(v.Nodes()))
	}
	if got := v.TasksOn("n2"); len(got) != 1 || got[0].Job != mine || v.Job(mine) == nil {
		t.Errorf("its own tasks: %+v", got)
	}
	if v.Job(other) != nil || len(v.TasksOn("n1")) != 0 || len(v.Tokens()) != 0 {
		t.Error("it was told of what is not its own")
	}
	if _, err := v.PolicyOf(v.Job(mine)); err != nil {
		t.Error(err)
	}
	// What does not concern it, and time alone, change nothing that it is told.
	f.now = f.now.Add(time.Minute)
	f.submit(3, "FR")
	if _, again := toldTo(f.s.Freeze(), "n2"); again != digests {
		t.Errorf("before:\n%s after:\n%s", digests, again)
	}
	_, elsewhere := toldTo(f.s.Freeze(), "n1")
	if elsewhere == digests {
		t.Error("two nodes with different tasks are told the same")
	}
}

// Of an inference job elsewhere a node hears what routing needs, not what its
// owner runs.
func TestFactsOfInferenceShowNoCommand(t *testing.T) {
	f := newFixture(t)
	f.node("n2")
	id := f.submit(1, "FR", func(j *placement.Job) {
		j.Kind, j.Spec.Kind = placement.KindInference, placement.KindInference
		j.Spec.Models, j.Spec.Upstream = []string{"m"}, "http://127.0.0.1:1"
		j.Spec.Env = map[string]string{"KEY": "hush"}
	})
	f.assign(id, "n1")
	data, _ := toldTo(f.s.Freeze(), "n2")
	v, err := RestoreFacts(data, 1, f.now)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.TasksOf(id)) != 1 || v.Job(id) == nil || v.Job(id).Spec.Models[0] != "m" {
		t.Error("it cannot be routed to")
	}
	for name, table := range data {
		if bytes.Contains(table, []byte("hush")) {
			t.Errorf("table %s shows the environment of another node's job", name)
		}
	}
	// The node that runs it is told all.
	own, _ := toldTo(f.s.Freeze(), "n1")
	if v, err = RestoreFacts(own, 1, f.now); err != nil || v.Job(id).Spec.Env["KEY"] != "hush" {
		t.Errorf("its own job: %v", err)
	}
}

func TestFactsAreReadStrictly(t *testing.T) {
	f := newFixture(t)
	f.assign(f.submit(1, "FR"), "n1")
	for _, name := range FactNames() {
		data, _ := toldTo(f.s.Freeze(), "n1")
		data[name] = append(bytes.Clone(data[name]), 'Z', 0, 0, 0, 0)
		if _, err := RestoreFacts(data, 1, f.now); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a record that does not belong in %s: %v", name, err)
		}
		if delete(data, name); true {
			if _, err := RestoreFacts(data, 1, f.now); err == nil {
				t.Errorf("without %s", name)
			}
		}
	}
}

func FuzzRestoreFacts(f *testing.F) {
	fx := newFixture(f)
	fx.assign(fx.submit(1, "FR"), "n1")
	data, _ := toldTo(fx.s.Freeze(), "n1")
	for i, name := range FactNames() {
		f.Add(uint8(i), data[name])
	}
	f.Fuzz(func(t *testing.T, which uint8, table []byte) {
		set := map[string][]byte{}
		for name, was := range data {
			set[name] = was
		}
		set[FactNames()[int(which)%len(FactNames())]] = table
		v, err := RestoreFacts(set, 1, fx.now)
		if err != nil {
			return
		}
		for _, n := range v.Nodes() {
			v.TasksOn(n.ID)
			v.Facts(n)
		}
		for _, j := range v.Jobs("", 10, nil) {
			_, _ = v.PolicyOf(j)
		}
	})
}
