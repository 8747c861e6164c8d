package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"filippo.io/mldsa"
)

// Algorithm is a signature type of C2SP's signed notes
// (https://c2sp.org/signed-note, signature types).
type Algorithm byte

const (
	// Ed25519 signs a note's text as it is: what a log does.
	Ed25519 Algorithm = 0x01
	// CosignatureEd25519 signs a checkpoint and a time: cosignature/v1.
	CosignatureEd25519 Algorithm = 0x04
	// CosignatureMLDSA44 does so with ML-DSA-44, which holds against quantum
	// computers. A log may sign with it as well.
	CosignatureMLDSA44 Algorithm = 0x06
)

// String is the name people know the algorithm by.
func (a Algorithm) String() string {
	switch a {
	case Ed25519:
		return "Ed25519"
	case CosignatureEd25519:
		return "Ed25519 cosignature"
	case CosignatureMLDSA44:
		return "ML-DSA-44 cosignature"
	}
	return fmt.Sprintf("signature type 0x%02x", byte(a))
}

// publicSize is 0 for what this program does not know.
func (a Algorithm) publicSize() int {
	switch a {
	case Ed25519, CosignatureEd25519:
		return ed25519.PublicKeySize
	case CosignatureMLDSA44:
		return mldsa.MLDSA44PublicKeySize
	}
	return 0
}

// SeedSize is the length of the secret that every kind of key is made from.
const SeedSize = 32

const (
	maxName = 255 // of a key, and so of an origin: ML-DSA's message counts it in a byte
	maxKey  = 4096
)

// Verifier is a public key with its name. It checks signatures of its own
// algorithm only. It is immutable.
type Verifier struct {
	name      string
	algorithm Algorithm
	public    string // the bytes; a string so that keys compare
	id        uint32
	mldsa     *mldsa.PublicKey
}

func newVerifier(name string, algorithm Algorithm, public []byte) (*Verifier, error) {
	if !validName(name) {
		return nil, fmt.Errorf("%q is no name of a key: it has 1 to %d bytes, no space, no plus", shorten(name), maxName)
	}
	if size := algorithm.publicSize(); size == 0 || len(public) != size {
		return nil, fmt.Errorf("key %s: %s with %d bytes; this program knows Ed25519 (0x01), its cosignature (0x04) and ML-DSA-44 (0x06)", name, algorithm, len(public))
	}
	v := &Verifier{name: name, algorithm: algorithm, public: string(public)}
	if algorithm == CosignatureMLDSA44 {
		key, err := mldsa.NewPublicKey(mldsa.MLDSA44(), public)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		v.mldsa = key
	}
	sum := sha256.Sum256(append([]byte(name+"\n"+string(rune(algorithm))), public...))
	v.id = binary.BigEndian.Uint32(sum[:])
	return v, nil
}

// ParseVerifier reads a vkey, <name>+<hex id>+<base64 of type and key>, in its
// one right form: the id is recomputed, so that a name cannot be put on
// another's key by accident.
func ParseVerifier(vkey string) (*Verifier, error) {
	name, algorithm, public, err := parseKey(vkey)
	if err != nil {
		return nil, err
	}
	v, err := newVerifier(name, algorithm, public)
	if err != nil {
		return nil, err
	}
	if v.String() != vkey {
		return nil, fmt.Errorf("%q is no key: its id is not that of its name and bytes, %08x", shorten(vkey), v.id)
	}
	return v, nil
}

// parseKey splits what public and secret keys have in common.
func parseKey(text string) (name string, algorithm Algorithm, key []byte, err error) {
	parts := strings.SplitN(text, "+", 3) // base64 has pluses of its own
	if len(text) > maxKey || len(parts) != 3 {
		return "", 0, nil, fmt.Errorf("%q is no key: a key is <name>+<8 hex digits>+<base64>", shorten(text))
	}
	key, err = parseBase64(parts[2])
	if err != nil || len(key) < 1 {
		return "", 0, nil, fmt.Errorf("%q is no key: what is behind its id is no base64", shorten(text))
	}
	return parts[0], Algorithm(key[0]), key[1:], nil
}

// Name is the key's name: a log's origin, or how a witness calls itself.
func (v *Verifier) Name() string { return v.name }

// ID is the key's short id on signature lines.
func (v *Verifier) ID() uint32 { return v.id }

// Algorithm is the one the key signs with.
func (v *Verifier) Algorithm() Algorithm { return v.algorithm }

// String is the vkey.
func (v *Verifier) String() string { return keyText(v.name, v.id, v.algorithm, []byte(v.public)) }

// samePublicKey reports whether two keys are one under whatever name or type.
func (v *Verifier) samePublicKey(w *Verifier) bool { return v.public == w.public }

