package api

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// An archive that a node made up: its parts lead elsewhere, or are not what
// their manifest says.
func TestASnapshotIsHeldToItsManifest(t *testing.T) {
	const sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of abc
	archive := func(m SnapshotManifest, files ...string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range append([]string{"manifest.json", string(data)}, files...) {
			if i%2 == 1 {
				_, _ = w.Write([]byte(f))
				continue
			}
			content := len(data)
			if i > 0 {
				content = len(files[i-1])
			}
			if err := w.WriteHeader(&tar.Header{Name: f, Mode: 0o600, Size: int64(content)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	good := SnapshotManifest{Parts: []SnapshotPart{{Name: "console.log", Size: 3, SHA256: sum}}}
	dir := t.TempDir()
	if _, err := unpackSnapshot(archive(good, "console.log", "abc"), dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "console.log")); err != nil || string(got) != "abc" {
		t.Errorf("%q, %v", got, err)
	}
	for name, bad := range map[string]*bytes.Buffer{
		"another content":  archive(good, "console.log", "abd"),
		"another name":     archive(good, "console2.log", "abc"),
		"upwards":          archive(SnapshotManifest{Parts: []SnapshotPart{{Name: "../out", Size: 3, SHA256: sum}}}, "../out", "abc"),
		"below":            archive(SnapshotManifest{Parts: []SnapshotPart{{Name: "a/out", Size: 3, SHA256: sum}}}, "a/out", "abc"),
		"over the first":   archive(SnapshotManifest{Parts: []SnapshotPart{{Name: "manifest.json", Size: 3, SHA256: sum}}}, "manifest.json", "abc"),
		"more than it has": archive(SnapshotManifest{}, "console.log", "abc"),
		"less than it has": archive(good),
		"no archive":       bytes.NewBufferString("hello"),
	} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := unpackSnapshot(bad, dir); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if found, err := os.ReadDir(parent); err != nil || len(found) != 1 {
			t.Errorf("%s: beside its directory stand %v, %v", name, found, err)
		}
	}
}
