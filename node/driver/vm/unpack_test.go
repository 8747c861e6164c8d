//go:build linux

package vm

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sink is a raw disk in memory that counts what it is given.
type sink struct {
	data  []byte
	wrote int64
}

func (s *sink) WriteAt(p []byte, at int64) (int, error) {
	s.wrote += int64(len(p))
	if at < int64(len(s.data)) {
		copy(s.data[at:], p)
	}
	return len(p), nil
}

// smallQcow2 has one word in its last cluster, written by hand.
func smallQcow2(t testing.TB, size int64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := newQcow2(path, size); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	table := uint64(len(b))
	b = append(b, make([]byte, 2*64<<10)...)
	copy(b[table+64<<10:], "word")
	binary.BigEndian.PutUint64(b[3*64<<10:], table|1<<63)
	binary.BigEndian.PutUint64(b[table+uint64(8*((size-1)>>16)):], (table+64<<10)|1<<63)
	return b
}

func TestUnpackQcow2(t *testing.T) {
	const size = 3<<16 + 512
	b := smallQcow2(t, size)
	s := &sink{data: make([]byte, size)}
	if err := unpackQcow2(t.Context(), s, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if want := append(make([]byte, 3<<16), append([]byte("word"), make([]byte, 508)...)...); !bytes.Equal(s.data, want) || s.wrote != 512 {
		t.Errorf("%d bytes were written, and not the word in its place", s.wrote)
	}
	put := func(at int, v uint64) []byte {
		c := bytes.Clone(b)
		binary.BigEndian.PutUint64(c[at:], v)
		return c
	}
	table := int(binary.BigEndian.Uint64(b[3*64<<10:]) & qcowOffset)
	for name, bad := range map[string][]byte{
		"a table beyond the file":    put(3*64<<10, 1<<40),
		"the L1 table beyond it":     put(40, 1<<40),
		"the L1 table before it":     put(40, 1<<63),
		"a cluster beyond it":        put(table, 1<<40),
		"a compressed cluster":       put(table, qcowCompressed|1<<16),
		"subclusters":                put(72, 1<<4),
		"a larger disk than L1 says": put(24, 1<<50),
		"cut off":                    b[:table],
		"nothing":                    nil,
	} {
		if err := unpackQcow2(t.Context(), &sink{}, bytes.NewReader(bad), 1<<20); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	// One cluster named a hundred times is no more than the file may hold.
	many := bytes.Clone(b)
	binary.BigEndian.PutUint64(many[24:], 100<<16)
	for i := range 100 {
		binary.BigEndian.PutUint64(many[table+8*i:], uint64(table)+64<<10)
	}
	if s := (&sink{}); unpackQcow2(t.Context(), s, bytes.NewReader(many), int64(len(many))) == nil || s.wrote > int64(len(many)) {
		t.Errorf("a file of %d bytes became %d", len(many), s.wrote)
	}
}

// What QEMU's own tool makes of a disk is unpacked to the same disk.
func TestUnpackWhatQEMUWrote(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img: apt install qemu-utils")
	}
	dir := t.TempDir()
	raw, image := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	data := make([]byte, 40<<20+512)
	for at := 12345; at < len(data); at += 3 << 20 {
		copy(data[at:], bytes.Repeat([]byte("abc"), 50_000))
	}
	copy(data[len(data)-3:], "end")
	if err := os.WriteFile(raw, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &sink{data: make([]byte, len(data))}
	st, _ := f.Stat()
	if err := unpackQcow2(t.Context(), s, f, st.Size()); err != nil || !bytes.Equal(s.data, data) {
		t.Errorf("another disk came out: %v", err)
	}
	if s.wrote > 20<<20 {
		t.Errorf("%d bytes were written, holes with them", s.wrote)
	}
	to, err := os.Create(filepath.Join(dir, "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := copySparse(t.Context(), to, f); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(image)
	if got, err := io.ReadAll(io.NewSectionReader(to, 0, 1<<40)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("its copy is another: %v", err)
	}
}

func FuzzUnpackQcow2(f *testing.F) {
	f.Add(smallQcow2(f, 3<<16+512))
	f.Add(smallQcow2(f, 1<<20))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &sink{}
		if err := unpackQcow2(t.Context(), s, bytes.NewReader(data), int64(len(data))); err == nil && s.wrote > int64(len(data)) {
			t.Errorf("%d bytes became %d", len(data), s.wrote)
		}
	})
}
