package agents

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/container/enginetest"
	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/placement"
)

// ownNetwork tells the test's own child that its network is made.
const ownNetwork = "SOVMESH_TEST_OWN_NETWORK"

// What a workload tries to reach outside its list is refused, counted, told by
// the command line, recorded in the ledger, and named by a pack that verifies.
// All of it, agents included, is in a network namespace with one device that
// leads nowhere.
func TestProcesses_refusedTrafficIsRecorded(t *testing.T) {
	if os.Getenv(ownNetwork) == "" {
		inNetworkOfItsOwn(t)
		return
	}
	w := newWorld(t)
	r, err := w.Init(within(t, startLimit), "fra-1", "FR")
	if err != nil {
		t.Fatal(err)
	}
	a := r.Agents[0]
	more := ""
	images := t.TempDir()
	why := enginetest.Missing(enginetest.Docker)
	if why == "" {
		engine, err := enginetest.Start(enginetest.Docker)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := engine.Close(); err != nil {
				t.Error(err)
			}
		})
		img, err := enginetest.Image()
		if err == nil {
			err = enginetest.WriteArchive(filepath.Join(images, "app.tar"), img)
		}
		if err != nil {
			t.Fatal(err)
		}
		more = fmt.Sprintf("images: [%s]\nengine: %s\n", images, engine.Host)
	}
	config, err := os.ReadFile(a.Config)
	if err == nil {
		err = os.WriteFile(a.Config, append(config, more...), 0o600)
	}
	if err == nil {
		err = a.Start(within(t, startLimit))
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "192.0.2.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	network := map[string]any{"allow": []string{"192.0.2.1:8080"}}
	both := func(address string) string {
		return fmt.Sprintf("(: > /dev/tcp/%s) && echo reached %s || echo refused %s;", strings.Replace(address, ":", "/", 1), address, address)
	}
	jobs := map[string]*placement.Job{"process": runs(t, r, a, shell(t, "feed", "FR", "", map[string]any{
		"command": []string{"/bin/bash", "-c", both("192.0.2.1:8080") + both("192.0.2.9:80") + "sleep 600"}, "network": network,
	}))}
	if why == "" {
		jobs["container"] = runs(t, r, a, shell(t, "app", "FR", "", map[string]any{
			"kind": "container", "image": image.ArchivePrefix + filepath.Join(images, "app.tar"), "network": network,
			"command": []string{"/workload", "each", "dial 192.0.2.1:8080", "dial 192.0.2.9:80", "sleep"}, "resources": map[string]any{"cpu": "100m", "memory": "32MiB"},
		}))
	}
	for kind, j := range jobs {
		counted(t, r, a, kind, j)
	}
	recorded(t, r, a, len(jobs))
	if why != "" {
		t.Skipf("shown for processes; no containers here: %s", why)
	}
}

// inNetworkOfItsOwn runs the test once more, in a namespace with an address of
// documentation on a device that leads nowhere.
func inNetworkOfItsOwn(t *testing.T) {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("tasks have networks of their own where the agent is root")
	}
	for program, packet := range map[string]string{"unshare": "util-linux", "ip": "iproute2", "bash": "bash"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the program %s is missing (package %s)", program, packet)
		}
	}
	w := newWorld(t)
	gate := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(filepath.Dir(w.Program), "sovmesh-init"), "github.com/sovmesh/sovmesh/node/driver/microvm/init")
	gate.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := gate.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const script = `ip link set lo up && ip link add out0 type veth peer name out1 && ip link set out1 up && ip addr add 192.0.2.1/24 dev out0 && ip link set out0 up && exec "$@"`
	child := exec.CommandContext(t.Context(), "unshare", "--net", "--", "/bin/sh", "-c", script, "sh",
		os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	child.Env = append(os.Environ(), ownNetwork+"=1", ProgramEnv+"="+w.Program)
	out, err := child.CombinedOutput()
	if i := strings.Index(string(out), "shown for processes; no containers here: "); i >= 0 && err == nil {
		line, _, _ := strings.Cut(string(out)[i:], "\n")
		t.Skip(line)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// counted wants the task's boundary told in words, and the refused destination
// with its packets.
func counted(t *testing.T, r *Region, a *Agent, kind string, j *placement.Job) {
	t.Helper()
	err := Until(within(t, startLimit), func(ctx context.Context) string {
		res, err := r.Run(ctx, a, "", "job", "isolation", "--json", string(j.ID))
		var iso api.Isolation
		if err != nil || res.Exit != 0 || json.Unmarshal([]byte(res.Stdout), &iso) != nil {
			return fmt.Sprint(err, res.Stdout, res.Stderr)
		}
		told := false
		for _, b := range iso.Boundaries {
			told = told || b.What == "network" && b.Holds && strings.Contains(b.How, "192.0.2.1:8080 and nothing else")
		}
		if !told || len(iso.Denied) != 1 || iso.Denied[0].Destination != "192.0.2.9:80/tcp" || iso.Denied[0].Packets == 0 {
			return res.Stdout
		}
		return ""
	})
	if err != nil {
		t.Errorf("%s: %v", kind, err)
	}
	res, err := r.Run(within(t, startLimit), a, "", "job", "isolation", string(j.ID))
	if err != nil || !strings.Contains(res.Stdout, "192.0.2.9:80/tcp") {
		t.Errorf("%s: people read\n%s%s, %v", kind, res.Stdout, res.Stderr, err)
	}
	res, err = r.Run(within(t, startLimit), a, "", "job", "logs", string(j.ID))
	if err != nil || kind == "process" && !strings.Contains(res.Stdout, "reached 192.0.2.1:8080") || !strings.Contains(res.Stdout, "refused") {
		t.Errorf("%s prints\n%s%s, %v", kind, res.Stdout, res.Stderr, err)
	}
}

// recorded wants a leaf of each refusal in a pack that verifies.
func recorded(t *testing.T, r *Region, a *Agent, jobs int) {
	t.Helper()
	pack := filepath.Join(t.TempDir(), "all.pack")
	err := Until(within(t, 3*time.Minute), func(ctx context.Context) string {
		res, err := r.Run(ctx, a, "", "audit", "export", "--out", pack)
		if err != nil || res.Exit != 0 {
			return fmt.Sprint(err, res.Stdout, res.Stderr)
		}
		data, err := os.ReadFile(pack)
		if n := strings.Count(string(data), "denied network "); err != nil || n < jobs {
			return fmt.Sprintf("the pack names %d of %d refusals (%v)", n, jobs, err)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Run(within(t, startLimit), a, "", "audit", "verify", pack)
	if err != nil || !strings.Contains(res.Stdout, "integrity") || strings.Contains(res.Stdout, "failed") {
		t.Errorf("audit verify: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	t.Logf("%s", res.Stdout)
}
