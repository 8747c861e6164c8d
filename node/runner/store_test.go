package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/placement"
)

func TestDirKeepsRecordsAndFloor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tasks")
	open := func() *runner.Dir {
		t.Helper()
		d, err := runner.OpenDir(path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	a := runner.Record{Task: job.Task(0, 1), Job: job, Kind: placement.KindFake, Index: 7, Handle: &runner.Handle{Version: 1, Driver: "fake"}, Status: placement.TaskAssigned}
	b := runner.Record{Task: job.Task(1, 1), Job: job, Kind: placement.KindFake}
	for _, r := range []runner.Record{a, b} {
		if err := d.Save(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Delete(b.Task, 40); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(b.Task, 12); err != nil {
		t.Errorf("deleted again: %v", err)
	}
	// A save that was cut off by a crash leaves this.
	if err := os.WriteFile(filepath.Join(path, "x.json.123.tmp"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	records, floor, err := open().Load()
	if err != nil || floor != 40 || len(records) != 1 || records[0].Task != a.Task || records[0].Handle.Driver != "fake" {
		t.Errorf("loaded %+v, floor %d, %v", records, floor, err)
	}
	info, err := os.Stat(filepath.Join(path, strings.ReplaceAll(string(a.Task), "/", "_")+".json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the record's file: %v, %v", info, err)
	}
}

func TestACorruptRecordStopsTheNodeByName(t *testing.T) {
	for name, content := range map[string]string{
		"garbage": "\x00\x01", "another version": `{"version":99,"task":"a.b/0.1"}`, "empty": "", "no task": `{"version":1}`,
		"oversize": `{"version":1,"task":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			d, err := runner.OpenDir(path)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(path, "bad.json")
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := d.Load(); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("Load gives %v", err)
			}
		})
	}
}
