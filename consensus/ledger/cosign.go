package ledger

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"filippo.io/mldsa"
)

// maxStamp is the last second of the year 9999. The specification allows
// larger ones; they are nobody's clock.
const maxStamp = 253402300799

// stampError is a signature whose time cannot be one.
type stampError struct {
	name  string
	stamp uint64
}

func (e *stampError) Error() string {
	return fmt.Sprintf("the cosignature of %s says it was made %d seconds after 1970, which is no time", e.name, e.stamp)
}

// Cosigner is a witness's secret key. One key belongs to one witness: the
// Ed25519 form does not sign the witness's name. Printing it shows its name,
// never the secret.
type Cosigner struct {
	public *Verifier
	seed   [SeedSize]byte
	sign   func(message []byte) ([]byte, error)
}

// NewCosigner makes a witness's key out of its secret seed, which must be
// random. The algorithm is [CosignatureEd25519] or [CosignatureMLDSA44].
func NewCosigner(name string, algorithm Algorithm, seed [SeedSize]byte) (*Cosigner, error) {
	c := &Cosigner{seed: seed}
	var public []byte
	switch algorithm {
	case CosignatureEd25519:
		key := ed25519.NewKeyFromSeed(seed[:])
		public = key.Public().(ed25519.PublicKey)
		c.sign = func(message []byte) ([]byte, error) { return ed25519.Sign(key, message), nil }
	case CosignatureMLDSA44:
		key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed[:])
		if err != nil {
			return nil, fmt.Errorf("key of witness %s: %w", name, err)
		}
		public = key.PublicKey().Bytes()
		c.sign = func(message []byte) ([]byte, error) { return key.Sign(nil, message, nil) }
	default:
		return nil, fmt.Errorf("a witness signs with an Ed25519 or ML-DSA-44 cosignature, not with %s", algorithm)
	}
	v, err := newVerifier(name, algorithm, public)
	if err != nil {
		return nil, err
	}
	c.public = v
	return c, nil
}

// ParseCosigner reads what [Cosigner.Secret] wrote.
func ParseCosigner(skey string) (*Cosigner, error) {
	name, algorithm, seed, err := parseSecret(skey)
	if err != nil {
		return nil, err
	}
	c, err := NewCosigner(name, algorithm, seed)
	if err == nil && c.Secret() != skey {
		err = fmt.Errorf("the secret key of %s has the id of another", name)
	}
	return c, err
}

// Verifier is the public half.
func (c *Cosigner) Verifier() *Verifier { return c.public }

// Secret is the skey, to be kept secret.
func (c *Cosigner) Secret() string { return secretText(c.public, c.seed) }

// String names the key without its secret.
func (c *Cosigner) String() string { return "secret key of " + c.public.name }

// Format keeps every verb of fmt away from the secret.
func (c *Cosigner) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// LogValue keeps the secret out of logs.
func (c *Cosigner) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Cosign states that at that time, to the second, the checkpoint was the
// largest consistent one the witness has seen of its log. Whoever calls it has
// checked that, and has stored the checkpoint: see [Judge].
func (c *Cosigner) Cosign(checkpoint Checkpoint, at time.Time) (Signature, error) {
	if err := checkpoint.validate(); err != nil {
		return Signature{}, err
	}
	stamp := at.Unix()
	if stamp <= 0 || stamp > maxStamp {
		return Signature{}, fmt.Errorf("a cosignature of %s cannot be made at %s", c.public.name, at)
	}
	message := cosigned(checkpoint, uint64(stamp))
	if c.public.algorithm == CosignatureMLDSA44 {
		message = subtreeCosigned(c.public.name, checkpoint, uint64(stamp))
	}
	signature, err := c.sign(message)
	if err != nil {
		return Signature{}, fmt.Errorf("cosign as %s: %w", c.public.name, err)
	}
	stamped := binary.BigEndian.AppendUint64(nil, uint64(stamp))
	return Signature{c.public.name, c.public.id, append(stamped, signature...)}, nil
}

// cosigned is the message of an Ed25519 cosignature
// (https://c2sp.org/tlog-cosignature, Ed25519 signed message).
func cosigned(c Checkpoint, stamp uint64) []byte {
	return []byte("cosignature/v1\ntime " + strconv.FormatUint(stamp, 10) + "\n" + c.body())
}

// subtreeCosigned is the message of an ML-DSA-44 cosignature over a whole tree
// (https://c2sp.org/tlog-cosignature, ML-DSA-44 signed message). It does not
// cover a checkpoint's extension lines.
func subtreeCosigned(name string, c Checkpoint, stamp uint64) []byte {
	m := []byte("subtree/v1\n\x00")
	m = append(append(m, byte(len(name))), name...)
	m = binary.BigEndian.AppendUint64(m, stamp)
	m = append(append(m, byte(len(c.Origin))), c.Origin...)
	m = binary.BigEndian.AppendUint64(m, 0)
	m = binary.BigEndian.AppendUint64(m, c.Size)
	return append(m, c.Root[:]...)
}
