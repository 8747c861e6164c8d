package mesh

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// handed is what drivers found in the directories of secrets that they were given.
type handed struct {
	mu   sync.Mutex
	what map[string]string // by node and name
}

func (h *handed) watch(hosts ...*host) {
	for _, on := range hosts {
		on.world.FailStart(func(s runner.Spec) error {
			entries, _ := os.ReadDir(s.SecretsDir)
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, e := range entries {
				data, _ := os.ReadFile(filepath.Join(s.SecretsDir, e.Name()))
				h.what[string(on.name)+" "+e.Name()] = string(data)
			}
			return nil
		})
	}
}

// onDisk is where below a directory a word stands.
func onDisk(t *testing.T, dir, word string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it went away meanwhile
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(word)) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// A secret is sealed to the region that runs its job, on its way through home too:
// no disk of any node has it, nobody reads it with the job, and the task has it as
// a file while it runs, also on a node without the region's keys.
func TestASecretReachesItsTaskAndNoDisk(t *testing.T) {
	Run(t, func(t *testing.T) {
		m := three(t, 4) // the fourth does not vote
		const secret = "correct-horse-battery-staple"
		got := &handed{what: map[string]string{}}
		for _, n := range []placement.NodeID{"n1", "n2", "n3", "n4"} {
			got.watch(m.host("ber-1", n), m.host("fra-1", n))
		}
		away := m.At("fra-1").Submit(`{"kind":"fake","residency":"EU","command":["sleep"],"secrets":{"TOKEN":"` + secret + `"},"resources":{"gpus":1,"gpu_model":"H200"}}`)
		home := m.At("fra-1").Submit(`{"kind":"fake","residency":"FR","command":["sleep"],"secrets":{"TOKEN":"` + secret + `"},"node":"n4"}`)
		m.Within(30*time.Second, "both run", func() bool {
			a, h := away.Now(), home.Now()
			return a.Status == placement.JobRunning && a.Region == "ber-1" && h.Status == placement.JobRunning
		})
		got.mu.Lock()
		if len(got.what) != 2 || got.what["n4 TOKEN"] != secret {
			t.Errorf("drivers were given %d secrets", len(got.what))
		}
		for where, what := range got.what {
			if what != secret {
				t.Errorf("%s was given something else", where)
			}
		}
		got.mu.Unlock()
		sealed := map[string]bool{}
		for region, id := range map[placement.RegionID]placement.JobID{"fra-1": away.ID, "ber-1": away.ID} {
			text := m.host(region, "n1").node.View().Job(id).Spec.Setup.Secrets["TOKEN"]
			if !strings.HasPrefix(text, "sealed:v1:") || strings.Contains(text, secret) {
				t.Errorf("%s keeps it as %.40s", region, text)
			}
			sealed[text] = true
		}
		if len(sealed) != 2 {
			t.Error("both regions keep the same sealed text: one can open what is sealed to the other")
		}
		read, err := m.At("fra-1").Job(t.Context(), away.ID)
		m.must(err)
		if shown := read.Spec.Setup.Secrets["TOKEN"]; shown != placement.HiddenSecret {
			t.Errorf("who reads the job sees %.40s", shown)
		}
		// Who does not run the task is not given it, be it a node of the region.
		stranger := m.rogue(m.stolen("fra-1", "n3"), outside(1))
		if all, err := stranger.mesh.TaskSecrets(t.Context(), m.peer("fra-1", "n1"), home.ID.Task(0, 1)); Code(err) != api.CodeRole {
			t.Errorf("a node that does not run the task was given %d secrets, %v", len(all), err)
		}
		if found := onDisk(t, m.dir, secret); len(found) > 0 {
			t.Errorf("it stands in the clear in %v", found)
		}
		_, err = m.At("fra-1").StopJob(t.Context(), home.ID, "")
		m.must(err)
		m.Within(30*time.Second, "it has ended", func() bool { return home.Now().Status == placement.JobStopped })
		m.CheckInvariants()
	})
}
