package api

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func options() JobOptions {
	return JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC))}
}

func TestJobFileDefaults(t *testing.T) {
	j, err := ReadJob([]byte("kind: process\ncommand: [\"/bin/true\"]\nresidency: no, fr\n"), options())
	if err != nil {
		t.Fatal(err)
	}
	s := j.Spec
	if j.Tag.Wire() != "FR,NO" {
		t.Errorf("residency %s", j.Tag.Wire())
	}
	if s.Type != placement.TypeBatch || s.Restart.Policy != "never" || s.OnDrain != "" || s.StopGrace != placement.Duration(30*time.Second) ||
		s.Resources.CPU != 100 || s.Resources.Memory != 64*placement.MiB || s.Evidence != placement.EvidenceRequired {
		t.Errorf("batch defaults: %+v", s)
	}
	j, err = ReadJob([]byte("kind: inference\nmodels: [m]\nupstream: http://127.0.0.1:8000\nresidency: EU\nresources: {gpus: 1}\n"), options())
	if err != nil {
		t.Fatal(err)
	}
	if s := j.Spec; s.Type != placement.TypeService || s.Restart.Policy != "always" || s.OnDrain != "" || s.Resources.CPU != 100 {
		t.Errorf("service defaults: %+v", s)
	}
}

func TestAPlainNoIsNorway(t *testing.T) {
	for _, text := range []string{"residency: NO", "residency: {allow: [NO]}", "residency:\n  allow:\n    - no"} {
		j, err := ReadJob([]byte("kind: process\ncommand: [x]\n"+text+"\n"), options())
		if err != nil || j.Tag.Canonical() != "NO" {
			t.Errorf("%s: %v %v", text, j, err)
		}
	}
}

func TestLongFormKeysStandAtTheTop(t *testing.T) {
	text := "kind: process\ncommand: [x]\nresidency: {allow: [EEA], deny: [HU]}\ncontrol: {exposed_to: {deny: [US-CLOUD-ACT]}}\ntransit: {via: [EEA]}\nassurance: {location: documented, max_age: 90d}\nconfidential: true\n"
	j, err := ReadJob([]byte(text), options())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(j.Tag.Wire(), "json:") || !j.Tag.Long().Confidential {
		t.Errorf("wire %s", j.Tag.Wire())
	}
	body, err := j.Body()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadJob(body, options())
	if err != nil || again.Tag.Wire() != j.Tag.Wire() {
		t.Errorf("the wire body reads as %v, %v", again, err)
	}
}

