package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The pure half of the witness protocol (https://c2sp.org/tlog-witness): what
// is sent, what is answered, and what a witness decides. The transport, the
// clock and the store are the caller's.
const (
	// MaxAddCheckpoint is the largest request body, in bytes.
	MaxAddCheckpoint = MaxCheckpoint + 4<<10
	// SizeType is the media type of the answer that names the witness's size.
	SizeType = "text/x.tlog.size"

	// The statuses of a witness's no. They are HTTP's; net/http stays out.
	StatusBadRequest    = 400 // the old size is larger than the checkpoint's
	StatusForbidden     = 403 // the log has not signed
	StatusNotFound      = 404 // the witness does not know the log
	StatusConflict      = 409 // the old size is not the last one; see [SizeType]
	StatusUnprocessable = 422 // the proof is wrong, or the log was rewritten
)

// AddCheckpoint asks a witness to cosign a checkpoint that extends the one of
// OldSize, the last it cosigned of this log.
type AddCheckpoint struct {
	OldSize    uint64
	Hashes     []Hash // consistency proof; none when OldSize is 0
	Checkpoint *SignedCheckpoint
}

// Encode is the body of the request.
func (a *AddCheckpoint) Encode() ([]byte, error) {
	if len(a.Hashes) > MaxProofHashes || a.Checkpoint == nil {
		return nil, fmt.Errorf("a witness takes a checkpoint and at most %d hashes, not %d", MaxProofHashes, len(a.Hashes))
	}
	var b strings.Builder
	b.WriteString("old " + strconv.FormatUint(a.OldSize, 10) + "\n")
	writeHashes(&b, a.Hashes)
	return append([]byte(b.String()+"\n"), a.Checkpoint.Encode()...), nil
}

// ParseAddCheckpoint reads what [AddCheckpoint.Encode] writes and nothing else.
func ParseAddCheckpoint(data []byte) (*AddCheckpoint, error) {
	if len(data) > MaxAddCheckpoint {
		return nil, fmt.Errorf("no add-checkpoint request: %d bytes are more than %d", len(data), MaxAddCheckpoint)
	}
	line, rest, ok := cutLine(string(data))
	number, is := strings.CutPrefix(line, "old ")
	if !ok || !is {
		return nil, fmt.Errorf("no add-checkpoint request: it begins with %q, not with the old size", shorten(line))
	}
	a := new(AddCheckpoint)
	var err error
	if a.OldSize, err = parseNumber(number); err != nil {
		return nil, fmt.Errorf("no add-checkpoint request: its old size: %w", err)
	}
	if a.Hashes, rest, err = parseHashes(rest); err != nil {
		return nil, fmt.Errorf("no add-checkpoint request: %w", err)
	}
	if a.Checkpoint, err = ParseSignedCheckpoint([]byte(rest)); err != nil {
		return nil, fmt.Errorf("no add-checkpoint request: %w", err)
	}
	return a, nil
}

// EncodeSize is the body of an answer of type [SizeType].
func EncodeSize(size uint64) []byte { return append(strconv.AppendUint(nil, size, 10), '\n') }

// ParseSize reads the body of an answer of type [SizeType].
func ParseSize(data []byte) (uint64, error) {
	text, ok := strings.CutSuffix(string(data), "\n")
	n, err := parseNumber(text)
	if !ok || err != nil || n > MaxSize {
		return 0, fmt.Errorf("%q is no size of a log", shorten(string(data)))
	}
	return n, nil
}

// MonitorPath is the address, below a witness's monitoring prefix, of the last
// checkpoint it cosigned of a log.
func MonitorPath(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:]) + "/checkpoint"
}

// WitnessRefusal is a witness's no, with the HTTP status the protocol gives it.
type WitnessRefusal struct {
	Status int
	// Size is the size of the last checkpoint the witness cosigned. The answer
	// to status 409 carries it.
	Size uint64
	What string
}

