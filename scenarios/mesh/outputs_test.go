package mesh

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// output reads one of a job's outputs.
func (c *Client) output(id placement.JobID, name string) (string, error) {
	list, err := c.Outputs(c.m.t.Context(), id, "")
	if err != nil {
		return "", err
	}
	file, ok := list.Find(name)
	if !ok {
		return "", fmt.Errorf("no %s in %+v", name, list)
	}
	r, err := c.Output(c.m.t.Context(), id, list.Task, file)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	return string(text), err
}

// printed reads what a job printed.
func (c *Client) printed(id placement.JobID) (string, error) {
	r, err := c.Logs(c.m.t.Context(), id, api.LogOptions{})
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	return string(text), err
}

// What a task left is read from every node of its region, and the ledger has the
// digest of its list and no name.
func TestOutputsAreReadThroughAnyNode(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := New(t, Region("fra-1", "FR", 8)) // n8 holds no state
		for _, host := range []placement.NodeID{"n2", "n8"} {
			c := m.AtNode("fra-1", "n1")
			job := c.Submit(fmt.Sprintf(`{"kind":"fake","residency":"FR","command":["save","model-of-jane","weights"],"outputs":true,"node":%q}`, host))
			m.Within(20*time.Second, "it ends", job.Exited(0))
			for _, asked := range []placement.NodeID{"n1", "n2", "n8"} {
				if text, err := m.AtNode("fra-1", asked).output(job.ID, "model-of-jane"); err != nil || text != "weights" {
					t.Errorf("on %s through %s: %q, %v", host, asked, text, err)
				}
			}
			list, err := c.Outputs(t.Context(), job.ID, "")
			m.must(err)
			m.Within(10*time.Second, "the ledger has its digest", func() bool {
				for _, n := range m.taskOf("fra-1", job.ID).Notes {
					if n.What == placement.NoteOutputs && n.Digest == list.Digest && n.Count == 1 {
						return true
					}
				}
				return false
			})
			said := false
			for _, entry := range m.leaves("fra-1") {
				said = said || bytes.Contains(entry, []byte(list.Digest))
				if bytes.Contains(entry, []byte("of-jane")) {
					t.Error("a leaf has the name of an output")
				}
			}
			if !said {
				t.Error("no leaf has the digest of the list")
			}
			plain := c.Submit(fmt.Sprintf(`{"kind":"fake","residency":"FR","command":["exit","0"],"node":%q}`, host))
			m.Within(20*time.Second, "it ends", plain.Exited(0))
			if _, err := m.AtNode("fra-1", "n1").output(plain.ID, "x"); api.CodeOf(err) != "job.no-output" {
				t.Errorf("of a job that says nothing of outputs: %v", err)
			}
		}
	})
}

// A reader outside the tag is refused what a job left, as what it printed: in the
// same words, at the region that has it.
func TestOutputsStayInsideTheTag(t *testing.T) {
	Run(t, func(t *testing.T) {
		ber := Region("ber-1", "DE", 1)
		ber.GPUs = []placement.Device{h200}
		m := New(t, Region("fra-1", "FR", 1), ber)
		file := `{"kind":"fake","resources":{"gpus":1},"command":["save","model-of-jane","weights-of-jane"],"outputs":true,"residency":%s}`
		for _, tt := range []struct {
			tag  string
			home bool
		}{
			{`{"allow":["EU"]}`, true},
			{`{"allow":["EU"],"scope":{"logs":["DE"]}}`, false},
		} {
			job := m.At("fra-1").Submit(fmt.Sprintf(file, tt.tag))
			m.Within(30*time.Second, "it crosses and ends", job.Exited(0))
			text, err := m.At("fra-1").output(job.ID, "model-of-jane")
			_, logs := m.At("fra-1").printed(job.ID)
			if tt.home {
				if err != nil || logs != nil || text != "weights-of-jane" {
					t.Errorf("%s: at home: %q, %v, logs: %v", tt.tag, text, err, logs)
				}
				continue
			}
			if api.CodeOf(err) != api.CodeNotLawful || logs == nil || err.Error() != logs.Error() {
				t.Errorf("%s: at home: %q, %v, logs: %v", tt.tag, text, err, logs)
			}
			// Also by somebody who knows the digest.
			known := placement.Output{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("weights-of-jane")))}
			if _, err := m.At("fra-1").Output(t.Context(), job.ID, "", known); api.CodeOf(err) != api.CodeNotLawful {
				t.Errorf("%s: at home, by its digest: %v", tt.tag, err)
			}
			r := m.rogue(m.stolen("fra-1", "n1"), outside(1))
			for _, what := range []string{"/outputs", "/outputs/" + known.Digest} {
				status, code := r.answer(http.MethodGet, m.peer("ber-1", "n1"), api.MeshPrefix+"/jobs/"+string(job.ID)+what, nil, "")
				if status/100 == 2 {
					t.Errorf("%s gives %d %s", what, status, code)
				}
			}
			r.stop()
		}
	})
}
