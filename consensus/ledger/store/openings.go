package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sovmesh/sovmesh/consensus/ledger"
)

// openingsMax bounds an answer of [Store.Openings], in bytes; one opening that
// is larger goes alone.
const openingsMax = 4 << 20

// OpeningsAnswerMax bounds an answer of [Store.Openings], in bytes.
const OpeningsAnswerMax = maxOpening + openingsMax + 1024

// The answer of Openings, for other replicas of the region: for each leaf in
// turn one byte, 1 if its opening follows and 0 if not; an opening is its length
// (4 bytes, big endian), salt and command.

// Openings gives the openings of leaves from first on, all of one bundle: of at
// most count, and of fewer where they are large. Those that are not here or
// erased are left out.
func (s *Store) Openings(first uint64, count int) ([]byte, error) {
	entries, err := s.Entries(first, count)
	if err != nil {
		return nil, err
	}
	var out []byte
	for i, entry := range entries {
		o, err := s.openingOf(first+uint64(i), entry)
		switch {
		case errors.Is(err, ErrErased), errors.Is(err, ErrNoOpening):
			out = append(out, 0)
			continue
		case err != nil:
			return nil, err
		}
		if len(out) > 0 && len(out)+len(o.Command) > openingsMax {
			return out, nil
		}
		out = appendOpening(append(out, 1), o)
	}
	return out, nil
}

// parseOpenings reads an answer of [Store.Openings]; nil stands for none.
func parseOpenings(data []byte) (all []*Opening, err error) {
	bad := errors.New("no openings: they are cut short, or too many")
	for len(data) > 0 {
		has := data[0]
		data = data[1:]
		if len(all) == ledger.TileWidth || has > 1 {
			return nil, bad
		}
		if has == 0 {
			all = append(all, nil)
			continue
		}
		if len(data) < openingHead {
			return nil, bad
		}
		size := int64(binary.BigEndian.Uint32(data))
		if size > int64(len(data))-openingHead {
			return nil, bad
		}
		all = append(all, &Opening{Salt: ledger.Salt(data[4:]), Command: data[openingHead : openingHead+size]})
		data = data[openingHead+size:]
	}
	return all, nil
}

// fetchOpenings asks for the openings of leaves until the peer has told all, and
// checks each against its leaf.
func fetchOpenings(ctx context.Context, peer Peer, first uint64, records []Record) error {
	for n := 0; n < len(records); {
		at := first + uint64(n)
		data, err := peer.Openings(ctx, at, len(records)-n)
		if err != nil {
			return fmt.Errorf("fetch the opening of ledger entry %d: %w", at, err)
		}
		some, err := parseOpenings(data)
		if err != nil || len(some) == 0 || len(some) > len(records)-n {
			return &Lie{at, "its openings cannot be read"}
		}
		for _, o := range some {
			if o != nil && !opens(records[n].Entry, o) {
				return &Lie{first + uint64(n), "the opening is not that of the leaf"}
			}
			records[n].Opening = o
			n++
		}
	}
	return nil
}
