package evidence

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"
)

func archived(t testing.TB, files ...string) []byte {
	t.Helper()
	var entries []Entry
	content := map[string][]byte{}
	for i := 0; i < len(files); i += 2 {
		content[files[i]] = []byte(files[i+1])
		entries = append(entries, Entry{files[i], sha256.Sum256([]byte(files[i+1]))})
	}
	var buf bytes.Buffer
	if err := WriteArchive(&buf, entries, func(e Entry) ([]byte, error) { return content[e.Name], nil }); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func readAll(data []byte) (map[string]string, error) {
	a, err := OpenArchive(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for {
		name, file, err := a.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out[name] = string(file)
	}
}

// Any tar program unpacks a pack.
func TestArchivesAreOrdinaryTar(t *testing.T) {
	long := "regions/" + strings.Repeat("r", 63) + "/bundles/" + strings.Repeat("0", 64) + ".json"
	data := archived(t, "README.txt", "hello", "regions/fra-1/entries/000", string(make([]byte, 1500)), long, "{}", "empty", "")
	r := tar.NewReader(bytes.NewReader(data))
	var names []string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o644 || h.Typeflag != tar.TypeReg {
			t.Errorf("%s: mode %o, type %c", h.Name, h.Mode, h.Typeflag)
		}
		names = append(names, h.Name)
	}
	if len(names) != 5 || names[0] != ManifestName || names[3] != long || names[4] != "empty" {
		t.Errorf("unpacked: %q", names)
	}
	if all, err := readAll(data); err != nil || all["README.txt"] != "hello" || all[long] != "{}" {
		t.Errorf("read: %v, %v", all, err)
	}
}

// Not one bit of a pack can change, and no byte be missing or too many.
func TestEveryBitOfAnArchiveCounts(t *testing.T) {
	data := archived(t, "README.txt", "hello", "a/b", "x", strings.Repeat("a", 60)+"/"+strings.Repeat("b", 60), "y")
	for i := range data {
		for _, bit := range []byte{1, 0x20, 0x80} {
			bad := bytes.Clone(data)
			bad[i] ^= bit
			if _, err := readAll(bad); !errors.Is(err, ErrArchive) {
				t.Fatalf("bit %#x of byte %d changed: %v", bit, i, err)
			}
		}
		if _, err := readAll(data[:i]); !errors.Is(err, ErrArchive) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := readAll(append(bytes.Clone(data), 0)); !errors.Is(err, ErrArchive) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestManifestsNameOnlyWhatMayBeUnpacked(t *testing.T) {
	sum := sha256.Sum256(nil)
	for _, name := range []string{"", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "-rf", "a b", "ä", ManifestName} {
		if _, err := ParseManifest(EncodeManifest([]Entry{{name, sum}})); !errors.Is(err, ErrArchive) {
			t.Errorf("%q: %v", name, err)
		}
	}
	twice := EncodeManifest([]Entry{{"a", sum}, {"a", sum}})
	if _, err := ParseManifest(twice); !errors.Is(err, ErrArchive) {
		t.Errorf("a name twice: %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(archived(f, "a", "b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := readAll(data)
		if err != nil {
			return
		}
		a, _ := OpenArchive(bytes.NewReader(data))
		var buf bytes.Buffer
		if err := WriteArchive(&buf, a.Entries(), func(e Entry) ([]byte, error) { return []byte(all[e.Name]), nil }); err != nil || !bytes.Equal(buf.Bytes(), data) {
			t.Fatalf("what was read has another encoding: %v", err)
		}
	})
}
