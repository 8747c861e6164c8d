package api

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
	"github.com/sovmesh/sovmesh/placement/residency"
)

// checkImage looks at how the image of a kind is named, before any node does.
func checkImage(kind placement.Kind, image string, s *placement.Setup, at func(string) residency.Value) error {
	if image == "" {
		return nil
	}
	where := at("image")
	wanted := ""
	if s != nil {
		wanted = s.ImageDigest
		if s.Server != nil {
			where = at("server")
		}
	}
	switch kind {
	case placement.KindContainer, placement.KindMicroVM:
		scheme, file, local := strings.Cut(image, ":")
		if local && (scheme == "oci-archive" || scheme == "oci-layout") {
			if !plainPath(file) {
				return jobError(where, "write "+scheme+":/path/of/it, below the image directory of the node", "%s names no absolute path", quoteWord(image))
			}
			return nil
		}
		if !imageReference.MatchString(image) {
			return jobError(where, "write registry.example/app@sha256:..., oci-archive:/path/image.tar or oci-layout:/path", "image cannot be %s", quoteWord(image))
		}
		if _, pinned, ok := strings.Cut(image, "@"); ok && wanted != "" && pinned != wanted {
			return jobError(at("image_digest"), "write one digest", "image and image_digest name two digests")
		}
	case placement.KindVM:
		switch u, err := url.Parse(image); {
		case strings.HasPrefix(image, "/"):
			if !plainPath(image) {
				return jobError(where, "write the path as it is, without .. and //", "image cannot be %s", quoteWord(image))
			}
		case strings.Contains(image, "://"):
			if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
				return jobError(where, "write https://host/path", "image cannot be %s", quoteWord(image))
			}
			if wanted == "" {
				return jobError(where, "add image_digest: sha256:... of the file", "an image from a URL needs the digest of its bytes")
			}
		case !catalogueName.MatchString(image):
			return jobError(where, "write a name of the catalogue such as debian-12, a path below the node's image directory, or a URL with image_digest", "image cannot be %s", quoteWord(image))
		}
	}
	return nil
}

// An image reference: registry and repository, with a tag or a digest.
// https://github.com/opencontainers/distribution-spec
var (
	imageReference = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:/-]{0,511}(@sha256:[0-9a-f]{64})?$`)
	catalogueName  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	fileName       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	digestWords    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)
