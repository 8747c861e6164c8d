//go:build linux

package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

// echo reaches port 7 of the guest and expects its own word back.
func echo(ctx context.Context, d *Driver, h runner.Handle) error {
	c, err := d.Dial(ctx, h, 7)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	word := []byte("bonjour")
	if _, err := c.Write(word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, word) {
		return fmt.Errorf("got %q, %w", got, err)
	}
	return nil
}

func TestMachineIsReachedHeldAndCopied(t *testing.T) {
	images := smallGuest(t)
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{images} })
	// QEMU's network shows the node's loopback as 10.0.2.2, unless it is told not to.
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	h := start(t, d, spec(20, "serve 10.0.2.2:"+port, func(s *runner.Spec) { s.Setup.Disks = []placement.Disk{{Name: "data", Size: 1 << 20}} }))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	console, err := d.Console(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	awaits(t, d, h, "serving\n")
	if text := printed(t, d, h); strings.Contains(text, "reached") {
		t.Errorf("a guest with no network reached others:\n%s", text)
	}
	seen := make([]byte, 64<<10)
	if n, err := console.Read(seen); err != nil || n == 0 {
		t.Errorf("the console shows nothing: %v", err)
	}
	for range 2 { // the second time by the same way
		if err := echo(ctx, d, h); err != nil {
			t.Fatalf("reach it: %v", err)
		}
	}
	first, err := d.forwarded(ctx, h, 7)
	if second, err2 := newDriver(t, d.cfg.Dir, nil).forwarded(ctx, h, 7); err != nil || err2 != nil || first != second {
		t.Errorf("the agent that comes back opens another port: %d, %d, %v, %v", first, second, err, err2)
	}
	var refused *runner.StartError
	if _, err := d.Exec(ctx, h, runner.ExecRequest{Command: []string{"ls"}}); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "no agent") {
		t.Errorf("in a guest without an agent a command gives %v", err)
	}
	held(ctx, t, d, h)
	inspected(ctx, t, d, h)
	copied(ctx, t, d, h)
	if err := echo(ctx, d, h); err != nil {
		t.Errorf("after all that: %v", err)
	}
	if err := d.Stop(ctx, h, patience); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, d, h); exit.Code != 0 || !exit.Stopped || exit.Killed {
		t.Errorf("asked to end, it ends with %+v", exit)
	}
}

func held(ctx context.Context, t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	if err := d.Pause(ctx, h); err != nil {
		t.Fatal(err)
	}
	if err := echo(ctx, d, h); err == nil {
		t.Error("it answers while it is held")
	}
	if err := d.Resume(ctx, h); err != nil {
		t.Fatal(err)
	}
	if err := echo(ctx, d, h); err != nil {
		t.Errorf("it goes on, and yet: %v", err)
	}
}

