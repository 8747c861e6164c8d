//go:build linux

package container

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// Bounds of one layer, unpacked.
const (
	maxLayerBytes   = 256 << 30
	maxLayerEntries = 10_000_000
)

// check gives an image whose layers are looked through as they are read: at the end
// of one that is not what it should be stands an error in the place of io.EOF.
// Engines refuse such a layer too; this says which, and why.
func check(img v1.Image) v1.Image { return checked{img} }

type checked struct{ v1.Image }

// wrongLayer is a layer that is not what it should be.
type wrongLayer struct{ reason, advice string }

func (e wrongLayer) Error() string { return e.reason }

// Hint says what can be done.
func (e wrongLayer) Hint() string { return e.advice }

func otherDigest(h v1.Hash) error {
	return wrongLayer{"the image's part " + h.String() + " has another digest: it was damaged or changed", "get the image anew, from where it was made"}
}

// Layers are the image's, checked.
func (c checked) Layers() ([]v1.Layer, error) {
	all, err := c.Image.Layers()
	for i, l := range all {
		all[i] = checkedLayer{l}
	}
	return all, err
}

// LayerByDigest is one of the image's layers, checked.
func (c checked) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	l, err := c.Image.LayerByDigest(h)
	return checkedLayer{l}, err
}

// LayerByDiffID is one of the image's layers, checked.
func (c checked) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	l, err := c.Image.LayerByDiffID(h)
	return checkedLayer{l}, err
}

type checkedLayer struct{ v1.Layer }

// Compressed is the layer as it is stored.
func (l checkedLayer) Compressed() (io.ReadCloser, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	diffID, err := l.DiffID()
	if err != nil {
		return nil, err
	}
	stored, err := l.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	c := &checkReader{stored: stored, digest: digest, sum: sha256.New(), scan: w, result: make(chan error, 1)}
	go func() {
		err := scan(r, diffID)
		_, _ = io.Copy(io.Discard, r) // the rest is read all the same
		c.result <- err
	}()
	return c, nil
}

// checkReader reads a stored layer and has it looked through meanwhile.
type checkReader struct {
	stored io.ReadCloser
	digest v1.Hash
	sum    hash.Hash
	scan   *io.PipeWriter
	result chan error // of the scan
	done   bool
	bad    error
}

func (c *checkReader) Read(p []byte) (int, error) {
	if c.done {
		return 0, c.bad
	}
	n, err := c.stored.Read(p)
	_, _ = c.sum.Write(p[:n])
	_, _ = c.scan.Write(p[:n])
	if err == nil {
		return n, nil
	}
	c.done, c.bad = true, err
	_ = c.scan.CloseWithError(err)
	if err == io.EOF {
		found := <-c.result
		if hex.EncodeToString(c.sum.Sum(nil)) != c.digest.Hex {
			c.bad = otherDigest(c.digest)
		} else if found != nil {
			c.bad = found
		}
	} else {
		<-c.result
	}
	return n, c.bad
}

// Close ends the reading; what was not read is not judged.
func (c *checkReader) Close() error {
	if !c.done {
		c.done, c.bad = true, io.ErrClosedPipe
		_ = c.scan.CloseWithError(io.ErrClosedPipe)
		<-c.result
	}
	return c.stored.Close()
}

// scan looks through a layer.
func scan(stored io.Reader, diffID v1.Hash) error {
	plain, err := decompress(stored)
	if err != nil {
		return wrongLayer{fmt.Sprintf("a layer of the image cannot be unpacked: %v", err), "get the image anew"}
	}
	sum := sha256.New()
	all := io.TeeReader(io.LimitReader(plain, maxLayerBytes+1), sum)
	if err := entries(all); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, all)
	if err != nil || n > maxLayerBytes {
		return wrongLayer{fmt.Sprintf("a layer of the image cannot be unpacked: %v", err), "get the image anew"}
	}
	if hex.EncodeToString(sum.Sum(nil)) != diffID.Hex {
		return otherDigest(diffID)
	}
	return nil
}

// decompress reads what is packed in one of the ways that layers are.
func decompress(stored io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(stored, 64<<10)
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(b)
	case string(head) == "\x28\xb5\x2f\xfd":
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return b, nil
}

// entries looks through the entries of a layer, a tar: none may lead out of the
// image's root or be a device.
func entries(layer io.Reader) error {
	r := tar.NewReader(layer)
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return wrongLayer{fmt.Sprintf("a layer of the image is no tar: %v", err), "get the image anew"}
		}
		if n >= maxLayerEntries {
			return wrongLayer{fmt.Sprintf("a layer of the image has more than %d entries", maxLayerEntries), "make the image of fewer files"}
		}
		if why := wrong(h); why != "" {
			return wrongLayer{fmt.Sprintf("a layer of the image holds %.200q, %s", h.Name, why), "it was not made by an ordinary tool: do not trust where it came from"}
		}
	}
}

// wrong says what is wrong with an entry.
func wrong(h *tar.Header) string {
	up := func(name string) bool {
		return slices.Contains(strings.Split(path.Clean("./"+name), "/"), "..") || slices.Contains(strings.Split(name, "/"), "..")
	}
	switch {
	case up(h.Name):
		return "which leads out of its root"
	case h.Typeflag == tar.TypeLink && up(h.Linkname):
		return fmt.Sprintf("a link to %.200q, which leads out of its root", h.Linkname)
	case h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock:
		return fmt.Sprintf("a device node (%d:%d)", h.Devmajor, h.Devminor)
	}
	return ""
}
