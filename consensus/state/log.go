package state

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sovmesh/sovmesh/consensus/ledger"
	"github.com/sovmesh/sovmesh/placement"
)

// The kinds of commands that keep the region's log signed and witnessed. Those
// of checkpoints leave no leaf: a tree that recorded its own signatures, or
// those of a tree that records ours, would grow for ever.
const (
	KindMarkLog       Kind = "ledger.mark"
	KindSignLog       Kind = "ledger.sign"
	KindCosignLog     Kind = "ledger.cosign"
	KindRestartLog    Kind = "ledger.restart"
	KindAdvanceOrigin Kind = "witness.advance"
	KindPutWitness    Kind = "witness.put"
	KindDropWitness   Kind = "witness.drop"
)

// MarkLog fixes the size and root of the log as they are at this command, so
// that the leader can sign them outside of Apply.
type MarkLog struct{}

// SignLog brings the signed checkpoint of a marked size
// (https://c2sp.org/tlog-checkpoint).
type SignLog struct {
	Size uint64 `json:"size"`
	Note string `json:"note"`
}

// CosignLog adds what a witness said of a checkpoint: whole signature lines
// (https://c2sp.org/tlog-cosignature), without the note's text.
type CosignLog struct {
	Size  uint64   `json:"size"`
	Lines []string `json:"lines"`
}

// RestartLog begins a new log after the region lost its quorum and was
// recovered from what one node had. Its leaf is the first of the new log and
// quotes the old one: an amputation that everybody can see.
type RestartLog struct {
	Previous string `json:"previous"` // the last signed checkpoint known, a signed note; empty if none is
}

// AdvanceOrigin records that this region, as a witness, has seen a log of
// another region grow from one size to another. It is committed before the
// cosignature is given, so that no restart makes the witness forget.
type AdvanceOrigin struct {
	Origin string   `json:"origin"`
	Old    uint64   `json:"old"`
	Note   string   `json:"note"`
	Proof  [][]byte `json:"proof,omitempty"` // consistency, at most 63 hashes
}

// PutWitness makes an outside witness one that is asked for cosignatures.
type PutWitness struct {
	Key string `json:"key"` // its verifier key
	URL string `json:"url"` // the prefix of its add-checkpoint
}

// DropWitness ends it.
type DropWitness struct {
	Name string `json:"name"`
}

// Kind names the command.
func (MarkLog) Kind() Kind       { return KindMarkLog }
func (SignLog) Kind() Kind       { return KindSignLog }
func (CosignLog) Kind() Kind     { return KindCosignLog }
func (RestartLog) Kind() Kind    { return KindRestartLog }
func (AdvanceOrigin) Kind() Kind { return KindAdvanceOrigin }
func (PutWitness) Kind() Kind    { return KindPutWitness }
func (DropWitness) Kind() Kind   { return KindDropWitness }

// leavesNoLeaf reports whether commands of the kind are state only.
func leavesNoLeaf(k Kind) bool {
	return k == KindMarkLog || k == KindSignLog || k == KindCosignLog || k == KindAdvanceOrigin
}

func logReader(k Kind) func([]byte) (Command, error) {
	switch k {
	case KindMarkLog:
		return read[MarkLog]
	case KindSignLog:
		return read[SignLog]
	case KindCosignLog:
		return read[CosignLog]
	case KindRestartLog:
		return read[RestartLog]
	case KindAdvanceOrigin:
		return read[AdvanceOrigin]
	case KindPutWitness:
		return read[PutWitness]
	case KindDropWitness:
		return read[DropWitness]
	}
	return segmentReader(k)
}

func (s *State) runLog(c *call, cmd Command) (*Refused, bool) {
	switch k := cmd.(type) {
	case MarkLog:
		return s.markLog(c), true
	case SignLog:
		return s.signLog(c, k), true
	case CosignLog:
		return s.cosignLog(c, k), true
	case RestartLog:
		return s.restartLog(c, k), true
	case AdvanceOrigin:
		return s.advanceOrigin(c, k), true
	case PutWitness:
		return s.putWitness(c, k), true
	case DropWitness:
		return s.dropWitness(c, k), true
	case CommitSegment:
		return s.commitSegment(c, k), true
	case EraseOpenings:
		return s.eraseOpenings(c, k), true
	case RecordRead:
		return s.recordRead(c, k), true
	}
	return nil, false
}

