//go:build linux

package vm

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
)

// Vendor is an image that jobs call by a short name: where its vendor publishes
// it, and how the vendor says which bytes it is. No checksum of an image stands
// here: it comes from the vendor's signed list, when the image is fetched.
type Vendor struct {
	Name   string `json:"name"`
	URL    string `json:"url"`
	Format Format `json:"format"`
	Sums   string `json:"sums"` // URL of the list of checksums
	// Signature is the URL of the list's detached signature, or "inline"; empty
	// is a vendor that does not sign.
	Signature string `json:"signature,omitempty"`
	// Key is the file, in "keys" of an image directory, that the operator put the
	// vendor's key in. Its primary key must have the fingerprint.
	Key         string `json:"key,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	KeysFrom    string `json:"keys_from,omitempty"`
}

// inline is the signature of a list that is signed in place.
const inline = "inline"

//go:embed catalogue.json
var catalogueFile []byte

// Catalogue is the built-in one.
func Catalogue() []Vendor {
	var all []Vendor
	if err := json.Unmarshal(catalogueFile, &all); err != nil {
		panic("vm: catalogue.json: " + err.Error())
	}
	return all
}

func names(all []Vendor) []string {
	var list []string
	for _, v := range all {
		list = append(list, v.Name)
	}
	return list
}

// verifyList checks that a list of checksums was signed by the vendor's key, and
// returns the text that the signature covers. signature is nil for a list that
// is signed in place.
func verifyList(list, signature, key []byte, fingerprint string) ([]byte, error) {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(key))
	if err != nil {
		if ring, err = openpgp.ReadKeyRing(bytes.NewReader(key)); err != nil {
			return nil, fmt.Errorf("the key cannot be read: %w", err)
		}
	}
	var trusted openpgp.EntityList
	for _, e := range ring {
		if strings.EqualFold(hex.EncodeToString(e.PrimaryKey.Fingerprint), fingerprint) {
			trusted = append(trusted, e)
		}
	}
	if len(trusted) == 0 {
		return nil, fmt.Errorf("no key with the fingerprint %s is in it", fingerprint)
	}
	if signature == nil {
		block, _ := clearsign.Decode(list)
		if block == nil {
			return nil, errors.New("the list of checksums is not signed")
		}
		if _, err := block.VerifySignature(trusted, nil); err != nil {
			return nil, fmt.Errorf("the signature of the list of checksums: %w", err)
		}
		return block.Plaintext, nil
	}
	check := openpgp.CheckDetachedSignature
	if bytes.HasPrefix(bytes.TrimSpace(signature), []byte("-----BEGIN")) {
		check = openpgp.CheckArmoredDetachedSignature
	}
	if _, err := check(trusted, bytes.NewReader(list), bytes.NewReader(signature), nil); err != nil {
		return nil, fmt.Errorf("the signature of the list of checksums: %w", err)
	}
	return list, nil
}

// The two forms of a line: coreutils' own, and BSD's.
var (
	sumLine = regexp.MustCompile(`^([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](\S+)$`)
	bsdLine = regexp.MustCompile(`^SHA(?:256|512) \((\S+)\) = ([0-9a-fA-F]{64}|[0-9a-fA-F]{128})$`)
)

// findSum finds the checksum of a file in a list, in lower case: SHA-256 or
// SHA-512 by its length. A file that is listed twice with different checksums is
// not found.
func findSum(list []byte, url string) (string, error) {
	name := path.Base(url)
	found := ""
	lines := bufio.NewScanner(bytes.NewReader(list))
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), " \t\r")
		sum := ""
		if m := sumLine.FindStringSubmatch(line); m != nil && m[2] == name {
			sum = m[1]
		} else if m := bsdLine.FindStringSubmatch(line); m != nil && m[1] == name {
			sum = m[2]
		}
		if sum = strings.ToLower(sum); sum == "" {
			continue
		}
		if found != "" && found != sum {
			return "", fmt.Errorf("the list has two checksums of %s", name)
		}
		found = sum
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read the list of checksums: %w", err)
	}
	if found == "" {
		return "", fmt.Errorf("the list has no checksum of %s", name)
	}
	return found, nil
}
