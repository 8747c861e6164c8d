//go:build linux

package agents

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/api"
	"github.com/sovmesh/sovmesh/node/driver/vm/guesttest"
	"github.com/sovmesh/sovmesh/placement"
)

// machineLimit bounds what machines do: they are emulated where tests run.
const machineLimit = 8 * time.Minute

// images lets the agents of a region take machines' images from a directory.
func (r *Region) images(t *testing.T, dir string) {
	t.Helper()
	for _, a := range r.Agents {
		data, err := os.ReadFile(a.Config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(a.Config, fmt.Appendf(data, "images: [%q]\n", dir), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.Stop(within(t, startLimit)); err != nil {
			t.Fatal(err)
		}
		if err := a.Start(within(t, startLimit)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Whole(within(t, startLimit)); err != nil {
		t.Fatal(err)
	}
}

// login is a way into a guest: ssh(1) from a node of a region, by sovmesh job connect.
type login struct {
	args []string
	env  []string
}

// shellKey makes a key, and tells its public half.
func shellKey(t *testing.T, dir string) (private, public string) {
	t.Helper()
	private = filepath.Join(dir, "key")
	if text, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", private).CombinedOutput(); err != nil {
		t.Fatalf("make a key: %v\n%s", err, text)
	}
	data, err := os.ReadFile(private + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return private, strings.TrimSpace(string(data))
}

func shellOf(w *World, r *Region, a *Agent, key string, id placement.JobID) login {
	return login{env: w.environment(r.Environment(a)...), args: []string{
		"-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR", "-o", "ProxyCommand=" + w.Program + " job connect " + string(id) + " 22", "ops@guest",
	}}
}

func (s login) command(ctx context.Context, what string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ssh", append(slices.Clone(s.args), what)...)
	cmd.Env = s.env
	return cmd
}

// given is the digest of the machine's input, as its guest reads it from the disk.
func (s login) given(t *testing.T) string {
	t.Helper()
	text, err := s.command(within(t, machineLimit), "dd if=/run/inputs/kernel iflag=direct bs=64k status=none | sha256sum").Output()
	if err != nil {
		t.Fatalf("read its input: %v", err)
	}
	sum, _, _ := strings.Cut(string(text), " ")
	return "sha256:" + sum
}

// told is what the guest says to whoever logs in: its boot id and its counter.
func (s login) told(t *testing.T) (boot string, count int) {
	t.Helper()
	err := Until(within(t, machineLimit), func(ctx context.Context) string {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		text, err := s.command(ctx, "cat /proc/sys/kernel/random/boot_id /run/count").Output()
		words := strings.Fields(string(text))
		if err != nil || len(words) != 2 {
			return fmt.Sprintf("it said %q, %v", text, err)
		}
		boot = words[0]
		if count, err = strconv.Atoi(words[1]); err != nil {
			return err.Error()
		}
		return ""
	})
	if err != nil {
		t.Fatalf("log in: %v", err)
	}
	return boot, count
}

// session is one that stays open and counts.
type session struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	last  int
}

func (s login) open(t *testing.T) *session {
	t.Helper()
	cmd := s.command(within(t, 2*machineLimit), "n=0; while sleep 0.2; do n=$((n+1)); echo $n; done")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &session{cmd: cmd, lines: bufio.NewScanner(out)}
}

// hears reads on for so many lines, none of which is missing or comes twice.
func (s *session) hears(t *testing.T, lines int) {
	t.Helper()
	for range lines {
		if !s.lines.Scan() {
			t.Fatalf("the session ended after %d: %v", s.last, s.lines.Err())
		}
		if n, err := strconv.Atoi(s.lines.Text()); err != nil || n != s.last+1 {
			t.Fatalf("the session says %q after %d", s.lines.Text(), s.last)
		}
		s.last++
	}
}

// isOn reports whether a task of the job is on a node of the client's region: the
// job's own region is another.
func isOn(t *testing.T, c *api.Client, node placement.NodeID, id placement.JobID) bool {
	t.Helper()
	plan, err := c.PlanDrain(within(t, startLimit), node, api.DrainRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(plan.Tasks, func(k api.DrainTask) bool { return k.Job == id })
}

// A whole Debian runs in one region and is reached by SSH from a node of another
// inside its tag. Its node is drained: it goes on on the region's other node, with
// its boot id and its counter, a session that was open goes on too, and it is
// reached as before. Drained from there with no other node inside the tag, it
// stays, although a region outside is free.
func TestProcesses_aMachineIsMovedWhileItRuns(t *testing.T) {
	w := newWorld(t)
	guest := guesttest.Debian(t)
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("ssh is missing; install the package openssh-client")
	}
	fr, de, us := found(t, w, "fra-1", "FR", 2), found(t, w, "ber-1", "DE", 1), found(t, w, "iad-1", "US", 1)
	fr.images(t, guest)
	us.images(t, guest)
	for _, pair := range [][2]*Region{{de, fr}, {us, fr}, {us, de}} {
		if err := w.Federate(within(t, startLimit), pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
	}
	c, there := clientOf(t, fr, fr.Agents[0]), clientOf(t, de, de.Agents[0])
	first, second := placement.NodeID(fr.Agents[0].Name), placement.NodeID(fr.Agents[1].Name)
	if _, err := c.Cordon(within(t, startLimit), first); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Cordon(within(t, startLimit), placement.NodeID(de.Agents[0].Name)); err != nil {
		t.Fatal(err) // its own region would take it
	}
	key, public := shellKey(t, t.TempDir())
	kernel, err := os.ReadFile(filepath.Join(guest, "vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	input := fmt.Sprintf("sha256:%x", sha256.Sum256(kernel))
	file, err := json.Marshal(map[string]any{
		"inputs": []any{map[string]any{"name": "kernel", "digest": input, "source": filepath.Join(guest, "vmlinuz")}},
		"name":   "debian", "kind": "vm", "type": "service", "residency": "EU", "image": filepath.Join(guest, "disk.qcow2"), "boot": "direct",
		"cloud_init": "#cloud-config\nusers:\n- name: ops\n  ssh_authorized_keys:\n  - " + public +
			"\nruncmd:\n- systemd-run --unit=counter sh -c 'n=0; while sleep 0.2; do n=$((n+1)); echo $n >/run/count.new; mv /run/count.new /run/count; done'\n",
		"resources": map[string]any{"cpu": "2", "memory": "512MiB"},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := runs(t, de, de.Agents[0], file).ID
	becomes(t, there, id, "running", machineLimit, is(placement.JobRunning))
	if !isOn(t, c, second, id) {
		t.Fatalf("it does not run on %s", second)
	}
	sh := shellOf(w, de, de.Agents[0], key, id)
	boot, count := sh.told(t)
	if got := sh.given(t); got != input {
		t.Errorf("its input is %s, and %s was named", got, input)
	}
	if _, err := c.Resume(within(t, startLimit), first); err != nil {
		t.Fatal(err)
	}
	var open *session
	if os.Geteuid() == 0 { // machines have networks of their own, and sessions go along
		open = sh.open(t)
		open.hears(t, 5)
	}

	res, err := fr.Run(within(t, startLimit), fr.Agents[0], "", "node", "drain", string(second), "--plan")
	if err != nil || res.Exit != 0 || !strings.Contains(res.Stdout, "live: ") {
		t.Errorf("the plan: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	res, err = fr.Run(within(t, machineLimit), fr.Agents[0], "", "node", "drain", string(second), "--wait")
	if err != nil || res.Exit != 0 {
		t.Fatalf("the drain: %v, exit %d\n%s%s", err, res.Exit, res.Stdout, res.Stderr)
	}
	if !isOn(t, c, first, id) || isOn(t, c, second, id) {
		t.Errorf("it did not get to %s", first)
	}
	after, later := sh.told(t)
	if after != boot || later <= count {
		t.Errorf("boot %s, counter %d before; boot %s, counter %d after", boot, count, after, later)
	}
	if got := sh.given(t); got != input {
		t.Errorf("after the move its input is %s, and %s was named", got, input)
	}
	if open != nil {
		// It has much to say of the meantime; what comes after that is of now.
		open.hears(t, later-count+10)
	}

	report, err := c.Drain(within(t, startLimit), first, api.DrainRequest{})
	if err != nil || report.Blockers != 1 || report.Tasks[0].Fate != "blocked" || report.Tasks[0].To != "" {
		t.Errorf("with none but a region outside the tag free: %+v, %v", report, err)
	}
	if again, last := sh.told(t); again != boot || last < later {
		t.Errorf("left where it is: boot %s, counter %d", again, last)
	}
	if jobs, err := clientOf(t, us, us.Agents[0]).Jobs(within(t, startLimit), api.ListOptions{}); err != nil || len(jobs.Items) != 0 {
		t.Errorf("the region outside the tag has %+v, %v", jobs, err)
	}
}