func TestJobFileFaults(t *testing.T) {
	const ok = "kind: process\ncommand: [x]\nresidency: EU\n"
	cases := []struct {
		name, text, code, hint string
		line, column           int
	}{
		{"unknown field", ok + "priorty: 5\n", "input.job", "priority", 4, 1},
		{"unknown field of resources", ok + "resources: {memroy: 1GiB}\n", "input.job", "memory", 4, 13},
		{"unknown field far from any", ok + "xyzzy: 5\n", "input.job", "are:", 4, 1},
		{"no residency", "kind: process\ncommand: [x]\n", "input.job", "residency", 1, 1},
		{"no kind", "command: [x]\nresidency: EU\n", "input.job", "kind", 1, 1},
		{"unknown kind", "kind: proces\ncommand: [x]\nresidency: EU\n", "input.job", "process", 1, 7},
		{"the test kind is not offered", "kind: fak\nresidency: EU\n", "input.job", "process, container", 1, 7},
		{"key twice", ok + "name: a\nname: b\n", "input.job", "once", 5, 1},
		{"residency twice", ok + "residency: US\n", "tag.field", "once", 4, 1},
		{"environment twice", ok + "env: {A: 1, A: 2}\n", "input.job", "once", 4, 13},
		{"anchor", ok + "name: &a x\n", "input.job", "in full", 4, 7},
		{"alias", ok + "name: *a\n", "input.job", "in full", 4, 7},
		{"merge", ok + "env:\n  <<: {A: b}\n", "input.job", "in full", 5, 3},
		{"tag of YAML", ok + "name: !!str x\n", "input.job", "leave it out", 4, 7},
		{"two documents", ok + "---\nkind: process\n", "input.job", "one job", 5, 0},
		{"empty", "", "input.job", "at least", 0, 0},
		{"a list", "- a\n", "input.job", "key: value", 1, 0},
		{"no cpu", ok + "resources: {cpu: 0}\n", "input.job", "above zero", 4, 18},
		{"negative memory", ok + "resources: {memory: -1}\n", "input.job", "above zero", 4, 21},
		{"too much memory", ok + "resources: {memory: 9999999TiB}\n", "input.job", "at most", 4, 21},
		{"half a GPU", ok + "resources: {gpus: 0.5}\n", "input.job", "gpu_share: 500m", 4, 19},
		{"GPUs in quotes", ok + "resources: {gpus: \"2\"}\n", "input.job", "without quotes: gpus: 2", 4, 19},
		{"0.3 of two GPUs", ok + "resources: {gpus: 2, gpu_share: 0.3}\n", "input.job", "gpus: 1 with gpu_share", 4, 13},
		{"a share of all", ok + "resources: {gpu_share: 1}\n", "input.job", "gpus: 1 is all of it", 4, 24},
		{"a share of nothing", ok + "resources: {gpu_share: 0}\n", "input.job", "a part of one GPU", 4, 24},
		{"no MIG profile", ok + "resources: {gpus: 1, gpu_profile: half}\n", "input.job", "1g.10gb", 4, 35},
		{"a share of a MIG instance", ok + "resources: {gpu_share: 0.5, gpu_profile: 1g.10gb}\n", "input.job", "a smaller gpu_profile", 4, 13},
		{"confidential without GPUs", ok + "resources: {confidential: true}\n", "input.job", "gpus: 1", 4, 13},
		{"GPUs beyond any machine", ok + "resources: {gpus: 100000}\n", "input.job", "whole number", 4, 19},
		{"model without GPUs", ok + "resources: {gpu_model: H100}\n", "input.job", "gpus: 1", 4, 13},
		{"priority", ok + "priority: 101\n", "input.job", "0 to 100", 4, 11},
		{"singleton", ok + "singleton: 1\n", "input.job", "true or false", 4, 12},
		{"stop_grace", ok + "stop_grace: 30\n", "input.job", "30s", 4, 13},
		{"command is a text", "kind: process\ncommand: /bin/true\nresidency: EU\n", "input.job", "[", 2, 10},
		{"no command", "kind: process\nresidency: EU\n", "input.job", "command", 1, 1},
		{"upstream elsewhere", "kind: inference\nmodels: [m]\nupstream: http://10.0.0.1:80\nresidency: EU\n", "input.job", "127.0.0.1", 3, 11},
		{"models of a process", ok + "models: [m]\n", "input.job", "inference", 4, 9},
		{"image of a process", ok + "image: x\n", "input.job", "container", 4, 8},
		{"container without image", "kind: container\nresidency: EU\n", "input.job", "image", 1, 1},
		{"service that never restarts", ok + "type: service\nrestart: {policy: never}\n", "input.job", "on-failure", 5, 11},
		{"gang of none", ok + "gang: 0\n", "input.job", "1 to 64", 4, 7},
		{"gang too large", ok + "gang: 65\n", "input.job", "1 to 64", 4, 7},
		{"gang of one copy", ok + "singleton: true\ngang: 2\n", "input.job", "singleton", 5, 7},
		{"gang of replicas", "kind: inference\nmodels: [m]\nupstream: http://127.0.0.1:80\nresidency: EU\ngang: 2\n", "input.job", "jobs of their own", 5, 7},
		{"preemptible", ok + "preemptible: yes please\n", "input.job", "true or false", 4, 14},
		{"a running time", ok + "max_runtime: 90\n", "input.job", "write a time such as 90s", 4, 14},
		{"no running time at all", ok + "max_runtime: 0s\n", "input.job", "write a time such as 90s", 4, 14},
		{"a service that ends", ok + "type: service\nmax_runtime: 1h\n", "input.job", "type: batch", 5, 14},
		{"spread", ok + "spread: nodes\n", "input.job", "node", 4, 9},
		{"avoid is no list", ok + "avoid: db\n", "input.job", "[", 4, 8},
		{"avoid twice", ok + "avoid: [a, a]\n", "input.job", "once", 4, 12},
		{"avoid itself", ok + "name: a\navoid: [a]\n", "input.job", "spread", 5, 8},
		{"near nowhere", ok + "near: [\"Paris 2\"]\n", "input.job", "sites", 4, 8},
		{"near a label of nothing", ok + "near: [\"storage=\"]\n", "input.job", "labels", 4, 8},
		{"rank by weather", ok + "rank: {weather: 1}\n", "input.job", "cost, carbon", 4, 8},
		{"rank below nothing", ok + "rank: {cost: -1}\n", "input.job", "0 to 100", 4, 14},
		{"tag", "kind: process\ncommand: [x]\nresidency: Europe\n", "tag.unknown-place", "EU", 3, 0},
		{"tag in the long form", ok[:27] + "residency: {allow: [EU], deny: [ANY]}\n", "tag.syntax", "", 3, 0},
		{"control bytes", "kind: process\x00\n", "input.job", "UTF-8", 0, 0},
		{"broken YAML", "kind: [process\n", "input.job", "", 0, 0},
		{"deep", ok + "name: " + strings.Repeat("[", 4000) + "\n", "input.job", "nested", 4, 0},
		{"deep list", ok + "name:\n  " + strings.Repeat("- ", 4000) + "\n", "input.job", "nested", 5, 0},
		{"deep JSON", `{"name":` + strings.Repeat("[", 10_000) + "}", "input.job", "", 0, 0},
		{"large", ok + strings.Repeat("# x\n", 300_000), "input.job", "", 0, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadJob([]byte(c.text), options())
			if err == nil {
				t.Fatal("it was read")
			}
			if CodeOf(err) != c.code || !strings.Contains(HintOf(err), c.hint) {
				t.Errorf("code %s, hint %q, message %q", CodeOf(err), HintOf(err), err)
			}
			if ExitOf(err) != ExitUsage {
				t.Errorf("exit %d", ExitOf(err))
			}
			line, column := placeOfError(err)
			if c.line > 0 && line != c.line || c.column > 0 && column != c.column {
				t.Errorf("at %d:%d, expected %d:%d (%v)", line, column, c.line, c.column, err)
			}
		})
	}
}

