package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// takeBundle keeps a bundle under the hash that it really has.
func (r *regionReader) takeBundle(file string, data []byte) error {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	if file != digest+".json" {
		return fmt.Errorf("%w: bundle %q of region %s has another hash", ErrArchive, shorten(file), r.desc.Name)
	}
	r.held[digest] = true
	return nil
}

// endBundles asks whether the certificates here are those that leaves name.
func (r *regionReader) endBundles() {
	for digest := range r.held {
		if !r.bundle[digest] && r.desc.First == 0 {
			r.v.f.fail(Origin, "region %s: no leaf names the certificates %s", r.desc.Name, digest)
		}
	}
	for digest := range r.bundle {
		if !r.held[digest] {
			r.v.f.fail(Completeness, "region %s: leaves name the certificates %s, which are not here", r.desc.Name, digest)
		}
	}
}
