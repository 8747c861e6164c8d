//go:build linux

package microvm

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// badImage is an image that no machine is made from.
type badImage struct{ reason string }

func (e *badImage) Error() string { return e.reason }

func bad(format string, args ...any) error { return &badImage{fmt.Sprintf(format, args...)} }

// Bounds of an image: entries, and the length of a name in bytes.
const (
	maxEntries = 1 << 20
	maxName    = 4096
)

// needed are directories that init mounts upon, which an image may lack.
var needed = []string{"proc", "sys", "dev", "tmp", "run"}

// flattener writes layers as one tar stream, the uppermost first: a name that was
// seen hides those below.
// https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md
type flattener struct {
	out     *tar.Writer
	left    int64 // bytes of content that are still taken
	entries int
	seen    map[string]bool     // name, and whether it is a directory
	hidden  map[string]struct{} // whited out, with all below, in the layers that follow
	opaque  map[string]struct{} // what is below it in the layers that follow is hidden
	links   []*tar.Header       // hard links, written last: their targets may come later
}

// flatten writes what the layers amount to, at most size bytes of content. A
// name that leads out of the image and a device are refused.
//
// diffs are the digests that the layers have by the image's configuration. A disk
// is known by them, so a layer that is not what they say would become the disk of
// everybody's image that says the same.
func flatten(layers []v1.Layer, diffs []v1.Hash, out io.Writer, size int64) error {
	if len(layers) != len(diffs) {
		return bad("it has %d layers, and its configuration tells of %d", len(layers), len(diffs))
	}
	f := &flattener{out: tar.NewWriter(out), left: size, seen: make(map[string]bool), hidden: make(map[string]struct{}), opaque: make(map[string]struct{})}
	for i := len(layers) - 1; i >= 0; i-- {
		if err := f.layer(layers[i], diffs[i]); err != nil {
			return err
		}
	}
	for _, l := range f.links {
		if err := f.out.WriteHeader(l); err != nil {
			return err
		}
	}
	for _, name := range needed {
		if _, there := f.seen[name]; there {
			continue
		}
		if err := f.out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	return f.out.Close()
}

// layer writes what is not hidden of one layer.
func (f *flattener) layer(l v1.Layer, diff v1.Hash) error {
	hides, opaque := make(map[string]struct{}), make(map[string]struct{})
	moved := make(map[string]string) // hidden file to the first link of its layer that is not
	skipped := make(map[string]bool)
	err := each(l, diff, func(h *tar.Header, content io.Reader) error {
		name, err := f.check(h)
		if err != nil || name == "." {
			return err
		}
		dir, base := path.Split(name)
		if base == ".wh..wh..opq" {
			opaque[path.Clean(dir)] = struct{}{}
			return nil
		}
		if what, ok := strings.CutPrefix(base, ".wh."); ok {
			hides[path.Join(dir, what)] = struct{}{}
			return nil
		}
		if f.isHidden(name) {
			skipped[name] = h.Typeflag == tar.TypeReg
			return nil
		}
		if h.Typeflag == tar.TypeLink && skipped[h.Linkname] {
			if first, ok := moved[h.Linkname]; ok {
				h.Linkname = first
			} else {
				moved[h.Linkname] = name // written by itself, below
				return nil
			}
		}
		return f.write(name, h, content)
	})
	if err == nil && len(moved) > 0 {
		err = f.moved(l, diff, moved)
	}
	for k := range hides {
		f.hidden[k] = struct{}{}
	}
	for k := range opaque {
		f.opaque[k] = struct{}{}
	}
	return err
}

// moved writes files whose own name is hidden while a link to them is not.
func (f *flattener) moved(l v1.Layer, diff v1.Hash, to map[string]string) error {
	return each(l, diff, func(h *tar.Header, content io.Reader) error {
		name := clean(h.Name)
		other, ok := to[name]
		if !ok || h.Typeflag != tar.TypeReg {
			return nil
		}
		return f.write(other, h, content)
	})
}

// each reads a layer to its end, which is when its digest is known to be right.
func each(l v1.Layer, diff v1.Hash, use func(*tar.Header, io.Reader) error) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	whole := io.TeeReader(r, sum)
	in := tar.NewReader(whole)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, whole)
			if got := hex.EncodeToString(sum.Sum(nil)); err == nil && (diff.Algorithm != "sha256" || got != diff.Hex) {
				err = bad("a layer is sha256:%s, and its configuration says %s", got, diff)
			}
			return err
		}
		if err == nil {
			err = use(h, in)
		}
		if err != nil {
			return err
		}
	}
}

// clean is a name without what means nothing. It begins with "../" if it leads out.
func clean(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// check refuses what no image should hold.
func (f *flattener) check(h *tar.Header) (string, error) {
	if f.entries++; f.entries > maxEntries {
		return "", bad("it holds more than %d files", maxEntries)
	}
	name := clean(h.Name)
	if len(name) > maxName || strings.ContainsRune(name, 0) || out(name) || strings.Contains("/"+h.Name+"/", "/../") {
		return "", bad("a layer holds a file whose name leads out of the image: %.200q", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		// An absolute one is the guest's own root; a relative one must not climb out.
		if len(h.Linkname) > maxName || (!path.IsAbs(h.Linkname) && out(path.Join(path.Dir(name), h.Linkname))) {
			return "", bad("a layer holds a link that leads out of the image: %.200q to %.200q", h.Name, h.Linkname)
		}
	case tar.TypeLink:
		target := clean(h.Linkname)
		if out(target) || strings.Contains("/"+h.Linkname+"/", "/../") {
			return "", bad("a layer holds a link that leads out of the image: %.200q to %.200q", h.Name, h.Linkname)
		}
		h.Linkname = target
	case tar.TypeChar, tar.TypeBlock:
		return "", bad("a layer holds a device: %.200q", h.Name)
	default:
		return "", bad("a layer holds a file of unknown kind %q: %.200q", h.Typeflag, h.Name)
	}
	return name, nil
}

func out(name string) bool { return name == ".." || strings.HasPrefix(name, "../") }

// isHidden reports whether a layer above has the name, or hides it.
func (f *flattener) isHidden(name string) bool {
	if _, there := f.seen[name]; there {
		return true
	}
	if _, gone := f.hidden[name]; gone {
		return true
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		_, gone := f.hidden[dir]
		_, opaque := f.opaque[dir]
		if isDir, there := f.seen[dir]; gone || opaque || (there && !isDir) {
			return true
		}
		if dir == "." {
			return false
		}
	}
}

func (f *flattener) write(name string, h *tar.Header, content io.Reader) error {
	f.seen[name] = h.Typeflag == tar.TypeDir
	c := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid,
		ModTime: h.ModTime, Format: tar.FormatPAX, PAXRecords: attributes(h),
	}
	switch h.Typeflag {
	case tar.TypeLink:
		c.Size = 0
		f.links = append(f.links, c)
		return nil
	case tar.TypeReg:
	default:
		c.Size = 0
	}
	if f.left -= c.Size; f.left < 0 {
		return bad("its files are larger than what this node takes")
	}
	if err := f.out.WriteHeader(c); err != nil {
		return err
	}
	if c.Size == 0 {
		return nil
	}
	_, err := io.Copy(f.out, content)
	return err
}

// attributes keeps the extended attributes of a file, and nothing else.
func attributes(h *tar.Header) map[string]string {
	var kept map[string]string
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") && len(v) <= 1024 {
			if kept == nil {
				kept = make(map[string]string)
			}
			kept[k] = v
		}
	}
	return kept
}
