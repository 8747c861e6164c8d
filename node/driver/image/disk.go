package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxManifest bounds an index, a manifest and an image's config, in bytes;
// maxEntries the files of an archive.
const (
	maxManifest = 4 << 20
	maxEntries  = 10_000
)

// blobs are the files of an OCI image layout.
// https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
type blobs interface {
	// open finds a file by its name in the layout.
	open(name string) (io.ReadCloser, error)
	io.Closer
}

// layout is a directory. Its root keeps links from leading out.
type layout struct{ *os.Root }

func openLayout(dir string) (blobs, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return layout{r}, nil
}

func (l layout) open(name string) (io.ReadCloser, error) {
	f, err := l.Root.Open(name)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a file", name)
	}
	return f, nil
}

// archive is a tar file of a layout, read where it lies.
type archive struct {
	*os.File
	at map[string][2]int64 // name to offset and size
}

func openArchive(file string) (blobs, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	a := &archive{File: f, at: make(map[string][2]int64)}
	if err := a.index(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("not an archive of an OCI layout: %w", err)
	}
	return a, nil
}

func (a *archive) index() error {
	in := tar.NewReader(a.File) // a file: what is skipped is not read
	for len(a.at) < maxEntries {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		offset, err := a.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		a.at[path.Clean(h.Name)] = [2]int64{offset, h.Size}
	}
	return fmt.Errorf("more than %d files", maxEntries)
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	place, ok := a.at[name]
	if !ok {
		return nil, fmt.Errorf("it has no %s", name)
	}
	return io.NopCloser(io.NewSectionReader(a.File, place[0], place[1])), nil
}

// small reads a file of words.
func small(b blobs, name string) ([]byte, error) {
	r, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxManifest)
	}
	return data, err
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// blob reads a file of words that must have a digest.
func blob(b blobs, h v1.Hash) ([]byte, error) {
	if h.Algorithm != "sha256" {
		return nil, fmt.Errorf("a digest of the kind %q is not checked here", h.Algorithm)
	}
	data, err := small(b, blobName(h))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != h.Hex {
		return nil, fmt.Errorf("what lies at %s has another digest", h)
	}
	return data, nil
}

// choose finds the image in a layout: the one of that digest, or else the only
// one for the platform.
func choose(b blobs, digest string, want v1.Platform) (*onDisk, error) {
	data, err := small(b, "index.json")
	if err != nil {
		return nil, err
	}
	found, err := search(b, data, digest, want, 0)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0 && digest != "":
		return nil, fmt.Errorf("it holds no image %s for %s/%s", digest, want.OS, want.Architecture)
	case len(found) == 0:
		return nil, fmt.Errorf("it holds no image for %s/%s", want.OS, want.Architecture)
	case len(found) > 1:
		return nil, fmt.Errorf("it holds %d images: say which by image_digest", len(found))
	}
	return found[0], nil
}

// search goes through an index and those within. Below an index that has the
// digest itself, every image for the platform is meant.
func search(b blobs, data []byte, digest string, want v1.Platform, depth int) ([]*onDisk, error) {
	if depth > 3 {
		return nil, fmt.Errorf("its indexes are nested too deep")
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read an index: %w", err)
	}
	var all []*onDisk
	seen := make(map[v1.Hash]bool)
	for _, d := range index.Manifests {
		if len(all) > 16 || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if d.MediaType.IsIndex() {
			inner, err := blob(b, d.Digest)
			if err != nil {
				return nil, err
			}
			below := digest
			if d.Digest.String() == digest {
				below = ""
			}
			more, err := search(b, inner, below, want, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		if !d.MediaType.IsImage() || (digest != "" && d.Digest.String() != digest) || (d.Platform != nil && !d.Platform.Satisfies(want)) {
			continue
		}
		img, err := load(b, d.Digest)
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

// onDisk is an image in a layout.
type onDisk struct {
	v1.Image
	digest v1.Hash
}

// core is what partial makes an image of.
type core struct {
	b           blobs
	raw, config []byte
	manifest    *v1.Manifest
	diffs       []v1.Hash
}

func load(b blobs, h v1.Hash) (*onDisk, error) {
	raw, err := blob(b, h)
	if err != nil {
		return nil, err
	}
	c := &core{b: b, raw: raw}
	if c.manifest, err = v1.ParseManifest(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if c.config, err = blob(b, c.manifest.Config.Digest); err != nil {
		return nil, err
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(c.config, &config); err != nil {
		return nil, fmt.Errorf("read the image's config: %w", err)
	}
	if c.diffs = config.RootFS.DiffIDs; len(c.diffs) != len(c.manifest.Layers) {
		return nil, fmt.Errorf("its config speaks of %d layers, its manifest of %d", len(c.diffs), len(c.manifest.Layers))
	}
	img, err := partial.CompressedToImage(c)
	if err != nil {
		return nil, err
	}
	return &onDisk{Image: layered{img, c}, digest: h}, nil
}

func (c *core) MediaType() (types.MediaType, error) { return c.manifest.MediaType, nil }
func (c *core) RawManifest() ([]byte, error)        { return c.raw, nil }
func (c *core) RawConfigFile() ([]byte, error)      { return c.config, nil }

func (c *core) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return c.layer(h)
}

func (c *core) layer(h v1.Hash) (*layer, error) {
	for i, d := range c.manifest.Layers {
		if d.Digest == h {
			return &layer{b: c.b, about: d, diff: c.diffs[i]}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", h)
}

// layered hands out layers that check themselves in both forms.
type layered struct {
	v1.Image
	c *core
}

func (l layered) Layers() ([]v1.Layer, error) {
	var all []v1.Layer
	for i, d := range l.c.manifest.Layers {
		all = append(all, &layer{b: l.c.b, about: d, diff: l.c.diffs[i]})
	}
	return all, nil
}

func (l layered) LayerByDigest(h v1.Hash) (v1.Layer, error) { return l.c.layer(h) }

func (l layered) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	for i, d := range l.c.diffs {
		if d == h {
			return &layer{b: l.c.b, about: l.c.manifest.Layers[i], diff: d}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", h)
}