func inspected(ctx context.Context, t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	a, err := d.Inspect(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	if a.Memory != 192*placement.MiB || a.ImageDigest != "sha256:"+sum256(make([]byte, 1<<20)) || fmt.Sprint(a.Disks) != "[disk0 disk1]" || a.Packages != nil {
		t.Errorf("it is seen as %+v", a)
	}
	for _, b := range a.Boundary {
		if b.What == "" || b.How == "" || (b.What == "network" && !b.Holds) {
			t.Errorf("boundary %+v", b)
		}
	}
}

func copied(ctx context.Context, t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	dir := t.TempDir()
	snap, err := d.Snapshot(ctx, h, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Missing) > 0 || snap.Paused <= 0 {
		t.Errorf("the snapshot is %+v", snap)
	}
	var what []string
	for _, p := range snap.Parts {
		what = append(what, p.What)
		data, err := os.ReadFile(filepath.Join(dir, p.Name))
		if err != nil || int64(len(data)) != p.Size || sum256(data) != p.SHA256 || p.Size == 0 {
			t.Errorf("%+v: %d bytes, %v", p, len(data), err)
		}
		switch p.What {
		case "disk":
			if text, err := exec.Command("qemu-img", "check", "-f", "qcow2", filepath.Join(dir, p.Name)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", p.Name, err, text)
			}
		case "memory":
			if f, err := elf.NewFile(bytes.NewReader(data)); err != nil || f.Type != elf.ET_CORE || p.Size < 192<<20 {
				t.Errorf("the memory is no core of the machine: %v", err)
			}
		}
	}
	if fmt.Sprint(what) != "[records disk disk memory console]" {
		t.Errorf("the parts are %v", what)
	}
	// An agent that was killed over one leaves the guest standing still, and a note.
	if err := errors.Join(d.Pause(ctx, h), writeJSON(filepath.Join(d.TaskDir(h.Task), heldFile), time.Now())); err != nil {
		t.Fatal(err)
	}
	if _, err := newDriver(t, d.cfg.Dir, nil).Recover(ctx, h); err != nil {
		t.Fatal(err)
	}
	if err := echo(ctx, d, h); err != nil {
		t.Errorf("the next agent does not let it go on: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.TaskDir(h.Task), heldFile)); !os.IsNotExist(err) {
		t.Errorf("and keeps the note: %v", err)
	}
	t.Logf("snapshot: %d parts, paused %v", len(snap.Parts), snap.Paused)
	if again, err := d.Snapshot(ctx, h, t.TempDir()); err != nil || len(again.Parts) != len(snap.Parts) {
		t.Errorf("a second one: %+v, %v", again, err)
	}
}

// TestDebian boots a whole Debian, which cloud-init makes its own, logs in, and
// installs a package by hand, which shows as drift.
func TestDebian(t *testing.T) {
	dir := debian(t)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), func(c *Config) { c.ImageDirs = []string{dir} })
	spec := runner.Spec{
		Task: testJob.Task(0, 1), Job: testJob, Name: "debian", Image: "./disk.qcow2", Service: true, Grace: time.Minute,
		Resources: placement.Resources{CPU: 2000, Memory: 512 * placement.MiB}, Keep: func(runner.Handle) error { return nil },
		Setup: &placement.Setup{Boot: placement.BootDirect, RootSize: 4 * placement.GiB, CloudInit: fmt.Sprintf(
			"#cloud-config\nusers:\n- name: ops\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  ssh_authorized_keys:\n  - %s", ssh.MarshalAuthorizedKey(key))},
	}
	secrets := t.TempDir()
	if err := os.WriteFile(filepath.Join(secrets, "DB_PASSWORD"), []byte(secretValue), 0o400); err != nil {
		t.Fatal(err)
	}
	spec.SecretsDir = secrets
	giveInput(t, &spec, "weights")
	h := start(t, d, spec)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 18*time.Minute)
	defer cancel()
	client := login(ctx, t, d, h, &ssh.ClientConfig{
		User: "ops", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second,
	})
	defer client.Close()
	t.Logf("logged in after %v", time.Since(began).Round(time.Second))
	if got := remote(t, client, "hostname; sudo id -u 2>/dev/null; df --output=size -B1G / | tail -1"); strings.Join(strings.Fields(got), " ") != "debian-0 0 4" {
		t.Errorf("in the guest: %q", got)
	}
	if got := remote(t, client, "sudo cat /run/secrets/DB_PASSWORD 2>/dev/null; cat /run/secrets/DB_PASSWORD 2>&1 >/dev/null | grep -c denied; grep -o 'secrets tmpfs ro' /proc/mounts"); got != secretValue+"1\nsecrets tmpfs ro\n" {
		t.Errorf("of its secret the guest says %q", got)
	}
	if got := remote(t, client, "cat /run/inputs/model; echo; sudo rm -f /run/inputs/model 2>/dev/null; sudo mount -o remount,rw /run/inputs 2>/dev/null; ls /run/inputs/model; sudo blkid -L sovmesh-inputs >/dev/null 2>&1; echo $?"); got != "weights\n/run/inputs/model\n0\n" {
		t.Errorf("of its inputs the guest says %q", got)
	}
	nowhere(t, d, h, secretValue)
	executed(ctx, t, d, h)
	a, err := d.Inspect(ctx, h)
	if err != nil || a.Packages["cloud-init"] == "" || !strings.HasPrefix(a.Services["ssh"], "active") {
		t.Errorf("the guest's agent tells of %d packages and %d services, %v", len(a.Packages), len(a.Services), err)
	}
	packageByHandIsDrift(ctx, t, d, h, spec, client)
	if err := d.Stop(ctx, h, 4*time.Minute); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, d, h); exit.Code != 0 || exit.Killed {
		t.Errorf("it ends with %+v", exit)
	}
}

// login waits until the guest lets us in.
func login(ctx context.Context, t *testing.T, d *Driver, h runner.Handle, cfg *ssh.ClientConfig) *ssh.Client {
	t.Helper()
	var last error
	for ctx.Err() == nil {
		conn, err := d.Dial(ctx, h, 22)
		if err != nil {
			o, _ := d.Recover(ctx, h)
			text := printed(t, d, h)
			t.Fatalf("%v; it is %s, %+v\n%s", err, o.State, o.Exit, text[max(0, len(text)-4000):])
		}
		_ = conn.SetDeadline(time.Now().Add(cfg.Timeout))
		c, chans, reqs, err := ssh.NewClientConn(conn, "guest", cfg)
		if err == nil {
			_ = conn.SetDeadline(time.Time{})
			return ssh.NewClient(c, chans, reqs)
		}
		last = err
		_ = conn.Close()
		pause(ctx, time.Second)
	}
	text := printed(t, d, h)
	t.Fatalf("no login: %v\n%s", last, text[max(0, len(text)-4000):])
	return nil
}

func remote(t *testing.T, c *ssh.Client, command string) string {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.CombinedOutput(command)
	if err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}
