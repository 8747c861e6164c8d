package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// agent is the built program running one node of a region, on a machine whose
// GPU driver is the double of package nvml.
type agent struct {
	t        *testing.T
	bin, dir string
	events   string // what the double is to tell of
	log      string
	env      []string
	process  *os.Process
}

// listed is what sovmesh gpu list --json says of a device.
type listed struct {
	UUID, Model, Health, Profile, Parent string
	Partitioned                          bool
	Simulated                            bool
	Profiles                             []string
	Tasks                                []string
	Causes                               []struct{ Code, Reason string }
}

// newAgent founds a region and starts its agent with GPUs of the double.
func newAgent(t *testing.T, double ...string) *agent {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler on this machine to build the double of the driver's library")
	}
	header, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml/pkg/nvml").Output()
	if err != nil {
		t.Skip("the go tool, which says where the binding's header is, does not run here: ", err)
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, bin: filepath.Join(bin, "sovmesh"), dir: t.TempDir()}
	a.events, a.log = filepath.Join(a.dir, "events"), filepath.Join(a.dir, "agent.log")
	lib := filepath.Join(a.dir, "lib")
	if err := os.Mkdir(lib, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(compiler, "-shared", "-fPIC", "-w", "-fvisibility=hidden", "-I", strings.TrimSpace(string(header)),
		"-o", filepath.Join(lib, "libnvidia-ml.so.1"), filepath.Join("..", "gpu", "nvml", "testdata", "double.c")).CombinedOutput()
	if err != nil {
		t.Fatalf("build the double: %v\n%s", err, out)
	}
	a.env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + a.dir, "SOVMESH_CONTEXT=fra-1", "LD_LIBRARY_PATH=" + lib, "DOUBLE_EVENTS=" + a.events}, double...)
	a.must("region", "init", "fra-1", "--country", "FR", "--operator-home", "FR", "--operator-parent", "none", "--assurance", "location=documented", "--listen", freeAddress(t))

	log, err := os.Create(a.log)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(a.bin, "agent", "--config", filepath.Join("fra-1", "agent.yaml"))
	c.Dir, c.Env, c.Stdout, c.Stderr = a.dir, a.env, log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	a.process = c.Process
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		dead := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		dead.Stop()
		_ = log.Close()
		if t.Failed() {
			t.Logf("the agent said\n%s", a.said())
		}
	})
	return a
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs the program as an operator does.
func (a *agent) run(args ...string) (stdout, stderr string, exit int) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, a.bin, args...)
	var out, errs bytes.Buffer
	c.Dir, c.Env, c.Stdout, c.Stderr = a.dir, a.env, &out, &errs
	_ = c.Run() // its exit code says it
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

func (a *agent) must(args ...string) string {
	a.t.Helper()
	out, errs, exit := a.run(args...)
	if exit != 0 {
		a.t.Fatalf("sovmesh %s: exit %d: %s%s", strings.Join(args, " "), exit, out, errs)
	}
	return out
}

// until waits for a condition.
func (a *agent) until(what string, is func() bool) {
	a.t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); <-tick.C {
		if is() {
			return
		}
	}
	out, errs, _ := a.run("gpu", "list")
	a.t.Fatalf("not within 90s: %s\n%s%s", what, out, errs)
}

// devices are the region's, by UUID.
func (a *agent) devices() map[string]listed {
	out, _, exit := a.run("gpu", "list", "--json")
	var all struct{ Items []listed }
	if exit != 0 || json.Unmarshal([]byte(out), &all) != nil {
		return nil
	}
	devices := map[string]listed{}
	for _, d := range all.Items {
		devices[d.UUID] = d
	}
	return devices
}

func (a *agent) said() string {
	text, _ := os.ReadFile(a.log)
	return string(text)
}

