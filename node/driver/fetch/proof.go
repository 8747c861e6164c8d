package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
)

// Proof is the empty file beside a shared one that says that whose own source gave
// the same bytes, once. To know a digest is not to have the file: what lies there
// for others is somebody's only with it. Whose is a tenant's name, or another word
// that no tenant can make its own.
func Proof(file, whose string) string {
	sum := sha256.Sum256([]byte(whose))
	return file + "." + hex.EncodeToString(sum[:proofSize])
}

// proofSize is how much of a hash a proof's name has, in bytes; shortProof is what
// those of machines' images had before.
const (
	proofSize  = 16
	shortProof = 12
)

// Proven reports whether the file is there and whose source gave it.
func Proven(file, whose string) bool {
	proof := Proof(file, whose)
	return present(file) && (present(proof) || present(proof[:len(proof)-2*(proofSize-shortProof)]))
}

// Prove says that whose source gave the file. The caller sees that it is there, and
// that nobody removes it meanwhile.
func Prove(file, whose string) error { return os.WriteFile(Proof(file, whose), nil, 0o600) }

// Leftover reports whether a file is a proof, and whether what it is of is gone:
// whoever removes the shared file removes its proofs after it, or one could be
// taken for that of a file which came later.
func Leftover(path string) (proof, gone bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return false, false
	}
	if who, err := hex.DecodeString(path[i+1:]); err != nil || len(who) != proofSize && len(who) != shortProof {
		return false, false
	}
	_, err := os.Lstat(path[:i])
	return true, errors.Is(err, fs.ErrNotExist)
}

func present(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
