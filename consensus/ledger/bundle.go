package ledger

import (
	"encoding/binary"
	"fmt"
)

// MaxBundle is the largest encoding of a bundle of entries, in bytes.
const MaxBundle = TileWidth * (2 + MaxLeaf)

// AppendEntry adds an entry to a bundle: its length in two bytes, big endian,
// and its bytes (https://c2sp.org/tlog-tiles, log entries).
func AppendEntry(bundle, entry []byte) ([]byte, error) {
	if len(entry) > MaxLeaf {
		return bundle, fmt.Errorf("an entry of %d bytes is larger than the %d of a bundle's", len(entry), MaxLeaf)
	}
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...), nil
}

// ParseBundle gives the entries of a bundle of that width. A wider version of
// the same bundle does as well, cut to the width: a log may have dropped the
// partial one. Everything must be read to its end either way. The entries
// share the bundle's memory.
func ParseBundle(bundle []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth {
		return nil, fmt.Errorf("a bundle has 1 to %d entries, not %d", TileWidth, width)
	}
	entries := make([][]byte, 0, width)
	for rest := bundle; len(rest) > 0; {
		if len(entries) == TileWidth {
			return nil, fmt.Errorf("a bundle has bytes behind its %d entries", TileWidth)
		}
		if len(rest) < 2 {
			return nil, fmt.Errorf("a bundle ends in the length of its entry %d", len(entries))
		}
		n := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; len(rest) < n {
			return nil, fmt.Errorf("a bundle ends in its entry %d: %d bytes of %d", len(entries), len(rest), n)
		}
		entries = append(entries, rest[:n:n])
		rest = rest[n:]
	}
	if len(entries) < width {
		return nil, fmt.Errorf("a bundle has %d entries, not %d", len(entries), width)
	}
	return entries[:width], nil
}