func (e *WitnessRefusal) Error() string { return "not cosigned: " + e.What }

// Hint tells the log's operator how to go on.
func (e *WitnessRefusal) Hint() string {
	switch e.Status {
	case StatusConflict:
		return fmt.Sprintf("send a proof from size %d", e.Size)
	case StatusNotFound, StatusForbidden:
		return "give the log's public key to the witness's operator"
	case StatusUnprocessable:
		return "this log has signed what does not extend what it signed before; stop signing and find out why"
	}
	return "send the request that https://c2sp.org/tlog-witness describes"
}

// Judge decides whether a witness cosigns. keys are the log's, as the witness
// was configured; none for an unknown log. last is the head it cosigned last,
// with size 0 where it never did. A nil error means: store the checkpoint as
// the last, in one step with comparing the stored one with last, and only then
// cosign and answer. Its errors are of type [WitnessRefusal].
func Judge(keys []*Verifier, last Head, a *AddCheckpoint) error {
	c := a.Checkpoint.Unverified()
	no := func(status int, format string, args ...any) error {
		return &WitnessRefusal{status, last.Size, fmt.Sprintf("%s at size %d: ", c.Origin, c.Size) + fmt.Sprintf(format, args...)}
	}
	if !slices.ContainsFunc(keys, func(k *Verifier) bool { return k.name == c.Origin }) {
		return no(StatusNotFound, "this witness does not know the log")
	}
	if err := signedBy(keys, a.Checkpoint); err != nil {
		return no(StatusForbidden, "%v", err)
	}
	if a.OldSize > c.Size {
		return no(StatusBadRequest, "the old size %d is larger", a.OldSize)
	}
	if a.OldSize != last.Size {
		return no(StatusConflict, "the proof is from size %d, the last cosigned size is %d", a.OldSize, last.Size)
	}
	if last.Size == 0 {
		last.Root = NewTree().Root()
	}
	if c.Size == last.Size && c.Root != last.Root {
		return no(StatusUnprocessable, "another root was cosigned for this size: the log was rewritten")
	}
	if err := checkConsistency(last, c.Head(), a.Hashes); err != nil {
		return no(StatusUnprocessable, "it does not extend the checkpoint cosigned at size %d, or the proof is wrong", last.Size)
	}
	return nil
}

// signedBy asks for one good signature of the log, and for no bad one.
func signedBy(keys []*Verifier, s *SignedCheckpoint) error {
	signed := false
	for _, line := range s.signatures {
		for _, key := range keys {
			if key.name != s.checkpoint.Origin || !key.signs(line) {
				continue
			}
			if _, err := key.check(s.checkpoint, line); err != nil {
				return err
			}
			signed = signed || key.algorithm == Ed25519 || len(s.checkpoint.Extensions) == 0
		}
	}
	if !signed {
		return fmt.Errorf("the log has not signed it")
	}
	return nil
}

// AcceptCosignature takes from a witness's answer the signature that is of the
// key and over the checkpoint, and ignores those of other keys, as the protocol
// asks. It refuses an answer without one, with a wrong one, or with two.
func AcceptCosignature(witness *Verifier, c Checkpoint, answer []byte) (Signature, error) {
	lines, err := ParseSignatures(answer)
	if err != nil {
		return Signature{}, fmt.Errorf("the answer of witness %s: %w", witness.name, err)
	}
	var good *Signature
	for _, line := range lines {
		if !witness.signs(line) {
			continue
		}
		if _, err := witness.check(c, line); err != nil {
			return Signature{}, fmt.Errorf("the answer of witness %s: %w", witness.name, err)
		}
		if good != nil {
			return Signature{}, fmt.Errorf("the answer of witness %s: it signed twice", witness.name)
		}
		good = &line
	}
	if good == nil {
		return Signature{}, fmt.Errorf("the answer of witness %s: it has no signature of this key", witness.name)
	}
	return *good, nil
}
