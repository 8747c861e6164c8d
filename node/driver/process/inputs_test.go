//go:build linux

package process

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sovmesh/sovmesh/node/runner"
)

func TestInputsAreReadAndNotWritten(t *testing.T) {
	in := t.TempDir()
	if err := os.WriteFile(filepath.Join(in, "model"), []byte("weights\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(in, 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, t.TempDir(), nil)
	h := start(t, d, func(s *runner.Spec) { s.InputsDir = in },
		"sh", "-c", `cat "$SOVMESH_INPUTS/model"; (echo other > "$SOVMESH_INPUTS/model") 2>/dev/null; rm -f "$SOVMESH_INPUTS/model" 2>/dev/null; echo "$SOVMESH_INPUTS"`)
	if _, err := d.Wait(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	r, err := d.Logs(t.Context(), h, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	at := in
	if os.Geteuid() == 0 {
		at = runner.InputsPath
	}
	if got, _ := io.ReadAll(r); string(got) != "weights\n"+at+"\n" {
		t.Errorf("it prints %q", got)
	}
	if left, err := os.ReadFile(filepath.Join(in, "model")); err != nil || string(left) != "weights\n" {
		t.Errorf("afterwards it is %q, %v", left, err)
	}
}
