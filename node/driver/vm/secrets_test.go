//go:build linux

package vm

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

const secretValue = "correct-horse-battery-staple"

// nowhere looks for a text in all that the node keeps and tells of a task, its
// disks included.
func nowhere(t *testing.T, d *Driver, h runner.Handle, text string) {
	t.Helper()
	err := filepath.WalkDir(d.cfg.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		found, err := holds(path, text)
		if found {
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

// holds reads a file in parts: a disk may be large.
func holds(path, text string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	kept := 0
	for {
		n, err := f.Read(buf[kept:])
		if bytes.Contains(buf[:kept+n], []byte(text)) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		tail := min(kept+n, len(text))
		copy(buf, buf[kept+n-tail:kept+n])
		kept = tail
	}
}

func TestSecretsDiskIsTheSameWhereverItIsMade(t *testing.T) {
	task := testJob.Task(0, 1)
	var disks [][]byte
	for range 2 {
		dir := t.TempDir()
		for name, value := range map[string]string{"B": "two", "A": secretValue} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o400); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the second time over the first
			path, err := secretsDisk(runner.Spec{Task: task, SecretsDir: dir})
			if err != nil || filepath.Dir(path) != dir {
				t.Fatal(path, err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			disks = append(disks, data)
		}
	}
	for i, data := range disks {
		if !bytes.Equal(data, disks[0]) || len(data)%512 != 0 {
			t.Errorf("disk %d differs, or has no whole sectors: %d bytes", i, len(data))
		}
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(disks[0])); ; {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, f.Name)
	}
	if strings.Join(names, " ") != "A B" {
		t.Errorf("it holds %v", names)
	}
}

func TestSeedCarriesNoSecret(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "A"), []byte(secretValue), 0o400); err != nil {
		t.Fatal(err)
	}
	iso, err := seed(runner.Spec{Task: testJob.Task(0, 1), Job: testJob, SecretsDir: dir, Setup: &placement.Setup{}})
	if err != nil || bytes.Contains(iso, []byte(secretValue)) || !bytes.Contains(iso, []byte("#cloud-boothook")) {
		t.Errorf("the seed carries it, or does not say how to take it: %v", err)
	}
}
