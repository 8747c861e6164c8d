package ledger

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	// MaxProofHashes is the largest number of hashes of an inclusion or a
	// consistency proof: a tree is at most 62 levels high.
	MaxProofHashes = 63
	// MaxExtra is the largest extra data of a proof, in bytes.
	MaxExtra = 64 << 10
	// MaxProof is the largest proof that is read, in bytes.
	MaxProof = MaxCheckpoint + MaxExtra*4/3 + 8<<10
)

// Proof is a receipt: that an entry stands in a log, in the form of C2SP
// tlog-proof (https://c2sp.org/tlog-proof). Nothing in it is checked; [Verify]
// does that. Its file ends in .tlog-proof.
type Proof struct {
	// Extra is what the maker wanted to send along. Nobody signed it.
	Extra      []byte
	Index      uint64
	Hashes     []Hash
	Checkpoint *SignedCheckpoint
}

// Encode writes the proof in its one form, and refuses what would not be read.
func (p *Proof) Encode() ([]byte, error) {
	if p.Checkpoint == nil {
		return nil, fmt.Errorf("a proof has a checkpoint")
	}
	if len(p.Extra) > MaxExtra || len(p.Hashes) > MaxProofHashes {
		return nil, fmt.Errorf("a proof has at most %d bytes of extra data and %d hashes, not %d and %d", MaxExtra, MaxProofHashes, len(p.Extra), len(p.Hashes))
	}
	var b strings.Builder
	b.WriteString(proofHeader + "\n")
	if len(p.Extra) > 0 {
		b.WriteString("extra " + base64.StdEncoding.EncodeToString(p.Extra) + "\n")
	}
	b.WriteString("index " + strconv.FormatUint(p.Index, 10) + "\n")
	writeHashes(&b, p.Hashes)
	return append([]byte(b.String()+"\n"), p.Checkpoint.Encode()...), nil
}

// ParseProof reads what [Proof.Encode] writes and nothing else.
func ParseProof(data []byte) (*Proof, error) {
	if len(data) > MaxProof {
		return nil, fmt.Errorf("no proof: %d bytes are more than %d", len(data), MaxProof)
	}
	header, rest, _ := cutLine(string(data))
	if header != proofHeader {
		return nil, fmt.Errorf("no proof: it begins with %q, not with %s", shorten(header), proofHeader)
	}
	p := new(Proof)
	var err error
	if text, ok := strings.CutPrefix(rest, "extra "); ok {
		var line string
		line, rest, _ = cutLine(text)
		p.Extra, err = parseBase64(line)
		if err != nil || len(p.Extra) == 0 || len(p.Extra) > MaxExtra {
			return nil, fmt.Errorf("no proof: its extra data is not 1 to %d bytes in base64", MaxExtra)
		}
	}
	line, rest, ok := cutLine(rest)
	number, is := strings.CutPrefix(line, "index ")
	if !ok || !is {
		return nil, fmt.Errorf("no proof: it has %q where its index belongs", shorten(line))
	}
	if p.Index, err = parseNumber(number); err != nil {
		return nil, fmt.Errorf("no proof: its index: %w", err)
	}
	if p.Hashes, rest, err = parseHashes(rest); err != nil {
		return nil, fmt.Errorf("no proof: %w", err)
	}
	if p.Checkpoint, err = ParseSignedCheckpoint([]byte(rest)); err != nil {
		return nil, fmt.Errorf("proof of entry %d: %w", p.Index, err)
	}
	return p, nil
}

func writeHashes(b *strings.Builder, hashes []Hash) {
	for _, h := range hashes {
		b.WriteString(h.Text() + "\n")
	}
}

// parseHashes reads lines of hashes up to an empty line and gives what follows.
func parseHashes(text string) (hashes []Hash, rest string, err error) {
	for {
		line, rest, ok := cutLine(text)
		switch {
		case !ok:
			return nil, "", fmt.Errorf("no empty line ends its hashes")
		case line == "":
			return hashes, rest, nil
		case len(hashes) == MaxProofHashes:
			return nil, "", fmt.Errorf("it has more than %d hashes", MaxProofHashes)
		}
		h, err := ParseHash(line)
		if err != nil {
			return nil, "", err
		}
		hashes, text = append(hashes, h), rest
	}
}