// child is the process id of the agent's GPU probe, 0 if there is none.
func (a *agent) child() int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(stat), ") ") // state, parent, ...
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(a.process.Pid) && strings.Contains(string(line), "gpu-probe") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// The built agent with a driver's library in its search path: the region knows
// its devices, an XID closes the one that it is of and ends the task on it with
// the reason, and a probe that hangs takes nothing down.
func TestTheAgentSeesTheDriversDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("real agents are not part of the short tests")
	}
	t.Parallel()
	a := newAgent(t, "DOUBLE_GPUS=3", "DOUBLE_MIG=2")
	a.until("the devices are listed", func() bool { return len(a.devices()) == 5 })
	d := a.devices()
	if g := d["GPU-0"]; !g.Partitioned || g.Simulated || g.Model != "NVIDIA H100 80GB HBM3" || d["MIG-1"].Parent != "GPU-0" || d["MIG-1"].Profile != "1g.10gb" || d["GPU-2"].Health != "ok" {
		t.Errorf("devices %+v", d)
	}
	if got := a.must("gpu", "show", "GPU-2"); !strings.Contains(got, "580.65.06") || !strings.Contains(got, "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb") {
		t.Errorf("one device: %s", got)
	}

	// What no device can ever be is never (11), not a wait.
	for ask, want := range map[string]string{
		"gpus: 1, gpu_profile: 5g.50gb": "no GPU can be cut into it, those here into 1g.10gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb",
		"gpus: 1, gpu_profile: 3g.40gb": "an operator could cut a GPU into it",
		"gpus: 1, gpu_model: B200":      "none has 1 GPU of model B200",
		"gpus: 9":                       "none has 9 GPUs",
	} {
		job := filepath.Join(a.dir, "ask.yaml")
		a.write(job, "kind: process\nresidency: FR\ncommand: [/bin/true]\nresources: {"+ask+"}\n")
		out, errs, exit := a.run("job", "check", job)
		if exit != 11 || !strings.Contains(out+errs, want) {
			t.Errorf("%s: exit %d, want 11 and %q: %s%s", ask, exit, want, out, errs)
		}
	}
	job := filepath.Join(a.dir, "share.yaml")
	a.write(job, "kind: process\nresidency: FR\ncommand: [/bin/true]\nresources: {gpus: 2, gpu_share: 0.3}\n")
	if out, errs, exit := a.run("job", "check", job); exit != 2 {
		t.Errorf("0.3 of two GPUs: exit %d: %s%s", exit, out, errs)
	}

	job = filepath.Join(a.dir, "job.yaml")
	a.write(job, "kind: process\nresidency: FR\ncommand: [/bin/sleep, \"600\"]\nresources: {gpus: 1}\n")
	var ran struct{ ID string }
	if err := json.Unmarshal([]byte(a.must("job", "run", "--json", job)), &ran); err != nil {
		t.Fatal(err)
	}
	held := ""
	a.until("the job holds a device", func() bool {
		for id, g := range a.devices() {
			if len(g.Tasks) == 1 && strings.HasPrefix(g.Tasks[0], ran.ID) {
				held = id
			}
		}
		return held != ""
	})
	a.append(a.events, strings.TrimPrefix(held, "GPU-")+" 95\n")
	a.until("an XID closes its device", func() bool { return a.devices()[held].Health == "cordoned" })
	for id, g := range a.devices() {
		if id != held && g.Health == "cordoned" {
			t.Errorf("%s is %s by a fault of %s", id, g.Health, held)
		}
	}
	a.until("its task is told why", func() bool { return strings.Contains(a.must("job", "show", "--json", ran.ID), "XID 95") })

	// A probe that does not move is killed and started again; until then nobody
	// knows the devices, and the agent answers.
	hung := a.child()
	if hung == 0 {
		t.Fatal("the agent has no probe")
	}
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.until("the devices are unknown", func() bool {
		d := a.devices()
		return slices.ContainsFunc([]string{"GPU-1", "GPU-2", "MIG-0"}, func(id string) bool { return d[id].Health == "lost" })
	})
	a.until("another probe sees them again", func() bool {
		d := a.devices()
		now := a.child()
		return now != 0 && now != hung && d["MIG-0"].Health == "ok" && d[held].Health == "cordoned"
	})
	if said := a.said(); !strings.Contains(said, "did not answer within 10s; the probe was killed") || !strings.Contains(said, "the devices can be seen again") {
		t.Error("the agent does not say what happened to its probe")
	}
}

func (a *agent) write(path, text string) {
	a.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// append adds to a file that another process reads.
func (a *agent) append(path, text string) {
	a.t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		a.t.Fatal(fmt.Errorf("write %s: %w", path, err))
	}
}
