package image

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// layer is a layer on disk. What is read of it to its end has its digest, else
// the end is an error.
type layer struct {
	b     blobs
	about v1.Descriptor
	diff  v1.Hash
}

var _ v1.Layer = (*layer)(nil)

func (l *layer) Digest() (v1.Hash, error)            { return l.about.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diff, nil }
func (l *layer) Size() (int64, error)                { return l.about.Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.about.MediaType, nil }

// Compressed is the layer as it lies there.
func (l *layer) Compressed() (io.ReadCloser, error) {
	if l.about.Digest.Algorithm != "sha256" {
		return nil, fmt.Errorf("a digest of the kind %q is not checked here", l.about.Digest.Algorithm)
	}
	in, err := l.b.open(blobName(l.about.Digest))
	if err != nil {
		return nil, err
	}
	return &checked{in: in, close: in.Close, sum: sha256.New(), want: l.about.Digest, left: l.about.Size}, nil
}

// maxWindow bounds what a compressed layer makes its reader keep, in bytes.
const maxWindow = 64 << 20

// Uncompressed is the layer as a tar stream. Both digests are checked.
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	packed, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(packed, 64<<10)
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, errors.Join(err, packed.Close())
	}
	plain := io.Reader(in)
	end := func() {}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b: // RFC 1952
		plain, err = gzip.NewReader(in)
	case len(magic) == 4 && string(magic) == "\x28\xb5\x2f\xfd": // RFC 8878
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			plain, end = z, z.Close
		}
	default:
		err = nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("layer %s: %w", l.about.Digest, err), packed.Close())
	}
	return &checked{in: plain, sum: sha256.New(), want: l.diff, left: -1, rest: in, close: func() error {
		end()
		return packed.Close()
	}}, nil
}

// checked counts and hashes what is read through it.
type checked struct {
	in    io.Reader
	rest  io.Reader // read to its end when in has ended
	close func() error
	sum   hash.Hash
	want  v1.Hash
	left  int64 // bytes that are still to come; below 0 if unknown
	err   error
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.in.Read(p)
	_, _ = c.sum.Write(p[:n])
	if c.left >= 0 {
		if int64(n) > c.left {
			c.err = fmt.Errorf("layer %s is larger than its manifest says", c.want)
			return 0, c.err
		}
		c.left -= int64(n)
	}
	if err == io.EOF {
		err = c.verify()
	}
	c.err = err
	return n, err
}

func (c *checked) verify() error {
	if c.left > 0 {
		return fmt.Errorf("layer %s is cut off: %d bytes are missing", c.want, c.left)
	}
	if c.rest != nil {
		if _, err := io.Copy(io.Discard, c.rest); err != nil {
			return err
		}
	}
	if c.want.Algorithm != "sha256" || hex.EncodeToString(c.sum.Sum(nil)) != c.want.Hex {
		return fmt.Errorf("what lies at layer %s has another digest", c.want)
	}
	return io.EOF
}

func (c *checked) Close() error { return c.close() }
