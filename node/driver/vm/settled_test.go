//go:build linux

package vm

import (
	"os"
	"path/filepath"
	"testing"
)

// A note that cannot be read is no leave to remove what may be all that there is.
func TestAnUnreadableNoteKeepsWhatIsThere(t *testing.T) {
	d := newDriver(t, t.TempDir(), nil)
	id := testJob.Task(7, 1)
	h := leftByReboot(t, d, id, nil)
	puts(t, d.kept(id), "the only one")
	note := filepath.Join(d.TaskDir(id), moveFile)
	if err := os.WriteFile(note, []byte(`{"way":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), h); err == nil {
		t.Error("it is destroyed")
	}
	if _, err := os.Stat(note); err != nil {
		t.Error(err)
	}
	lies(t, d.kept(id), "the only one")
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), h); err != nil {
		t.Errorf("without a note: %v", err)
	}
}

// A file that a power cut left empty is made anew; one with content stays.
func TestWhatAPowerCutLeftEmptyIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "blank.fd"), filepath.Join(dir, "vars.fd")
	put := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(from, "blank")
	put(to, "")
	for _, c := range []struct{ there, want string }{{"", "blank"}, {"set up", "set up"}} {
		put(to, c.there)
		if err := copyOnce(to, from); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(to); err != nil || string(got) != c.want {
			t.Errorf("over %q it holds %q, %v; want %q", c.there, got, err, c.want)
		}
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if err := copyOnce(to, from); err != nil {
		t.Fatal(err)
	}
	if all, _ := filepath.Glob(filepath.Join(dir, "*")); len(all) != 2 {
		t.Errorf("there is %q", all)
	}
}
