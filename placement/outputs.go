package placement

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Outputs bounds the files that a task leaves to be fetched: those beyond are not
// kept. Zero is the default of each.
type Outputs struct {
	Max   Bytes `json:"max,omitempty"`   // of all files together
	Files int   `json:"files,omitempty"` // how many
}

// What a job's outputs are held to where it says nothing, and what it may ask for
// at most.
const (
	DefaultOutputs     Bytes = 1 << 30
	DefaultOutputFiles       = 1000
	MaxOutputs         Bytes = 1 << 40
	MaxOutputFiles           = 10_000
)

// Bounds are the wish with the defaults filled in, and never more than the most.
func (o Outputs) Bounds() Outputs {
	if o.Max <= 0 {
		o.Max = DefaultOutputs
	}
	if o.Files <= 0 {
		o.Files = DefaultOutputFiles
	}
	return Outputs{Max: min(o.Max, MaxOutputs), Files: min(o.Files, MaxOutputFiles)}
}

// Leaves bounds what the tasks of the job leave to be fetched; nil for nothing.
func (s *JobSpec) Leaves() *Outputs {
	if s.Setup == nil {
		return nil
	}
	return s.Setup.Outputs
}

// Output is one file that a task left.
type Output struct {
	Name   string `json:"name"` // with slashes, from the directory of outputs on
	Size   int64  `json:"size"`
	Digest string `json:"digest"` // sha256:...
}

// OutputList is what a task left, in the order of the names.
type OutputList struct {
	Files []Output `json:"files"`
	// LeftOut is how many more there were, at least, and Why the first reason.
	LeftOut int    `json:"left_out,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Bounds of an output's name: the bytes of all of it, and how many parts it has.
const (
	MaxOutputName  = 1024
	MaxOutputParts = 16
)

// OutputName reports whether a name is one that an output can have: parts of
// printable text with slashes between them, that lead nowhere else.
func OutputName(name string) bool {
	if len(name) > MaxOutputName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return false
	}
	parts := strings.Split(name, "/")
	return len(parts) <= MaxOutputParts && !slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." || len(p) > 255 })
}

// Check looks at a list that somebody else made.
func (l *OutputList) Check() error {
	if len(l.Files) > MaxOutputFiles {
		return fmt.Errorf("a list of %d outputs is longer than %d", len(l.Files), MaxOutputFiles)
	}
	var total int64
	for i, f := range l.Files {
		switch {
		case !OutputName(f.Name):
			return fmt.Errorf("output %d has no proper name", i)
		case i > 0 && l.Files[i-1].Name >= f.Name:
			return fmt.Errorf("output %d is not in the order of the names", i)
		case f.Size < 0 || f.Size > int64(MaxOutputs)-total:
			return fmt.Errorf("output %d has %d bytes, which is out of bounds", i, f.Size)
		case !isDigest(f.Digest):
			return fmt.Errorf("output %d has no proper digest", i)
		}
		total += f.Size
	}
	if l.LeftOut < 0 || len(l.Why) > MaxNoteText || !utf8.ValidString(l.Why) {
		return fmt.Errorf("what it says of files that were left out cannot be")
	}
	return nil
}

func isDigest(s string) bool {
	hash, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hash) == 2*sha256.Size && strings.Trim(hash, "0123456789abcdef") == ""
}

// Digest is the hex SHA-256 of the list: a line "DIGEST SIZE NAME" for each file.
// What was left out is no part of it.
func (l *OutputList) Digest() string {
	sum := sha256.New()
	for _, f := range l.Files {
		fmt.Fprintf(sum, "%s %d %s\n", f.Digest, f.Size, f.Name)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Find is the file of that name.
func (l *OutputList) Find(name string) (Output, bool) {
	i, ok := slices.BinarySearchFunc(l.Files, name, func(f Output, name string) int { return strings.Compare(f.Name, name) })
	if !ok {
		return Output{}, false
	}
	return l.Files[i], true
}