func placeOfError(err error) (int, int) {
	var input *InputError
	var tag *residency.Error
	switch {
	case errors.As(err, &input):
		return input.Line, input.Column
	case errors.As(err, &tag):
		return tag.Line, tag.Column
	}
	return 0, 0
}

// FuzzReadJob holds the reader to this: no panic, and what it accepts survives
// the wire unchanged.
func FuzzReadJob(f *testing.F) {
	for _, seed := range []string{
		"kind: process\ncommand: [x]\nresidency: EU\n", jobText("EEA,!HU"), "kind: [", "{", "a: &b *b", "- - - -", "? x\n: y", "residency: {allow: [NO]}",
		"kind: container\nimage: a\nresidency: EU\nvolumes: [{name: a, path: /a}]\nports: [80]\nnetwork: {allow: [192.0.2.7]}\nhealth: {command: [x]}\n",
		"kind: vm\nimage: a\nresidency: EU\ncloud_init: {a: [0x1, .inf, NO, ~, 0644, 1_0]}\ndisks: [{name: a, size: 1GiB}]\n",
		"kind: inference\nmodels: [m]\nresidency: EU\nserver: {kind: container, image: a, port: 1}\n",
		"kind: process\ncommand:\n  - |\n    text\nresidency: EU\nenv: {A: 'b', \"C\": ~}\nstop_grace: 1h\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := ReadJob(data, options())
		if err != nil {
			if CodeOf(err) == "" {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		body, err := j.Body()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadJob(body, options())
		if err != nil {
			t.Fatalf("%s is not read again: %v", body, err)
		}
		second, err := again.Body()
		if err != nil || string(second) != string(body) {
			t.Fatalf("%s became %s, %v", body, second, err)
		}
	})
}

// The fast reader of JSON agrees with the careful one on everything it accepts.
func FuzzReadJSONTree(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-2.5e3,true,null,"x\u00e9\n"],"a":{}}`, `{"a" :\n [ ] , "b":"\\"}`, "[]x", `{"a":01}`, `"\x"`, "{\"a\":\n\t1}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fast, ok := readJSONTree(data)
		if !ok {
			return
		}
		slow, err := residency.ValueFromJSON(data)
		if err != nil {
			t.Fatalf("%q: accepted, but %v", data, err)
		}
		if !reflect.DeepEqual(fast, slow) {
			t.Fatalf("%q: %+v, expected %+v", data, fast, slow)
		}
	})
}

func BenchmarkReadJob(b *testing.B) {
	body := []byte(`{"residency":"EEA,!HU","name":"bench","kind":"process","type":"batch","command":["/bin/true"],"resources":{"cpu":"100m","memory":"64MiB"},"restart":{"policy":"never"},"evidence":"required","on_drain":"wait","stop_grace":"30s"}`)
	o := options()
	o.Parse = new(tags).parse
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadJob(body, o); err != nil {
			b.Fatal(err)
		}
	}
}
