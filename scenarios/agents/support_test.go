package agents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/placement"
)

// built is the program under test, built once for all tests of the package.
var built struct {
	sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// newWorld is a world below the test's directory; with the test it ends.
func newWorld(t *testing.T) *World {
	t.Helper()
	if testing.Short() {
		t.Skip("real processes are not part of the short tests")
	}
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sovmesh-agents"); built.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		built.path, built.err = Build(ctx, built.dir)
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	w := New(built.path, t.TempDir())
	t.Cleanup(func() {
		if t.Failed() {
			for _, a := range w.Agents() {
				t.Logf("%s wrote:\n%s", a.Name, tail(a.Output(), 40))
			}
		}
		if err := w.Close(); err != nil {
			t.Errorf("something of the world still runs: %v", err)
		}
	})
	return w
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// within is a deadline for one step of a test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// startLimit bounds whatever waits for processes to come up: machines that test
// are busy.
const startLimit = 90 * time.Second

func found(t *testing.T, w *World, name, country string, nodes int) *Region {
	t.Helper()
	ctx := within(t, startLimit)
	r, err := w.Found(ctx, name, country)
	if err == nil {
		err = r.Grow(ctx, nodes)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func clientOf(t *testing.T, r *Region, a *Agent) *api.Client {
	t.Helper()
	c, err := r.Client(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// shell is a small process job in JSON.
func shell(t *testing.T, name, tag, script string, more map[string]any) []byte {
	t.Helper()
	job := map[string]any{
		"name": name, "kind": "process", "residency": tag, "command": []string{"/bin/sh", "-c", script},
		"resources": map[string]any{"cpu": "10m", "memory": "8MiB"}, "stop_grace": "1s",
	}
	for k, v := range more {
		job[k] = v
	}
	data, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// runs submits a job with the real command line and returns its document.
func runs(t *testing.T, r *Region, a *Agent, file []byte, flags ...string) *placement.Job {
	t.Helper()
	res, err := r.Run(within(t, startLimit), a, string(file), append([]string{"job", "run", "-", "--json"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	j := &placement.Job{}
	if res.Exit != 0 || json.Unmarshal([]byte(res.Stdout), j) != nil {
		t.Fatalf("job run: exit %d\n%s\n%s", res.Exit, res.Stdout, res.Stderr)
	}
	return j
}

// becomes waits until the job satisfies the condition.
func becomes(t *testing.T, c *api.Client, id placement.JobID, what string, d time.Duration, ok func(*placement.Job) bool) *placement.Job {
	t.Helper()
	ctx := within(t, d)
	var last *placement.Job
	err := Until(ctx, func(ctx context.Context) string {
		j, err := c.Job(ctx, id)
		if err != nil {
			return err.Error()
		}
		last = j
		if ok(j) {
			return ""
		}
		return fmt.Sprintf("%s is %s (%s)", id, j.Status, j.Reason)
	})
	if err != nil {
		t.Fatalf("job %s: want %s: %v; last seen %+v", id, what, err, last)
	}
	return last
}

func is(status placement.JobStatus) func(*placement.Job) bool {
	return func(j *placement.Job) bool { return j.Status == status }
}

// linesOf reads a file's lines; a missing file has none.
func linesOf(path string) []string {
	data, err := os.ReadFile(path)
	text := strings.TrimSpace(string(data))
	if err != nil || text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// contains reports the files below dir that hold the marker.
func contains(t *testing.T, dir, marker string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		// The agents run on: a file that is gone by now holds nothing.
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && strings.Contains(string(data), marker) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
