package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sovmesh/sovmesh/node"
	"github.com/sovmesh/sovmesh/placement"
)

// A mesh that was killed leaves its contexts behind: the next one takes them
// over, also while the dead process still has its number.
func TestContextsOfAKilledMeshAreTakenOver(t *testing.T) {
	b := newBench(t)
	cmd := exec.Command("cat")
	if _, err := cmd.StdinPipe(); err != nil { // it waits for its end
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	left := map[string]target{
		"fra-1": {Addr: "https://a:1", Owner: devOwner(cmd.Process.Pid)},
		"ber-1": {Addr: "https://b:1", Owner: devOwner(os.Getpid())},
		"mine":  {Addr: "https://c:1"},
	}
	if _, err := addContexts(b.contexts, left, nil); err != nil {
		t.Fatal(err)
	}
	p := b.program(&bytes.Buffer{}, &bytes.Buffer{})
	count := func() int {
		c, err := readContexts(b.contexts)
		if err != nil {
			t.Fatal(err)
		}
		return len(c.Contexts)
	}
	if p.forgetDead(); count() != 3 {
		t.Errorf("of 3 contexts %d are left while both meshes run", count())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Nobody has waited for it yet: it is a zombie.
	for end := time.Now().Add(10 * time.Second); alive(cmd.Process.Pid); {
		if time.Now().After(end) {
			t.Fatal("a killed process counts as alive")
		}
	}
	if p.forgetDead(); count() != 2 {
		t.Errorf("%d contexts are left, expected those of the other two", count())
	}
	_ = cmd.Wait() // killed
}

// Files that jobs need are taken from where a developer has them.
func TestADevNodeHasInputs(t *testing.T) {
	dir, text := t.TempDir(), []byte("a model")
	source := filepath.Join(dir, "model")
	if err := os.WriteFile(source, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	p := newBench(t).program(&bytes.Buffer{}, &bytes.Buffer{})
	inputs := p.devConfig().Inputs(node.Config{Data: t.TempDir()})
	at, err := inputs.Lay(t.Context(), "task", "tenant", []placement.Input{{Name: "m", Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(text)), Source: source}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(at, "m")); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the task has %q, %v", got, err)
	}
}
