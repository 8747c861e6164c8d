//go:build linux

package microvm

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// wantedModules are what init needs of a kernel whose drivers are modules, beside
// its control channel's; what they need themselves comes before them.
var wantedModules = []string{"virtio_mmio", "virtio_blk"}

// overlayModule is what a writable root needs beside them.
const overlayModule = "overlay"

// guestKernel is what guests boot.
type guestKernel struct {
	file    string
	modules string // directory
	version string
}

// findKernel takes the newest cloud kernel of the distribution below one of
// the roots, unless one is named.
func findKernel(file, modules string, roots []string) (guestKernel, error) {
	if file != "" {
		version := strings.TrimPrefix(filepath.Base(file), "vmlinuz-")
		if modules == "" {
			modules = filepath.Join("/lib/modules", version)
		}
		_, err := os.Stat(file)
		return guestKernel{file, modules, version}, err
	}
	for _, root := range roots {
		found, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*-cloud-amd64"))
		slices.SortFunc(found, func(a, b string) int { return slices.Compare(numbers(b), numbers(a)) })
		for _, f := range found {
			version := strings.TrimPrefix(filepath.Base(f), "vmlinuz-")
			dir := filepath.Join(root, "lib/modules", version)
			if _, err := os.Stat(dir); err == nil {
				return guestKernel{f, dir, version}, nil
			}
		}
	}
	return guestKernel{}, fmt.Errorf("there is no vmlinuz-*-cloud-amd64 with its modules below %s: install linux-image-cloud-amd64, or name a kernel and its modules in the node's configuration", strings.Join(roots, ", "))
}

var digits = regexp.MustCompile(`\d+`)

// numbers are those in a name, which is how versions are compared.
func numbers(name string) []int {
	var all []int
	for _, d := range digits.FindAllString(filepath.Base(name), -1) {
		n, _ := strconv.Atoi(d)
		all = append(all, n)
	}
	return all
}

// module is a kernel module, unpacked.
type module struct {
	name string
	data []byte
}

// maxModule bounds a module's size in bytes.
const maxModule = 64 << 20

// modules are those wanted and what they need, in the order they must be loaded
// in: virtio_ring before virtio, for one.
func (k guestKernel) load(wanted []string) ([]module, error) {
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	inKernel := make(map[string]bool)
	for l := range strings.Lines(string(builtin)) {
		inKernel[moduleName(strings.TrimSpace(l))] = true
	}
	files := make(map[string]string)
	err = filepath.WalkDir(k.modules, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(e.Name(), ".ko") {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []module
	done := make(map[string]bool)
	var visit func(string) error
	visit = func(name string) error {
		if done[name] || inKernel[name] {
			return nil
		}
		done[name] = true
		if files[name] == "" {
			return fmt.Errorf("kernel %s has no module %s", k.version, name)
		}
		data, err := readModule(files[name])
		if err != nil {
			return err
		}
		needs, err := depends(data)
		if err != nil {
			return fmt.Errorf("%s: %w", files[name], err)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		order = append(order, module{name, data})
		return nil
	}
	for _, w := range wanted {
		if err := visit(w); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is a module's by its file; the kernel takes - for _.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := io.Reader(f)
	switch filepath.Ext(path) {
	case ".ko":
	case ".gz":
		if in, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	case ".zst":
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	default:
		return nil, fmt.Errorf("%s is packed in a way that is not read here: unpack it", path)
	}
	data, err := io.ReadAll(io.LimitReader(in, maxModule))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// depends reads what a module says that it needs, as depmod(8) does.
func depends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("it is no kernel module")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, line := range bytes.Split(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(strings.ReplaceAll(string(list), "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// initramfs makes the first root of guests, unless it is there: init, the
// modules in their order and the directories to mount upon. What only some guests
// need is only in theirs: loading a module takes time.
func (s *store) initramfs(ctx context.Context, k guestKernel, init string, more ...string) (string, error) {
	wanted := slices.Concat(wantedModules, more)
	program, err := os.ReadFile(init)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, "sovmesh initramfs 2", k.version, k.modules, wanted)
	_, _ = sum.Write(program)
	name := "initramfs-" + hex.EncodeToString(sum.Sum(nil)[:16]) + ".gz"
	return name, s.once(ctx, name, func(w *os.File) error {
		first, err := k.load(wanted)
		if err != nil {
			return err
		}
		all, err := k.load(append(slices.Clone(wanted), overlayModule))
		if err != nil {
			return err
		}
		z, _ := gzip.NewWriterLevel(w, gzip.BestCompression)
		c := &cpio{out: z}
		for _, dir := range []string{"dev", "proc", "sys", "image", "upper", "newroot", "cgroup", "modules"} {
			c.add(dir, 0o040755, nil, 0, 0)
		}
		c.add("dev/console", 0o020600, nil, 5, 1)
		c.add("init", 0o100755, program, 0, 0)
		var lists [2]strings.Builder
		for i, m := range all {
			c.add("modules/"+m.name+".ko", 0o100644, m.data, 0, 0)
			fmt.Fprintln(&lists[min(i/len(first), 1)], m.name+".ko")
		}
		c.add("modules/order", 0o100644, []byte(lists[0].String()), 0, 0)
		c.add("modules/overlay", 0o100644, []byte(lists[1].String()), 0, 0)
		return errors.Join(c.close(), z.Close())
	})
}

// kernel is the kernel's file where machines can read it.
func (s *store) kernel(ctx context.Context, k guestKernel) (string, error) {
	st, err := os.Stat(k.file)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("kernel-%s-%x", filepath.Base(k.version), st.ModTime().Unix())
	return name, s.once(ctx, name, func(w *os.File) error {
		f, err := os.Open(k.file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
}

// cpio writes an archive in the "newc" form that the kernel unpacks.
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
type cpio struct {
	out   io.Writer
	inode int
	err   error
}

func (c *cpio) add(name string, mode uint32, data []byte, major, minor int) {
	c.inode++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.put([]byte(head + name + "\x00"))
	c.pad(len(head) + len(name) + 1)
	c.put(data)
	c.pad(len(data))
}

func (c *cpio) put(p []byte) {
	if c.err == nil {
		_, c.err = c.out.Write(p)
	}
}

func (c *cpio) pad(n int) { c.put(make([]byte, (4-n%4)%4)) }

func (c *cpio) close() error {
	c.add("TRAILER!!!", 0, nil, 0, 0)
	return c.err
}