func keyText(name string, id uint32, algorithm Algorithm, key []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, id, base64.StdEncoding.EncodeToString(append([]byte{byte(algorithm)}, key...)))
}

// validName reports what https://c2sp.org/signed-note asks of a key's name.
func validName(name string) bool {
	bad := func(r rune) bool { return r == '+' || r < ' ' || unicode.IsSpace(r) }
	return name != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.ContainsFunc(name, bad)
}

// signs reports whether the line claims to be this key's.
func (v *Verifier) signs(s Signature) bool { return s.Name == v.name && s.ID == v.id }

// check judges one signature. The time is zero where the algorithm has none, or
// where an ML-DSA cosigner says nothing about time.
func (v *Verifier) check(c Checkpoint, s Signature) (time.Time, error) {
	bad := fmt.Errorf("the signature of %s is not over this checkpoint", v.name)
	if !v.signs(s) {
		return time.Time{}, bad
	}
	if v.algorithm == Ed25519 {
		if !ed25519.Verify([]byte(v.public), []byte(c.body()), s.Bytes) {
			return time.Time{}, bad
		}
		return time.Time{}, nil
	}
	if len(s.Bytes) < 8 {
		return time.Time{}, bad
	}
	stamp, signature := binary.BigEndian.Uint64(s.Bytes), s.Bytes[8:]
	if stamp > maxStamp || stamp == 0 && v.algorithm == CosignatureEd25519 {
		return time.Time{}, &stampError{v.name, stamp}
	}
	if v.algorithm == CosignatureEd25519 && !ed25519.Verify([]byte(v.public), cosigned(c, stamp), signature) ||
		v.algorithm == CosignatureMLDSA44 && mldsa.Verify(v.mldsa, subtreeCosigned(v.name, c, stamp), signature, nil) != nil {
		return time.Time{}, bad
	}
	if stamp == 0 {
		return time.Time{}, nil
	}
	return time.Unix(int64(stamp), 0).UTC(), nil
}

// Signer is a log's secret key. Printing it shows its name, never the secret.
type Signer struct {
	public *Verifier
	seed   [SeedSize]byte
	key    ed25519.PrivateKey
}

// NewSigner makes a log's key out of its secret seed, which must be random. The
// name is the log's origin.
func NewSigner(origin string, seed [SeedSize]byte) (*Signer, error) {
	key := ed25519.NewKeyFromSeed(seed[:])
	public, err := newVerifier(origin, Ed25519, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &Signer{public, seed, key}, nil
}

// ParseSigner reads what [Signer.Secret] wrote.
func ParseSigner(skey string) (*Signer, error) {
	name, algorithm, seed, err := parseSecret(skey)
	if err != nil {
		return nil, err
	}
	if algorithm != Ed25519 {
		return nil, fmt.Errorf("the secret key of %s is of type %s, a log's is Ed25519", name, algorithm)
	}
	s, err := NewSigner(name, seed)
	if err == nil && s.Secret() != skey {
		err = fmt.Errorf("the secret key of %s has the id of another", name)
	}
	return s, err
}

// Verifier is the public half.
func (s *Signer) Verifier() *Verifier { return s.public }

// Secret is the skey, PRIVATE+KEY+<name>+<hex id>+<base64>, to be kept secret.
func (s *Signer) Secret() string { return secretText(s.public, s.seed) }

// String names the key without its secret.
func (s *Signer) String() string { return "secret key of " + s.public.name }

// Format keeps every verb of fmt away from the secret.
func (s *Signer) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue keeps the secret out of logs.
func (s *Signer) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Sign signs a checkpoint of the key's own log, and of no other.
func (s *Signer) Sign(c Checkpoint) (Signature, error) {
	if err := c.validate(); err != nil {
		return Signature{}, err
	}
	if c.Origin != s.public.name {
		return Signature{}, fmt.Errorf("the key of log %s does not sign a checkpoint of %s", s.public.name, c.Origin)
	}
	return Signature{s.public.name, s.public.id, ed25519.Sign(s.key, []byte(c.body()))}, nil
}

const secretPrefix = "PRIVATE+KEY+"

func secretText(v *Verifier, seed [SeedSize]byte) string {
	return secretPrefix + keyText(v.name, v.id, v.algorithm, seed[:])
}

// parseSecret never quotes its input in an error: it is a secret.
func parseSecret(skey string) (name string, algorithm Algorithm, seed [SeedSize]byte, err error) {
	text, ok := strings.CutPrefix(skey, secretPrefix)
	name, algorithm, key, err := parseKey(text)
	if !ok || err != nil || len(key) != SeedSize {
		return "", 0, seed, fmt.Errorf("no secret key: it is PRIVATE+KEY+<name>+<8 hex digits>+<base64 of 33 bytes>, and has %d bytes", len(skey))
	}
	return name, algorithm, [SeedSize]byte(key), nil
}
