package evidence

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The files of a pack, in their order:
//
//	README.txt
//	pack.json                                  [Description]
//	law/<hash>/<table>.csv                     the law packs that leaves pin
//	and for each region, in the description's order:
//	regions/<r>/bundles/<sha256>.json          the certificates it and its peers were known by
//	regions/<r>/certificates/<serial>.pem      chains of its nodes: that of the exporter
//	regions/<r>/refused/<sha256>.pem           forged chains that the exporter was shown
//	regions/<r>/checkpoints/<size>             signed notes, oldest first
//	regions/<r>/edge                           compact range of the log before the first leaf
//	regions/<r>/entries/<n>                    the leaves, in runs
//	regions/<r>/tail                           consistency proof from the last leaf to a larger last checkpoint
//	regions/<r>/successor                      the first leaf of the log that was begun in its place
//	regions/<r>/openings/<n>                   what some commitments hide, in runs
//	regions/<r>/segments/<n>                   inference receipts
const (
	ReadmeName      = "README.txt"
	DescriptionName = "pack.json"
	lawDir          = "law"
	regionsDir      = "regions"
)

// The kinds of a region's files, in their order.
const (
	dirBundles      = "bundles"
	dirCertificates = "certificates"
	dirRefused      = "refused"
	dirCheckpoints  = "checkpoints"
	fileEdge        = "edge"
	dirEntries      = "entries"
	fileTail        = "tail"
	fileSuccessor   = "successor"
	dirOpenings     = "openings"
	dirSegments     = "segments"
)

// RunSize is how many bytes of leaves or openings one file holds at most,
// unless a single one is larger.
const RunSize = 4 << 20

// Description says what a pack claims to hold. Nothing in it is believed that
// is not proven by what follows.
type Description struct {
	Version    int       `json:"version"` // 1
	Mesh       string    `json:"mesh"`
	ExportedAt time.Time `json:"exported_at"`
	ExportedBy string    `json:"exported_by"` // the region that exported
	Filter     Filter    `json:"filter"`
	Regions    []Region  `json:"regions"`
}

// Filter is what was asked for. A pack holds all leaves of its time whatever
// the filter, so that nobody can leave one out; the filter chooses openings,
// inference receipts, and what a report shows.
type Filter struct {
	From   time.Time `json:"from,omitzero"`
	To     time.Time `json:"to,omitzero"`
	Job    string    `json:"job,omitempty"`
	Tenant string    `json:"tenant,omitempty"`
	Regime []string  `json:"regime,omitempty"`
	// Acts asks for what the leaves of administrators' acts commit to: who acted,
	// and where from.
	Acts bool `json:"acts,omitempty"`
}

// Region describes one region's part.
type Region struct {
	Name   string `json:"name"`
	Origin string `json:"origin"` // of its log
	// First and End bound the leaves that are here: First is the first, End one
	// past the last.
	First uint64 `json:"first"`
	End   uint64 `json:"end"`
	// Erased are leaves, of those the filter selects, whose opening was erased.
	Erased []uint64 `json:"erased,omitempty"`
	// Absent are segments whose inference receipts belong here and could not be
	// had.
	Absent []Absent `json:"absent,omitempty"`
}

// Absent are segments of one chain that are not here.
type Absent struct {
	Chain string `json:"chain"` // as leaves name it
	Why   string `json:"why"`   // AbsentAway and so on
	// First and Last are leaves of such segments, and Segments is how many of
	// them there are.
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Segments uint64 `json:"segments"`
}

// Why receipts are not in a pack.
const (
	AbsentAway    = "away"    // the node that keeps them did not answer
	AbsentGone    = "gone"    // the node left the region
	AbsentErased  = "erased"  // it keeps them no longer
	AbsentDamaged = "damaged" // what it has is not what it committed
)

// absences are the words for why receipts are not in a pack.
func absences() map[string]string {
	return map[string]string{
		AbsentAway: "the node that keeps them was away when the pack was made", AbsentGone: "the node that kept them has left the region",
		AbsentErased: "the node kept them as long as it keeps receipts, and erased them", AbsentDamaged: "what the node has is not what it committed",
	}
}

// Encode writes the description's one encoding.
func (d *Description) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// ParseDescription reads what [Description.Encode] wrote and nothing else.
func ParseDescription(data []byte) (*Description, error) {
	var d Description
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrArchive, DescriptionName, err)
	}
	if again, err := d.Encode(); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: %s is not in its one encoding", ErrArchive, DescriptionName)
	}
	if d.Version != 1 {
		return nil, fmt.Errorf("%w: version %d, this program reads version 1", ErrArchive, d.Version)
	}
	return &d, d.check()
}