// Mark is a size of the log that may be signed.
type Mark struct {
	Size uint64      `json:"size"`
	Root ledger.Hash `json:"root"`
}

// Checkpoint is one signed state of the region's log.
type Checkpoint struct {
	Size uint64    `json:"size"`
	At   time.Time `json:"at"` // ledger time of the signature's commit
	// Note is the signed note with the lines of all witnesses that answered.
	Note string `json:"note"`
	// Witnesses are their names, in order of answering.
	Witnesses []string `json:"witnesses,omitempty"`
}

// Witness is an outside witness of this region's log.
type Witness struct {
	Name string `json:"name"`
	Key  string `json:"key"`
	URL  string `json:"url"`
}

// Witnessed is the newest checkpoint of another log that this region cosigns.
type Witnessed struct {
	Origin string      `json:"origin"`
	Size   uint64      `json:"size"`
	Root   ledger.Hash `json:"root"`
	Note   string      `json:"note"`
}

const (
	maxMarks       = 8
	maxCheckpoints = 64
	maxWitnesses   = 32
	maxNote        = 16 << 10
	maxProof       = 63
	maxVerifierKey = 4 << 10
)

// Checkpoints are the newest signed states of the log, newest first.
func (v *View) Checkpoints() []Checkpoint {
	all := v.checkpoints.values()
	out := make([]Checkpoint, 0, len(all))
	for _, c := range slices.Backward(all) {
		out = append(out, *c)
	}
	return out
}

// Witnesses are the outside witnesses; active peers witness as well.
func (v *View) Witnesses() []Witness {
	var out []Witness
	for _, w := range v.witnesses.values() {
		out = append(out, *w)
	}
	return out
}

// Witnessed is what this region knows of another log, nil if nothing.
func (v *View) Witnessed(origin string) *Witnessed {
	w, _ := v.witnessed.get(origin)
	return w
}

// WitnessedLogs are all logs of others that this region has cosigned, by origin.
func (v *View) WitnessedLogs() []*Witnessed { return v.witnessed.values() }

// LogMarks are the sizes that may be signed.
func (v *View) LogMarks() []Mark { return v.Marks }

func (s *State) markLog(c *call) *Refused {
	m := Mark{Size: s.tree.Size(), Root: s.tree.Root()}
	c.id = strconv.FormatUint(m.Size, 10)
	marks := append(slices.Clone(s.Marks), m)
	s.Marks = marks[max(0, len(marks)-maxMarks):]
	return nil
}

// signLog accepts a signature over what this replica found itself, and no other.
func (s *State) signLog(c *call, k SignLog) *Refused {
	c.id = strconv.FormatUint(k.Size, 10)
	i := slices.IndexFunc(s.Marks, func(m Mark) bool { return m.Size == k.Size })
	if i < 0 {
		return refuse("checkpoint.unmarked", "mark the log again", "size %d of the log was not marked, or too long ago", k.Size)
	}
	if len(k.Note) > maxNote {
		return refuse("checkpoint.large", "sign with one key", "a checkpoint of %d bytes is too large", len(k.Note))
	}
	text, err := openNote(k.Note, s.LogKey())
	if err != nil {
		return refuse("checkpoint.signature", "sign with the key that the region was founded with", "the checkpoint is not signed by the region's log key: %v", err)
	}
	if m := s.Marks[i]; text != checkpointText(s.LogOrigin(), m.Size, m.Root) {
		return refuse("checkpoint.root", "stop the leader: it signs what was never committed", "the checkpoint of size %d says something else than the log", k.Size)
	}
	key := seqKey(k.Size)
	if !s.checkpoints.has(key) {
		s.checkpoints.put(key, &Checkpoint{Size: k.Size, At: s.Clock, Note: k.Note})
	}
	s.trimCheckpoints()
	return nil
}

