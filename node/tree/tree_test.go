package tree_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovmesh/sovmesh/node/tree"
	"github.com/sovmesh/sovmesh/node/tree/treetest"
)

func write(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func isGone(t *testing.T, name string) {
	t.Helper()
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", name, err)
	}
}

func TestADeepTreeIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "task")
	write(t, filepath.Join(dir, "exit"))
	treetest.Deep(t, filepath.Join(dir, "work"))
	treetest.FewFiles(t)
	// What all this is for: it holds a file open for each level.
	if err := os.RemoveAll(dir); err == nil {
		t.Error("a deep tree is nothing to os.RemoveAll any more")
	}
	if err := errors.Join(tree.RemoveAll(t.Context(), dir), tree.RemoveAll(t.Context(), dir)); err != nil {
		t.Fatal(err)
	}
	isGone(t, dir)
}

// What lies there leads out, is closed, or has the names of ours.
func TestWhatIsBesideTheTreeStays(t *testing.T) {
	at := t.TempDir()
	dir, other := filepath.Join(at, "task"), filepath.Join(at, "other")
	write(t, filepath.Join(other, "file"))
	write(t, filepath.Join(dir, "work/a/b/file"))
	write(t, filepath.Join(dir, "work/.gone/0/file"))
	write(t, filepath.Join(dir, "file"))
	for _, link := range []string{"work/link", "work/a/link", "link"} {
		if err := os.Symlink(other, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, filepath.Join(at, "link")); err != nil {
		t.Fatal(err)
	}
	for _, closed := range []string{"work/a/b", "work/a", "work"} {
		if err := os.Chmod(filepath.Join(dir, closed), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{dir, filepath.Join(at, "link")} {
		if err := tree.RemoveAll(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		isGone(t, name)
	}
	if _, err := os.Stat(filepath.Join(other, "file")); err != nil {
		t.Error(err)
	}
}

// One that is cut off leaves what the node wrote down, and the next one goes on.
func TestARemovalIsCutOff(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "task")
	for _, name := range []string{"exit", "work/a/one", "tmp/two", ".gone/0/a/three", ".gone/7/four"} {
		write(t, filepath.Join(dir, name))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.RemoveAll(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "exit")); err != nil {
		t.Error(err)
	}
	if err := tree.RemoveAll(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	isGone(t, dir)
}
