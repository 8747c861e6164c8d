package witness

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/consensus/state"
	"github.com/sovmesh/sovmesh/placement"
)

// Keys are the two secrets of a region's ledger: what signs its own log, and
// what cosigns the logs of others. Voters alone have them, in a file beside the
// region's CA; no command, snapshot, leaf or log line ever does.
type Keys struct {
	log     *ledger.Signer
	witness *ledger.Cosigner
}

// NewKeys makes the keys of a new region. random is read for 64 bytes.
func NewKeys(region placement.RegionID, mesh string, random io.Reader) (*Keys, error) {
	if random == nil {
		random = rand.Reader
	}
	var seeds [2][ledger.SeedSize]byte
	for i := range seeds {
		if _, err := io.ReadFull(random, seeds[i][:]); err != nil {
			return nil, fmt.Errorf("read randomness: %w", err)
		}
	}
	log, err := ledger.NewSigner(state.LogOrigin(region, mesh, 0), seeds[0])
	if err != nil {
		return nil, err
	}
	witness, err := ledger.NewCosigner(state.WitnessName(region, mesh), ledger.CosignatureEd25519, seeds[1])
	return &Keys{log, witness}, err
}

// Marshal is the file: one secret key a line, the log's first.
func (k *Keys) Marshal() []byte { return []byte(k.log.Secret() + "\n" + k.witness.Secret() + "\n") }

// maxKeys bounds the file in bytes.
const maxKeys = 4 << 10

// ParseKeys reads what [Keys.Marshal] wrote, and nothing else. Its errors never
// quote the file.
func ParseKeys(data []byte) (*Keys, error) {
	lines := strings.Split(string(data), "\n")
	if len(data) > maxKeys || len(lines) != 3 || lines[2] != "" {
		return nil, errors.New("no keys of a ledger: the file has two lines, one secret key each")
	}
	log, err := ledger.ParseSigner(lines[0])
	if err != nil {
		return nil, err
	}
	witness, err := ledger.ParseCosigner(lines[1])
	if err != nil {
		return nil, err
	}
	return &Keys{log, witness}, nil
}

// Public gives the verifier keys, which the region's record and its card show.
func (k *Keys) Public() (log, witness string) {
	return k.log.Verifier().String(), k.witness.Verifier().String()
}

// Derive gives 32 bytes that only holders of the keys can have, others for each
// purpose (HKDF, RFC 5869). They stay the same as long as the log's key does.
func (k *Keys) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(k.log.Secret()), nil, "sovmesh "+purpose, 32)
}

// Of reports whether the keys are those of a region.
func (k *Keys) Of(region placement.RegionID, mesh string) bool {
	return k.log.Verifier().Name() == state.LogOrigin(region, mesh, 0) && k.witness.Verifier().Name() == state.WitnessName(region, mesh)
}

// Format keeps every verb of fmt away from the secrets.
func (k *Keys) Format(f fmt.State, _ rune) { fmt.Fprint(f, "secret keys of a ledger") }

// LogValue keeps the secrets out of logs.
func (k *Keys) LogValue() slog.Value { return slog.StringValue("secret keys of a ledger") }

// signer is the log's key under the origin that the log has now. It is an error
// if the region's record shows another key than the one held here.
func (k *Keys) signer(v *state.View) (*ledger.Signer, error) {
	s, err := k.log.Under(v.LogOrigin())
	if err != nil {
		return nil, err
	}
	if s.Verifier().String() != v.LogKey() {
		return nil, errors.New("the log key held by this node is not the one that the region was founded with; move its file away, a voter hands the right one over")
	}
	return s, nil
}
