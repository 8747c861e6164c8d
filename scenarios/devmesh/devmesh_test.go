package devmesh

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/process"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == process.SupervisorCommand {
		os.Exit(process.SupervisorMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// running starts a mesh and returns it once it is ready, with a way to end it.
func running(t *testing.T, cfg Config) (*Mesh, func() error) {
	t.Helper()
	cfg.Progress = func(line string) { t.Log(line) }
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	end := func() error {
		cancel()
		return <-ended
	}
	select {
	case <-m.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("the mesh ended before it was ready: %v", err)
	case <-time.After(90 * time.Second):
		cancel()
		t.Fatalf("the mesh was not ready after 90 s: %v", <-ended)
	}
	return m, end
}

func regionsOf(t *testing.T, spec string) []Region {
	t.Helper()
	r, err := ParseRegions(spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func jobOf(t *testing.T, text string) *api.JobFile {
	t.Helper()
	j, err := api.ReadJob([]byte(text), api.JobOptions{Pack: residency.Embedded(), On: residency.DateOf(time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func clientOf(t *testing.T, cfg api.ClientConfig) *api.Client {
	t.Helper()
	c, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// submitAndWait runs a job to its end and returns it with its output.
func submitAndWait(t *testing.T, c *api.Client, text string) (placement.Job, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub, err := c.Submit(ctx, jobOf(t, text), api.SubmitOptions{})
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	job := &sub.Job
	for !job.Status.Terminal() {
		if job, err = c.WaitJob(ctx, sub.Job.ID, job.Index, 5*time.Second); err != nil {
			t.Fatalf("wait for %s: %v", sub.Job.ID, err)
		}
	}
	logs, err := c.Logs(ctx, job.ID, api.LogOptions{})
	if err != nil {
		t.Fatalf("logs of %s: %v", job.ID, err)
	}
	defer logs.Close()
	out, err := io.ReadAll(logs)
	if err != nil {
		t.Fatalf("logs of %s: %v", job.ID, err)
	}
	return *job, string(out)
}

// TestRealSocketsAndProcesses starts two regions on loopback, runs real
// processes here and across the border, stops everything and starts it again.
// shelf tells every task what it was asked for, and has nothing.
type shelf struct{}

func (shelf) Lay(_ context.Context, id placement.TaskID, _ placement.TenantID, inputs []placement.Input) (string, error) {
	return "", &runner.StartError{Task: id, Reason: "there is no " + inputs[0].Name}
}
func (shelf) Drop(placement.TaskID) error { return nil }

func TestRealSocketsAndProcesses(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Inputs = func(node.Config) runner.Inputs { return shelf{} }
	cfg.Regions, cfg.Nodes, cfg.Dir = regionsOf(t, "fra-1:FR,ber-1:DE"), 2, t.TempDir()
	m, end := running(t, cfg)
	fr := clientOf(t, m.Access(m.Nodes("fra-1")[1]))

	job, out := submitAndWait(t, fr, `{kind: process, residency: FR, command: [/bin/echo, here]}`)
	if job.Status != placement.JobComplete || job.Region != "fra-1" || out != "here\n" {
		t.Errorf("a job tagged FR: %s in %q (%s), output %q", job.Status, job.Region, job.Reason, out)
	}
	job, out = submitAndWait(t, fr, `{kind: process, residency: DE, command: [/bin/echo, there]}`)
	if job.Status != placement.JobComplete || job.Region != "ber-1" || out != "there\n" {
		t.Errorf("a job tagged DE: %s in %q (%s), output %q", job.Status, job.Region, job.Reason, out)
	}

	needs := `inputs: [{name: model, digest: "sha256:` + strings.Repeat("0", 64) + `", source: /images/model}]`
	poor, _ := submitAndWait(t, fr, `{kind: process, residency: FR, command: [/bin/true], `+needs+`}`)
	if poor.Status != placement.JobFailed || !strings.Contains(poor.Reason, "there is no model") {
		t.Errorf("a job that needs a file is %s: %s", poor.Status, poor.Reason)
	}

	long, err := fr.Submit(t.Context(), jobOf(t, `{kind: process, type: service, residency: FR, command: [/bin/sleep, "3600"]}`), api.SubmitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, fr, long.Job.ID, placement.JobRunning)
	if err := end(); err != nil {
		t.Errorf("the mesh ended with: %v", err)
	}
	if left := processesOf(t, cfg.Dir); len(left) > 0 {
		t.Errorf("processes were left behind: %q", left)
	}

	again, end := running(t, cfg)
	if a, b := m.Nodes("ber-1")[0].API, again.Nodes("ber-1")[0].API; a != b {
		t.Errorf("the second start moved a node from %s to %s", a, b)
	}
	fr = clientOf(t, again.Access(again.Nodes("fra-1")[0]))
	if old, err := fr.Job(t.Context(), job.ID); err != nil && api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the job of the first start cannot be asked for: %v", err)
	} else if err == nil && old.Status != placement.JobComplete {
		t.Errorf("the job of the first start is %s", old.Status)
	}
	if err := end(); err != nil {
		t.Errorf("the second mesh ended with: %v", err)
	}
}

func await(t *testing.T, c *api.Client, id placement.JobID, want placement.JobStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var index uint64
	for {
		job, err := c.WaitJob(ctx, id, index, 5*time.Second)
		if err != nil {
			t.Fatalf("wait for %s to be %s: %v", id, want, err)
		}
		if job.Status == want {
			return
		}
		index = job.Index
	}
}

// processesOf are the command lines that name the directory.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(line), dir) { // one that has ended meanwhile is none
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

func TestReadyFileIsWhatTheContractSays(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Regions, cfg.Nodes, cfg.Dir = regionsOf(t, "fra-1:FR"), 1, t.TempDir()
	m, end := running(t, cfg)
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(t.TempDir(), "ready.json")
	if err := m.ReadyFile().Write(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v; want 0600", info.Mode(), err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Policy  string `json:"policy"`
		Regions []struct {
			Name, Country, Token, CA string
			Nodes                    []struct {
				Name, API string
				PID       int
			}
		}
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Regions) != 1 || len(doc.Regions[0].Nodes) != 1 {
		t.Fatalf("the document has not one region with one node: %s", data)
	}
	r := doc.Regions[0]
	if r.Name != "fra-1" || r.Country != "FR" || r.Nodes[0].Name != "fra-1-n1" || r.Nodes[0].PID != os.Getpid() {
		t.Errorf("the document says %s", data)
	}
	if !filepath.IsAbs(doc.Policy) || !filepath.IsAbs(r.CA) {
		t.Errorf("paths must be absolute: %q, %q", doc.Policy, r.CA)
	}
	ca, err := os.ReadFile(r.CA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(doc.Policy); err != nil {
		t.Error(err)
	}
	me, err := clientOf(t, api.ClientConfig{Addr: r.Nodes[0].API, Token: r.Token, CA: ca}).Whoami(t.Context())
	if err != nil || len(me.Roles) != 5 || !me.AllowAny {
		t.Errorf("the token is of %+v, error %v; want every role and ANY", me, err)
	}
}

func TestParseRegions(t *testing.T) {
	got, err := ParseRegions("fra-1:FR, tor-1:ca-on")
	want := []Region{{Name: "fra-1", Country: "FR", Devices: DefaultDevices}, {Name: "tor-1", Country: "CA", Subdivision: "CA-ON", Devices: DefaultDevices}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "fra-1", "fra-1:", "fra-1:XX", "fra-1:EU", "fra-1:FR,fra-1:DE", "Fra:FR", "a:ANY", "a:!FR"} {
		var spec *SpecError
		if _, err := ParseRegions(bad); !errors.As(err, &spec) || spec.Hint() == "" {
			t.Errorf("%q: got error %v, want a *SpecError with a hint", bad, err)
		}
	}
}
