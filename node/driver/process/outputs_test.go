//go:build linux

package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovmesh/sovmesh/node/outputs"
	"github.com/sovmesh/sovmesh/node/runner"
	"github.com/sovmesh/sovmesh/node/tree/treetest"
	"github.com/sovmesh/sovmesh/placement"
)

// A process leaves files by its own user, and what is kept of them is gathered;
// the node's files are not among them, whatever it lays there.
func TestOutputsAreGathered(t *testing.T) {
	s := outputs.New(filepath.Join(t.TempDir(), "outputs"))
	dir, err := s.Make("a.b/0.1")
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, func(s *runner.Spec) { s.OutputsDir = dir },
		"sh", "-c", `echo weights >"$SOVMESH_OUTPUTS/model" && mkdir "$SOVMESH_OUTPUTS/logs" && id -u >"$SOVMESH_OUTPUTS/logs/user" && ln -s /etc/passwd "$SOVMESH_OUTPUTS/passwd" && mkfifo "$SOVMESH_OUTPUTS/pipe" && (ln /etc/passwd "$SOVMESH_OUTPUTS/hard" 2>/dev/null; echo "$SOVMESH_OUTPUTS")`)
	exit, err := d.Wait(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	at := dir
	if os.Geteuid() == 0 {
		at = runner.OutputsPath
	}
	if got := printed(t, d, h); exit.Code != 0 || got != at+"\n" {
		t.Errorf("it ends with %d and prints %q", exit.Code, got)
	}
	list, err := s.Gather(t.Context(), h.Task, placement.Outputs{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range list.Files {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "logs/user model" || list.LeftOut != 2 {
		t.Errorf("kept: %q and not %d", got, list.LeftOut)
	}
	if err := s.Drop(t.Context(), h.Task); err != nil {
		t.Error(err)
	}
}

// A task made a tree in its work directory that is deeper than the agent may open
// files: it is removed all the same.
func TestDestroyRemovesADeepTree(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, nil, "true")
	if _, err := d.Wait(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	treetest.Deep(t, string(d.dir(h.Task).path("work")))
	treetest.FewFiles(t)
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(d.dir(h.Task))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
}