func (s *State) trimCheckpoints() {
	for s.checkpoints.len() > maxCheckpoints {
		key, _, _ := s.checkpoints.min()
		s.checkpoints.delete(key)
	}
}

// cosignLog adds cosignatures, each checked against the key of the witness that
// it names: a false line under a witness's name would keep the true one out, and
// no pack with the checkpoint would hold.
func (s *State) cosignLog(c *call, k CosignLog) *Refused {
	c.id = strconv.FormatUint(k.Size, 10)
	old, ok := s.checkpoints.get(seqKey(k.Size))
	if !ok {
		return refuse("checkpoint.gone", "ask the witness for a newer one", "there is no checkpoint of size %d any more", k.Size)
	}
	signed, err := ledger.ParseSignedCheckpoint([]byte(old.Note))
	if err != nil {
		return refuse("checkpoint.gone", "ask the witness for a newer one", "the checkpoint of size %d cannot be read: %v", k.Size, err)
	}
	next := *old
	next.Witnesses = slices.Clone(old.Witnesses)
	for _, line := range k.Lines {
		name, err := signatureName(line)
		key := s.witnessKey(name)
		switch {
		case err != nil:
			return refuse("checkpoint.cosignature", "send whole lines of a signed note", "%v", err)
		case slices.Contains(next.Witnesses, name):
			continue
		case key == "":
			return refuse("checkpoint.witness", "name it first: a witness is an active peer, or was put by an administrator", "%q is no witness of this region", clip(name))
		case len(next.Note)+len(line)+1 > maxNote:
			return refuse("checkpoint.large", "use fewer witnesses", "the checkpoint has no room for another signature")
		}
		witness, err := ledger.ParseVerifier(key)
		if err == nil {
			_, err = ledger.AcceptCosignature(witness, signed.Unverified(), []byte(line+"\n"))
		}
		if err != nil {
			return refuse("checkpoint.cosignature", "send what the witness answered; is its key the one that was put?", "this is no cosignature of %q over the checkpoint of size %d: %v", clip(name), k.Size, err)
		}
		next.Note += line + "\n"
		next.Witnesses = append(next.Witnesses, name)
	}
	s.checkpoints.put(seqKey(k.Size), &next)
	return nil
}

// witnessKey is the verifier key of a witness of this region; empty if there is
// none of that name.
func (s *State) witnessKey(name string) (key string) {
	if w, ok := s.witnesses.get(name); ok {
		return w.Key
	}
	s.regions.ascend("", func(_ string, r *placement.Region) bool {
		if !r.Self && r.State == placement.PeerActive && name == WitnessName(r.ID, r.Mesh) {
			key = r.WitnessKey
		}
		return key == ""
	})
	return key
}

// signatureName is the name in a signature line: "— <name> <base64>".
func signatureName(line string) (string, error) {
	rest, ok := strings.CutPrefix(line, "— ")
	name, sig, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || name == "" || sig == "" || len(line) > maxVerifierKey || strings.ContainsAny(line, "\n\r") || strings.Contains(sig, " ") {
		return "", fmt.Errorf("%q is no signature line of a note", clip(line))
	}
	return name, nil
}

// restartLog begins a new log. The old one stays on disk and in what others saw.
func (s *State) restartLog(c *call, k RestartLog) *Refused {
	c.subject = string(s.self.ID)
	if len(k.Previous) > maxNote-2048 || len(k.Previous) > maxShown/2 {
		return refuse("checkpoint.large", "quote the checkpoint without cosignatures", "the old checkpoint has %d bytes", len(k.Previous))
	}
	s.Restarts++
	s.tree = ledger.NewTree()
	s.Marks, s.checkpoints = nil, newTable[*Checkpoint]()
	s.forgetLeaves()
	c.show(ledger.ShownOrigin, s.LogOrigin())
	c.show(ledger.ShownPrevious, k.Previous)
	c.id = s.LogOrigin()
	return nil
}

