//go:build linux

package microvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const secretValue = "correct-horse-battery-staple"

// TestVolumesPortsAndSecrets gives one machine all three, and a second one the
// volumes of the first.
func TestVolumesPortsAndSecrets(t *testing.T) {
	needMachine(t)
	dir := t.TempDir()
	d := newDriver(t, dir, func(c *Config) { c.VolumeSize = 64 * placement.MiB })
	secrets := t.TempDir()
	if err := os.WriteFile(filepath.Join(secrets, "DB_PASSWORD"), []byte(secretValue), 0o400); err != nil {
		t.Fatal(err)
	}
	s := spec(t, 0, "serve", "127.0.0.1:8080")
	s.SecretsDir = secrets
	s.Setup = &placement.Setup{User: "1000:1000", Ports: []placement.Port{{Port: 8080}}, Volumes: []placement.Volume{
		{Name: "data", Path: "/srv/deep/data"}, {Name: "within", Path: "/srv/deep/data/within"},
		{Name: "more", Path: "/srv/more"}, {Name: "most", Path: "/srv/most"}, // as many as there are places for
	}}
	s.InputsDir = t.TempDir()
	sum := sha256.Sum256([]byte("weights"))
	s.Setup.Inputs = []placement.Input{{Name: "model", Digest: "sha256:" + hex.EncodeToString(sum[:])}}
	if err := os.WriteFile(filepath.Join(s.InputsDir, "model"), []byte("weights"), 0o444); err != nil {
		t.Fatal(err)
	}
	h, err := start(t, d, s)
	if err != nil {
		t.Fatal(err)
	}
	run := func(command ...string) (string, int) {
		out, exit := execIn(t, d, h, runner.ExecRequest{Command: append([]string{"/workload"}, command...)})
		return out, exit.Code
	}

	t.Run("a port of the guest is reached without a network", func(t *testing.T) { reached(t, d, h) })
	t.Run("secrets are there for the workload and nowhere else", func(t *testing.T) {
		if out, code := run("cat", "/run/secrets/DB_PASSWORD"); code != 0 || out != secretValue {
			t.Errorf("it reads %q, %d", out, code)
		}
		if out, code := run("write", "/run/secrets/DB_PASSWORD"); code == 0 {
			t.Errorf("it may write to them: %q", out)
		}
		if out, _ := run("env"); !strings.Contains(out, runner.SecretsEnv+"="+runner.SecretsPath+"\n") || strings.Contains(out, secretValue) {
			t.Errorf("its environment is %q", out)
		}
		nowhere(t, d, h, secretValue)
	})
	t.Run("inputs are read and not written", func(t *testing.T) {
		if out, code := run("cat", "/run/inputs/model"); code != 0 || out != "weights" {
			t.Errorf("it reads %q, %d", out, code)
		}
		for _, path := range []string{"/run/inputs/model", "/run/inputs/other"} {
			if out, code := run("write", path); code == 0 {
				t.Errorf("it may write to %s: %q", path, out)
			}
		}
		if out, _ := run("env"); !strings.Contains(out, runner.InputsEnv+"="+runner.InputsPath+"\n") {
			t.Errorf("its environment is %q", out)
		}
	})
	t.Run("volumes take files, the root does not", func(t *testing.T) {
		for path, code := range map[string]int{"/srv/deep/data/a": 0, "/srv/deep/data/within/b": 0, "/srv/deep/c": 1, "/d": 1} {
			if out, got := run("write", path); got != code {
				t.Errorf("write %s ends with %d: %q", path, got, out)
			}
		}
		actual, err := d.Inspect(t.Context(), h)
		if err != nil || fmt.Sprint(actual.Mounts) != "[/srv/deep/data /srv/deep/data/within /srv/more /srv/most]" {
			t.Errorf("%v, %v", actual.Mounts, err)
		}
	})
	t.Run("nobody else has them at the same time", func(t *testing.T) {
		other := s
		other.Task = testJob.Task(0, 2)
		if _, err := start(t, d, other); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("it gives %v", err)
		}
	})
	if err := d.Stop(t.Context(), h, boots); err != nil {
		t.Fatal(err)
	}

	next := spec(t, 0, "each", "cat /srv/deep/data/a", "cat /srv/deep/data/within/b", "write /srv/deep/data/a")
	next.Task = testJob.Task(0, 3)
	volumes := *s.Setup
	volumes.Volumes = append([]placement.Volume(nil), s.Setup.Volumes...)
	volumes.Volumes[0].ReadOnly = true
	next.Setup = &volumes
	again, err := start(t, d, next)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), boots)
	defer cancel()
	if _, err := d.Wait(ctx, again); err != nil {
		t.Fatal(err)
	}
	r, err := d.Logs(ctx, again, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if text, _ := io.ReadAll(r); strings.Count(string(text), "written\n") != 2 || strings.Count(string(text), "read-only") != 1 {
		t.Errorf("the next attempt finds:\n%s", text)
	}
	if err := d.Forget(testJob); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "volumes", "*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// reached speaks to a server in the guest: a long answer, the end of one way, a
// port where nothing listens, and a caller that goes away.
func reached(t *testing.T, d *Driver, h runner.Handle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), boots)
	defer cancel()
	for range 3 {
		c, err := d.Dial(ctx, h, 8080)
		for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "refused") { // it has begun, and does not listen yet
			c, err = d.Dial(ctx, h, 8080)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(boots))
		sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // more than a window, both ways
		go func() {
			_, _ = c.Write(sent)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes of %d come back, %v", len(got), len(sent), err)
		}
		_ = c.Close()
	}
	if _, err := d.Dial(ctx, h, 9); err == nil || !strings.Contains(err.Error(), "nothing answers at port 9") {
		t.Errorf("a port where nothing listens gives %v", err)
	}
	left, err := d.Dial(ctx, h, 8080)
	if err != nil {
		t.Fatal(err)
	}
	_ = left.Close()
}

// nowhere looks for a text in all that the node keeps and tells of a task.
func nowhere(t *testing.T, d *Driver, h runner.Handle, text string) {
	t.Helper()
	err := filepath.WalkDir(d.cfg.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			t.Errorf("it lies in %s", path)
		}
		return err
	})
	o, recoverErr := d.Recover(t.Context(), h)
	a, inspectErr := d.Inspect(t.Context(), h)
	if err := errors.Join(err, recoverErr, inspectErr); err != nil {
		t.Fatal(err)
	}
	told, err := json.Marshal([]any{o, a})
	if err != nil || bytes.Contains(told, []byte(text)) {
		t.Errorf("it is told: %v", err)
	}
	for _, name := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile("/proc/" + o.Facts["pid"] + "/" + name)
		if err != nil || bytes.Contains(data, []byte(text)) {
			t.Errorf("it stands in %s: %v", name, err)
		}
	}
}
