package keep

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node/tree/treetest"
	"github.com/sovmesh/sovmesh/placement"
)

func TestForgetTakesOneJobAlone(t *testing.T) {
	dir := t.TempDir()
	const job, other = placement.JobID("fra-1.01jd0000000000000000000000"), placement.JobID("fra-1.01jd0000000000000000000001")
	for _, name := range []string{string(job), string(job) + ".0", string(job) + ".12", string(other) + ".1", "seen", "a.b"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	for _, name := range []string{string(job), string(job) + ".0", string(other) + ".1"} {
		if err := os.Chtimes(filepath.Join(dir, name), past, past); err != nil {
			t.Fatal(err)
		}
	}
	Touch(filepath.Join(dir, string(job)+".0"))
	all, err := Jobs(dir)
	if err != nil || len(all) != 2 || time.Since(all[job]) > time.Minute || time.Since(all[other]) < time.Minute {
		t.Errorf("%v, %v", all, err)
	}
	for _, name := range []placement.JobID{"", "..", job, job} {
		if err := Forget(dir, name); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
	if all, err := Jobs(filepath.Join(dir, "none")); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// A job's task made a tree in a volume that is deeper than the agent may open files.
func TestForgetsADeepTree(t *testing.T) {
	dir := t.TempDir()
	const job = placement.JobID("fra-1.01jd0000000000000000000000")
	treetest.Deep(t, filepath.Join(dir, string(job), "data"))
	treetest.FewFiles(t)
	if err := Forget(dir, job); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
