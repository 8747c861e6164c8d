//go:build linux

package microvm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/sovmesh/sovmesh/node/driver/fetch"
	"github.com/sovmesh/sovmesh/node/driver/image"
	"github.com/sovmesh/sovmesh/node/driver/image/imagetest"
)

func testImage(t testing.TB, content string) v1.Image {
	return imagetest.Image(t, v1.Config{}, imagetest.Layer(t, imagetest.Regular("file", []byte(content))))
}

func testStore(t testing.TB) *store {
	t.Helper()
	s, err := newStore(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(t testing.TB, s *store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestDiskIsMadeOnce asks for one disk from many sides.
func TestDiskIsMadeOnce(t *testing.T) {
	s := testStore(t)
	img := testImage(t, "hello")
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := s.disk(t.Context(), "acme", img); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := names(t, s)
	if len(got) != 2 || got[1] != fetch.Proof(got[0], "acme") {
		t.Fatalf("there are %v", got)
	}
	before, err := os.Stat(s.path(got[0]))
	if err != nil {
		t.Fatal(err)
	}
	// An agent that comes back finds it, and a disk half written is removed.
	if err := os.WriteFile(s.path(".new-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := newStore(s.dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.disk(t.Context(), "acme", img); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(s.path(got[0]))
	if err != nil || !os.SameFile(before, after) || len(names(t, s)) != 2 {
		t.Errorf("it was made anew, %v: %v", err, names(t, s))
	}
	if e2fsck, err := exec.LookPath("e2fsck"); err == nil {
		out, err := exec.Command(e2fsck, "-fn", s.path(got[0])).CombinedOutput()
		// The padding is what tar2ext4 leaves unset, and is of no account.
		if err != nil && !strings.Contains(string(out), "Padding at end of inode bitmap is not set") {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
	}
}

func TestDiskThatCannotBeMadeLeavesNothing(t *testing.T) {
	s := testStore(t)
	var refused *badImage
	if _, err := s.disk(t.Context(), "acme", imagetest.Image(t, v1.Config{}, imagetest.Layer(t, imagetest.Regular("../file", nil)))); !errors.As(err, &refused) {
		t.Errorf("a bad image gives %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.disk(gone, "acme", testImage(t, "hello")); !errors.Is(err, context.Canceled) {
		t.Errorf("given up, it gives %v", err)
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// told is an image that tells of the layers of another one.
type told struct {
	v1.Image
	layers func() ([]v1.Layer, error)
}

func (t *told) Layers() ([]v1.Layer, error) { return t.layers() }

// TestWordsOfLayersAreNoKeyToAnothersDisk: a manifest that lists what another's
// layers amount to is given nothing before it has shown the layers, once.
func TestWordsOfLayersAreNoKeyToAnothersDisk(t *testing.T) {
	s, img := testStore(t), testImage(t, "private")
	name, err := s.disk(t.Context(), "acme", img)
	if err != nil {
		t.Fatal(err)
	}
	none := errors.New("there is no such layer")
	if _, err := s.disk(t.Context(), "other", &told{img, func() ([]v1.Layer, error) { return nil, none }}); !errors.Is(err, none) {
		t.Errorf("without the layers, it gives %v", err)
	}
	var refused *badImage
	if _, err := s.disk(t.Context(), "other", &told{img, testImage(t, "another").Layers}); err == nil || !errors.As(err, &refused) {
		t.Errorf("with other layers, it gives %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.disk(gone, "other", img); !errors.Is(err, context.Canceled) {
		t.Errorf("given up, it gives %v", err)
	}
	if got := names(t, s); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
	if same, err := s.disk(t.Context(), "other", img); err != nil || same != name {
		t.Errorf("with the layers, it gives %s, %v", same, err)
	}
	if _, err := s.disk(t.Context(), "other", &told{img, func() ([]v1.Layer, error) { return nil, none }}); err != nil {
		t.Errorf("it was shown before: %v", err)
	}
}

// TestNobodyWaitsForAnothersRegistry, nor has its error.
func TestNobodyWaitsForAnothersRegistry(t *testing.T) {
	s, img := testStore(t), testImage(t, "hello")
	began, end := make(chan struct{}), make(chan struct{})
	broken := errors.New("the registry is gone")
	slow := &told{img, func() ([]v1.Layer, error) {
		close(began)
		<-end
		return nil, broken
	}}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.disk(t.Context(), "acme", slow)
		first <- err
	}()
	<-began
	if _, err := s.disk(t.Context(), "other", img); err != nil {
		t.Errorf("another tenant has %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.disk(gone, "acme", img); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits and gives up has %v", err)
	}
	go func() {
		_, err := s.disk(t.Context(), "acme", img)
		second <- err
	}()
	close(end)
	if err := <-first; !errors.Is(err, broken) {
		t.Errorf("whose registry is gone has %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("who waited has %v", err)
	}
}

func TestDiskOnAFullDiskLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root: run as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	s, err := newStore(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.disk(t.Context(), "acme", testImage(t, strings.Repeat("0123456789abcdef", 1<<18)))
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk gives %v", err)
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestDisksThatNobodyUsesGo(t *testing.T) {
	s := testStore(t)
	var disks []string
	for _, content := range []string{"used", "unused", "young"} {
		name, err := s.disk(t.Context(), "acme", testImage(t, content))
		if err != nil {
			t.Fatal(err)
		}
		disks = append(disks, name)
	}
	long := time.Now().Add(-time.Hour)
	for _, d := range disks[:2] {
		if err := os.Chtimes(s.path(d), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.collect(disks[:1], time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s); len(got) != 4 || slices.Contains(got, disks[1]) || slices.Contains(got, fetch.Proof(disks[1], "acme")) {
		t.Errorf("left: %v", got)
	}
}

func TestInitramfsHoldsTheModulesInTheirOrder(t *testing.T) {
	k, err := findKernel("", "", DefaultConfig().KernelRoots)
	if err != nil {
		t.Skipf("no kernel for guests: %v", err)
	}
	modules, err := k.load(append(slices.Clone(wantedModules), serialModule))
	if err != nil {
		t.Fatal(err)
	}
	at := make(map[string]int)
	for i, m := range modules {
		at[m.name] = i + 1
	}
	for _, pair := range [][2]string{{"virtio_ring", "virtio"}, {"virtio", "virtio_blk"}, {"virtio", "virtio_console"}, {"virtio_ring", "virtio_mmio"}} {
		if at[pair[0]] == 0 || at[pair[1]] < at[pair[0]] {
			t.Errorf("%s does not come before %s: %v", pair[0], pair[1], at)
		}
	}
	if _, err := k.load([]string{"no_such_module"}); err == nil {
		t.Error("a module that is not there is found")
	}
}

func TestCPIOIsReadByOthers(t *testing.T) {
	path, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is missing: install cpio")
	}
	var buf strings.Builder
	c := &cpio{out: &buf}
	c.add("dir", 0o040755, nil, 0, 0)
	c.add("dir/file", 0o100644, []byte("12345"), 0, 0)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-it", "--quiet")
	cmd.Stdin = strings.NewReader(buf.String())
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "dir\ndir/file\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestKernelThatIsMissingSaysWhatToInstall(t *testing.T) {
	if _, err := findKernel("", "", []string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), "linux-image-cloud-amd64") {
		t.Errorf("it says %v", err)
	}
	root := t.TempDir()
	for _, v := range []string{"6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-60-cloud-amd64"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "boot"), 0o755), os.WriteFile(filepath.Join(root, "boot/vmlinuz-"+v), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if v != "6.1.0-60-cloud-amd64" { // its modules are missing
			if err := os.MkdirAll(filepath.Join(root, "lib/modules", v), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if k, err := findKernel("", "", []string{root}); err != nil || k.version != "6.1.0-56-cloud-amd64" {
		t.Errorf("it finds %+v, %v", k, err)
	}
}

// BenchmarkDisk makes the disk of an image of 470 MB.
func BenchmarkDisk(b *testing.B) {
	part := make([]byte, 1<<20)
	for i := range part {
		part[i] = byte(i * 7)
	}
	var files []imagetest.File
	for i := range 470 {
		files = append(files, imagetest.Regular("usr/"+string(rune('a'+i%26))+"/"+strings.Repeat("x", i+1)[:min(i+1, 200)]+string(rune('a'+i/26)), part))
	}
	img := imagetest.Image(b, v1.Config{}, imagetest.Layer(b, files...))
	dir := b.TempDir()
	imagetest.Archive(b, dir, "big.tar", img)
	b.SetBytes(470 << 20)
	for b.Loop() {
		s := testStore(b)
		found, err := sourceOf(dir).Open(b.Context(), "oci-archive:"+dir+"/big.tar", "")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.disk(b.Context(), "acme", found.Image); err != nil {
			b.Fatal(err)
		}
		_ = found.Close()
		_ = os.RemoveAll(s.dir)
	}
}

func sourceOf(dir string) *image.Source { return &image.Source{Dirs: []string{dir}} }
