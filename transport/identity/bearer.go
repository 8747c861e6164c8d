package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/sovmesh/sovmesh/placement"
)

const (
	bearerPrefix = "sm_"
	bearerBytes  = 32
)

// NewBearer makes a bearer token for users of a region:
// "sm_<region>_<base64url of 32 random bytes>". Only its hash is stored.
func NewBearer(region placement.RegionID) string {
	var b [bearerBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never returns an error
	return bearerPrefix + string(region) + "_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// HashBearer is what a region stores of a token and looks it up by. The token
// holds 256 random bits, so a plain hash cannot be searched.
func HashBearer(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// RegionOfBearer is the region that a token belongs to. A token of another
// region is refused before it is looked up, and is never sent on.
func RegionOfBearer(token string) (placement.RegionID, bool) {
	rest, ok := strings.CutPrefix(token, bearerPrefix)
	if !ok || len(rest) > 128 {
		return "", false
	}
	region, secret, ok := strings.Cut(rest, "_") // no region name holds "_"
	if !ok || !placement.ValidName(region) || strings.ContainsAny(secret, "\r\n") {
		return "", false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	return placement.RegionID(region), err == nil && len(b) == bearerBytes
}

// NewKeyringKey makes a key for a region's gossip keyring (AES-256).
func NewKeyringKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return key
}
