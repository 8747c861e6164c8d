// Package image finds OCI images and checks them while they are read.
//
// An image is named by a registry ("registry.example/app@sha256:..." or a tag),
// or lies on the node's disk as an OCI layout or as an archive of one. The rule:
// what is handed out has the digest that was asked for, byte by byte, and a path
// leads below the directories that the operator named, links resolved. A tag is
// asked for once; whoever keeps [Image.Digest] keeps to the same image.
// Drivers rely on it for what a container or a micro-VM is made from.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// The prefixes of images on disk; a path follows.
const (
	ArchivePrefix = "oci-archive:"
	LayoutPrefix  = "oci-layout:"
)

// Source says where images may come from.
type Source struct {
	// Dirs are the directories below which images on disk may lie.
	Dirs []string
	// AuthFile has the operator's accounts at registries, in the form of Docker's
	// config.json; empty is for none.
	AuthFile string
	// Transport reaches registries; nil is for none being reached.
	Transport http.RoundTripper
	// Plain lists registries that speak HTTP without TLS, as host or host:port.
	Plain []string
	// Mirrors replace the beginning of a name in a registry by another one, the
	// longest that fits. The digest is checked all the same.
	Mirrors map[string]string
	// Platform is what is chosen of an image for several; empty is linux/amd64.
	Platform v1.Platform
}

// Image is one that was found.
type Image struct {
	v1.Image // its own Digest is a method of this, and may be one platform's of an index
	// Digest is the manifest's, "sha256:" and 64 digits.
	Digest string
	// Name is what was asked for.
	Name  string
	close func() error
}

// Close frees what reading needs; the image cannot be read afterwards.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// Error is an image that cannot be had, in words for the job's author.
type Error struct {
	Name   string
	Reason string
	Advice string
	cause  error
}

func (e *Error) Error() string { return fmt.Sprintf("image %s: %s", e.Name, e.Reason) }

// Hint says what to do.
func (e *Error) Hint() string { return e.Advice }

// Unwrap is the error below.
func (e *Error) Unwrap() error { return e.cause }

func refuse(name, advice string, cause error, format string, args ...any) error {
	return &Error{Name: name, Reason: fmt.Sprintf(format, args...), Advice: advice, cause: cause}
}

// Open finds an image. digest, if not empty, is what its manifest must have. An
// *Error is final; any other may be gone at the next try.
func (s *Source) Open(ctx context.Context, ref, digest string) (*Image, error) {
	if ref == "" {
		return nil, refuse(ref, "write one: image: registry.example/app@sha256:...", nil, "the job names no image")
	}
	bare, pinned, _ := strings.Cut(ref, "@")
	if pinned != "" && digest != "" && pinned != digest {
		return nil, refuse(ref, "leave one of them out", nil, "its name and image_digest ask for different digests")
	}
	if digest == "" {
		digest = pinned
	}
	if digest != "" {
		if _, err := v1.NewHash(digest); err != nil || !strings.HasPrefix(digest, "sha256:") {
			return nil, refuse(ref, `write "sha256:" and 64 hexadecimal digits`, err, "%q is no digest", digest)
		}
	}
	switch {
	case strings.HasPrefix(bare, ArchivePrefix):
		return s.fromDisk(ref, strings.TrimPrefix(bare, ArchivePrefix), digest, openArchive)
	case strings.HasPrefix(bare, LayoutPrefix):
		return s.fromDisk(ref, strings.TrimPrefix(bare, LayoutPrefix), digest, openLayout)
	}
	return s.fromRegistry(ctx, ref, bare, digest)
}

// OnDisk reports whether a reference is a path of this node.
func OnDisk(ref string) bool {
	return strings.HasPrefix(ref, ArchivePrefix) || strings.HasPrefix(ref, LayoutPrefix)
}

// Resolve is the real path of one that lies below the directories.
func (s *Source) Resolve(ref, path string) (string, error) {
	advice := "ask the node's operator to put it below the image directory"
	if !filepath.IsAbs(path) {
		return "", refuse(ref, "write an absolute path", nil, "%s is not an absolute path", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", refuse(ref, advice, err, "there is no such file on the node: %s", path)
	}
	for _, dir := range s.Dirs {
		top, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		if inside, err := filepath.Rel(top, real); err == nil && filepath.IsLocal(inside) {
			return real, nil
		}
	}
	return "", refuse(ref, advice, nil, "%s is not below a directory that the node takes images from", path)
}

func (s *Source) fromDisk(ref, path, digest string, open func(string) (blobs, error)) (*Image, error) {
	real, err := s.Resolve(ref, path)
	if err != nil {
		return nil, err
	}
	b, err := open(real)
	if err != nil {
		return nil, refuse(ref, "make it anew, for example with skopeo copy", err, "it cannot be read: %v", err)
	}
	img, err := choose(b, digest, s.platform())
	if err != nil {
		return nil, errors.Join(refuse(ref, "see what it holds, for example with skopeo inspect", err, "%v", err), b.Close())
	}
	return &Image{Image: img, Digest: img.digest.String(), Name: ref, close: b.Close}, nil
}

func (s *Source) platform() v1.Platform {
	if s.Platform.OS == "" {
		return v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	return s.Platform
}

func (s *Source) fromRegistry(ctx context.Context, ref, bare, digest string) (*Image, error) {
	if s.Transport == nil {
		return nil, refuse(ref, "name an image on its disk: oci-archive:/path or oci-layout:/path", nil, "this node reaches no registry")
	}
	target := s.mirrored(bare)
	if digest != "" {
		if at := strings.LastIndexByte(target, ':'); at > strings.LastIndexByte(target, '/') {
			target = target[:at] // a digest leaves nothing for the tag to say
		}
		target += "@" + digest
	}
	var opts []name.Option
	for _, host := range s.Plain {
		if strings.HasPrefix(target, host+"/") {
			opts = append(opts, name.Insecure)
		}
	}
	parsed, err := name.ParseReference(target, opts...)
	if err != nil {
		return nil, refuse(ref, "write it as registry/name@sha256:...", err, "its name is none: %v", err)
	}
	remotes := []remote.Option{remote.WithContext(ctx), remote.WithTransport(s.Transport), remote.WithPlatform(s.platform())}
	known, err := readAccounts(s.AuthFile)
	if err != nil {
		return nil, err
	}
	if known != nil {
		remotes = append(remotes, remote.WithAuthFromKeychain(known))
	}
	img, err := remote.Image(parsed, remotes...)
	if err != nil {
		var answer *transport.Error
		if errors.As(err, &answer) && answer.StatusCode >= 400 && answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests {
			return nil, refuse(ref, "check its name, and the node's account at the registry", err, "the registry refuses it: %v", err)
		}
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	got, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	// For an image of several platforms the digest is the index's: remote has
	// checked it, and pins what was chosen of it.
	if digest == "" {
		digest = got.String()
	}
	return &Image{Image: img, Digest: digest, Name: ref}, nil
}

// mirrored is the name with its beginning replaced.
func (s *Source) mirrored(ref string) string {
	best := ""
	for from := range s.Mirrors {
		if len(from) > len(best) && (ref == from || strings.HasPrefix(ref, strings.TrimSuffix(from, "/")+"/")) {
			best = from
		}
	}
	if best == "" {
		return ref
	}
	return strings.TrimSuffix(s.Mirrors[best], "/") + strings.TrimPrefix(ref, strings.TrimSuffix(best, "/"))
}

var _ io.Closer = (*Image)(nil)