// advanceOrigin checks and persists in one step, as a witness must
// (https://c2sp.org/tlog-witness).
func (s *State) advanceOrigin(c *call, k AdvanceOrigin) *Refused {
	c.id = k.Origin
	if len(k.Note) > maxNote || len(k.Proof) > maxProof {
		return refuse("witness.request", "send at most 63 hashes and a checkpoint", "the request is too large")
	}
	key := s.PeerLogKey(k.Origin)
	if key == "" {
		return refuse("witness.origin", "federate first", "%q is no log that this region witnesses", clip(k.Origin))
	}
	text, err := openNote(k.Note, key)
	if err != nil {
		return refuse("witness.signature", "send a checkpoint that the log signed", "the checkpoint is not signed by the log: %v", err)
	}
	size, root, err := parseCheckpoint(text, k.Origin)
	if err != nil {
		return refuse("witness.checkpoint", "send a checkpoint", "%v", err)
	}
	var have Witnessed
	if w := s.Witnessed(k.Origin); w != nil {
		have = *w
	}
	switch {
	case k.Old != have.Size:
		return refuse("witness.size", strconv.FormatUint(have.Size, 10), "this witness has seen size %d, not %d", have.Size, k.Old)
	case k.Old > size:
		return refuse("witness.order", "send the newer checkpoint", "the log would shrink from %d to %d", k.Old, size)
	case k.Old == size && (k.Old != 0 || have.Origin != "") && root != have.Root:
		return refuse("witness.fork", "this is evidence: the log signed two roots of one size", "the log shows another root of size %d than before", size)
	}
	if err := checkGrowth(have, size, root, k.Proof); err != nil {
		return refuse("witness.proof", "send the consistency proof from the old size", "the checkpoint does not extend what was seen: %v", err)
	}
	if !s.witnessed.has(k.Origin) && s.witnessed.len() >= 1024 {
		return refuse("witness.too-many", "this witness is full", "1024 logs are witnessed")
	}
	s.witnessed.put(k.Origin, &Witnessed{k.Origin, size, root, k.Note})
	return nil
}

func checkGrowth(have Witnessed, size uint64, root ledger.Hash, proof [][]byte) error {
	if have.Size == 0 || have.Size == size {
		if len(proof) != 0 {
			return fmt.Errorf("%d hashes where none is needed", len(proof))
		}
		return nil
	}
	hashes := make(tlog.TreeProof, len(proof))
	for i, h := range proof {
		if len(h) != sha256.Size {
			return fmt.Errorf("a hash of %d bytes", len(h))
		}
		hashes[i] = tlog.Hash(h)
	}
	return tlog.CheckTree(hashes, int64(size), tlog.Hash(root), int64(have.Size), tlog.Hash(have.Root))
}

func (s *State) putWitness(c *call, k PutWitness) *Refused {
	name, _, ok := strings.Cut(k.Key, "+")
	c.subject = clip(name)
	switch {
	case !ok || name == "" || len(k.Key) > maxVerifierKey || len(name) > maxFact || strings.ContainsAny(k.Key, " \n"):
		return refuse("witness.key", "give its verifier key: NAME+HASH+KEY", "this is no verifier key")
	case !strings.HasPrefix(k.URL, "https://") && !strings.HasPrefix(k.URL, "http://") || len(k.URL) > 4*maxFact:
		return refuse("witness.url", "give the prefix of its add-checkpoint: https://host/path", "%q is no address of a witness", clip(k.URL))
	case s.witnesses.len() >= maxWitnesses && !s.witnesses.has(name):
		return refuse("witness.too-many", "drop another first", "%d witnesses are put already", maxWitnesses)
	}
	s.witnesses.put(name, &Witness{name, k.Key, k.URL})
	c.show(ledger.ShownWitness, k.Key)
	c.id = name
	return nil
}

func (s *State) dropWitness(c *call, k DropWitness) *Refused {
	c.subject = clip(k.Name)
	w, ok := s.witnesses.get(k.Name)
	if !ok {
		return refuse("witness.unknown", "see the region's witnesses: sovmesh region show", "%q is no outside witness", clip(k.Name))
	}
	s.witnesses.delete(k.Name)
	c.show(ledger.ShownWitness, w.Key)
	c.show(ledger.ShownState, "dropped")
	c.id = k.Name
	return nil
}