func (d *Description) check() error {
	seen := map[string]bool{}
	for _, r := range d.Regions {
		switch {
		case !validName(r.Name) || strings.Contains(r.Name, "/") || seen[r.Name]:
			return fmt.Errorf("%w: a region is called %q, or is there twice", ErrArchive, shorten(r.Name))
		case r.First > r.End:
			return fmt.Errorf("%w: the leaves of region %s end at %d, before their beginning %d", ErrArchive, r.Name, r.End, r.First)
		case !strings.HasPrefix(r.Origin, r.Name+"."+d.Mesh+"/ledger"):
			return fmt.Errorf("%w: the log %q is not one of region %s", ErrArchive, shorten(r.Origin), r.Name)
		}
		seen[r.Name] = true
	}
	return nil
}

// name is where a file stands.
type name struct {
	law, table         string
	region, kind, file string
}

func parseName(s string) (name, error) {
	words := strings.Split(s, "/")
	switch {
	case len(words) == 3 && words[0] == lawDir:
		return name{law: words[1], table: words[2]}, nil
	case len(words) == 3 && words[0] == regionsDir && (words[2] == fileEdge || words[2] == fileTail || words[2] == fileSuccessor):
		return name{region: words[1], kind: words[2]}, nil
	case len(words) == 4 && words[0] == regionsDir:
		switch words[2] {
		case dirBundles, dirCertificates, dirRefused, dirCheckpoints, dirEntries, dirOpenings, dirSegments:
			return name{region: words[1], kind: words[2], file: words[3]}, nil
		}
	}
	return name{}, fmt.Errorf("%w: a pack has no file %q", ErrArchive, shorten(s))
}

// The names of files.
func lawName(hash, table string) string      { return lawDir + "/" + hash + "/" + table }
func edgeName(region string) string          { return regionsDir + "/" + region + "/" + fileEdge }
func tailName(region string) string          { return regionsDir + "/" + region + "/" + fileTail }
func successorName(region string) string     { return regionsDir + "/" + region + "/" + fileSuccessor }
func fileName(region, kind, f string) string { return regionsDir + "/" + region + "/" + kind + "/" + f }
func runName(region, kind string, n int) string {
	return fileName(region, kind, fmt.Sprintf("%09d", n))
}
func checkpointName(region string, size uint64) string {
	return fileName(region, dirCheckpoints, fmt.Sprintf("%020d", size))
}

// parseRun reads a run of leaves: each behind its two-byte length, as in the
// entry bundles of https://c2sp.org/tlog-tiles.
func parseRun(data []byte, each func(entry []byte) error) error {
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return fmt.Errorf("%w: a run of leaves is cut short", ErrArchive)
		}
		n := int(binary.BigEndian.Uint16(data))
		if err := each(data[2 : 2+n]); err != nil {
			return err
		}
		data = data[2+n:]
	}
	return nil
}

// AppendEntry adds a leaf to a run.
func AppendEntry(run, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(run, uint16(len(entry))), entry...)
}

// AppendOpening adds an opening to a run: the leaf's index, a length of four
// bytes, and the command's bytes.
func AppendOpening(run []byte, leaf uint64, command []byte) []byte {
	run = binary.BigEndian.AppendUint64(run, leaf)
	run = binary.BigEndian.AppendUint32(run, uint32(len(command)))
	return append(run, command...)
}

func parseOpenings(data []byte, each func(leaf uint64, command []byte) error) error {
	for len(data) > 0 {
		if len(data) < 12 || uint64(len(data)-12) < uint64(binary.BigEndian.Uint32(data[8:])) {
			return fmt.Errorf("%w: a run of openings is cut short", ErrArchive)
		}
		n := int(binary.BigEndian.Uint32(data[8:]))
		if err := each(binary.BigEndian.Uint64(data), data[12:12+n]); err != nil {
			return err
		}
		data = data[12+n:]
	}
	return nil
}

// commandSalt finds the salt in the bytes of a command: a version byte, a kind
// behind one byte of length, eight bytes of time, then the salt.
func commandSalt(command []byte) (salt [16]byte, kind string, ok bool) {
	if len(command) < 2 {
		return salt, "", false
	}
	n := int(command[1])
	if len(command) < 2+n+8+16 {
		return salt, "", false
	}
	copy(salt[:], command[2+n+8:])
	return salt, string(command[2 : 2+n]), true
}

// commandActor finds who asked in the bytes of a command: behind the salt, a
// length of two bytes and that many.
func commandActor(command []byte) (salt [16]byte, actor string, ok bool) {
	salt, kind, ok := commandSalt(command)
	if !ok {
		return salt, "", false
	}
	rest := command[2+len(kind)+8+16:]
	if len(rest) < 2 {
		return salt, "", false
	}
	n := int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+n {
		return salt, "", false
	}
	return salt, string(rest[2 : 2+n]), true
}

func parseSize(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return n, err == nil && fmt.Sprintf("%020d", n) == s
}
