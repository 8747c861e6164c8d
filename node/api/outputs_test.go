package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestOutputsAreListedAndRead(t *testing.T) {
	_, fra, _, _ := mesh3(t)
	c := fra.client(fra.token(state.Token{Tenant: "acme", Roles: []state.Role{state.RoleSubmitter, state.RoleViewer}}))
	sent, err := c.Submit(t.Context(), readJob(t, jobText("EU")), SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := sent.Job.ID
	if _, err := c.Outputs(t.Context(), id, ""); CodeOf(err) != "job.no-output" {
		t.Errorf("before it has a task: %v", err)
	}
	task := fra.place(t, id)
	if _, err := c.Outputs(t.Context(), id, ""); CodeOf(err) != "job.no-output" || HintOf(err) != "write outputs: true" {
		t.Errorf("of a task that left nothing: %v", err)
	}
	fra.tasks[task] = ""
	list, err := c.Outputs(t.Context(), id, "")
	if err != nil || list.Task != task || len(list.Files) != 2 || list.LeftOut != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, f := range list.Files {
		r, err := c.Output(t.Context(), id, list.Task, f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil || string(text) != left[f.Name] {
			t.Errorf("%s is %q, %v", f.Name, text, err)
		}
	}
	other := fra.client(fra.token(state.Token{Tenant: "other", Roles: []state.Role{state.RoleSubmitter, state.RoleViewer}}))
	if _, err := other.Outputs(t.Context(), id, ""); CodeOf(err) != CodeNotFound {
		t.Errorf("another tenant lists them: %v", err)
	}
	if _, err := other.Output(t.Context(), id, "", list.Files[0]); CodeOf(err) != CodeNotFound {
		t.Errorf("another tenant reads them: %v", err)
	}
}

// A file that is another one than its list says is never taken for it.
func TestABrokenTransferIsAnError(t *testing.T) {
	whole := []byte("weights")
	list, _ := fakeTasks{"x": ""}.Outputs(t.Context(), "x")
	want, _ := list.Find("model.bin")
	for _, tt := range []struct {
		from io.Reader
		want string
	}{
		{bytes.NewReader(whole), ""},
		{bytes.NewReader(whole[:6]), "broke off"},
		{bytes.NewReader(nil), "broke off"},
		{bytes.NewReader([]byte("weightS")), "not the file"},
		{strings.NewReader("weights and more"), "more than"},
		{io.MultiReader(bytes.NewReader(whole), &broken{}), "reset"},
	} {
		_, err := io.ReadAll(holdTo(want, io.NopCloser(tt.from)))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// Outputs are under the gate of what a task prints, and under no other.
func TestOutputsLeaveAsLogsDo(t *testing.T) {
	w, fra, ber, _ := mesh3(t)
	m, peer, id := forwarded(t, w, fra, ber, "EU")
	task := ber.place(t, id)
	ber.tasks[task] = ""
	list, err := m.JobOutputs(t.Context(), peer, id)
	if err != nil || len(list.Files) != 2 {
		t.Fatalf("without a rule: %+v, %v", list, err)
	}
	digest := list.Files[0].Digest
	r, err := m.JobOutput(t.Context(), peer, id, digest)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	rule := "DE"
	ber.ledger.must(t, state.SetRegionPolicy{Export: &rule})
	_, logs := m.JobLogs(t.Context(), peer, id, 0, false)
	_, listed := m.JobOutputs(t.Context(), peer, id)
	_, read := m.JobOutput(t.Context(), peer, id, digest)
	for what, err := range map[string]error{"logs": logs, "list": listed, "file": read} {
		if CodeOf(err) != CodeNotLawful || err.Error() != logs.Error() {
			t.Errorf("%s under a stricter export rule: %v", what, err)
		}
	}
}

func TestOutputsInAJob(t *testing.T) {
	read := func(fields string) (*placement.Outputs, error) {
		job, err := ReadJob([]byte("residency: EU\n"+fields), JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
		if err != nil {
			return nil, err
		}
		return job.Spec.Leaves(), nil
	}
	process := "kind: process\ncommand: [x]\n"
	for text, want := range map[string]*placement.Outputs{
		"outputs: true":                      {},
		"outputs: {}":                        {},
		"outputs: false":                     nil,
		"outputs: {max: 2GiB, files: 10}":    {Max: 2 << 30, Files: 10},
		"outputs: {max: 1TiB, files: 10000}": {Max: 1 << 40, Files: 10_000},
	} {
		got, err := read(process + text)
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if got, err := read("kind: container\nimage: oci-layout:/x\noutputs: true"); err != nil || got == nil {
		t.Errorf("of a container: %+v, %v", got, err)
	}
	for text, want := range map[string]string{
		process + "outputs: {max: 2TiB}":                                                         "max cannot be",
		process + "outputs: {max: 0}":                                                            "max cannot be",
		process + "outputs: {files: 10001}":                                                      "files",
		process + "outputs: {size: 1}":                                                           "no field",
		process + "outputs: [model]":                                                             "outputs must be a mapping",
		process + "type: service\noutputs: true":                                                 "a service has no outputs",
		"kind: vm\nimage: debian-12\ntype: batch\noutputs: true":                                 "a vm job has no outputs",
		"kind: microvm\nimage: oci-layout:/x\noutputs: true":                                     "a microvm job has no outputs",
		"kind: inference\nmodels: [m]\nupstream: http://127.0.0.1:1\ntype: batch\noutputs: true": "outputs",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzOutputs(f *testing.F) {
	list, _ := fakeTasks{"x": ""}.Outputs(f.Context(), "x")
	whole, _ := json.Marshal(JobOutputs{Job: "j", Task: "t", Digest: list.Digest(), OutputList: *list})
	f.Add(whole)
	f.Add([]byte(`{"files":[{"name":"../x","size":-1,"digest":"sha256:"}]}`))
	f.Add(fmt.Appendf(nil, `{"digest":%q}`, new(placement.OutputList).Digest()))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := readOutputs(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, x := range o.Files {
			if !placement.OutputName(x.Name) || x.Size < 0 || !digestWords.MatchString(x.Digest) {
				t.Errorf("%+v is taken", x)
			}
		}
		again, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if o2, err := readOutputs(bytes.NewReader(again)); err != nil || o2.Digest != o.Digest {
			t.Errorf("read again: %v", err)
		}
	})
}
