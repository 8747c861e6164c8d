package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// An archive is a POSIX ustar file (IEEE Std 1003.1, pax, "ustar Interchange
// Format") in its one possible encoding: regular files with mode 0644 and no
// owner or time, MANIFEST first, then the files in the manifest's order, then
// two blocks of zeros and nothing else. Every tar program unpacks it, and
// `sha256sum -c MANIFEST` checks it; here every single bit counts.
const (
	block = 512
	// ManifestName is the name of the first file.
	ManifestName = "MANIFEST"
	// A ustar header holds maxName bytes of a name; of a longer one it holds the
	// beginning, up to a slash, apart, in at most maxPrefix bytes.
	maxName   = 100
	maxPrefix = 155
	// MaxManifest and MaxFile bound what is held in memory at once, in bytes.
	MaxManifest = 32 << 20
	MaxFile     = 32 << 20
)

// ErrArchive is what every error about the form of an archive wraps.
var ErrArchive = errors.New("not an evidence pack")

// Entry is one line of the manifest.
type Entry struct {
	Name string
	Sum  [sha256.Size]byte
}

// EncodeManifest writes the lines that sha256sum prints.
func EncodeManifest(entries []Entry) []byte {
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(hex.EncodeToString(e.Sum[:]))
		b.WriteString("  ")
		b.WriteString(e.Name)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// ParseManifest reads what [EncodeManifest] wrote and nothing else: lower-case
// digits, names of the archive's alphabet, each name once.
func ParseManifest(data []byte) ([]Entry, error) {
	var out []Entry
	seen := map[string]bool{ManifestName: true}
	for n := 1; len(data) > 0; n++ {
		line, rest, ok := bytes.Cut(data, []byte{'\n'})
		data = rest
		const sum = 2 * sha256.Size
		if !ok || len(line) < sum+3 || string(line[sum:sum+2]) != "  " {
			return nil, fmt.Errorf("%w: line %d of its manifest is none", ErrArchive, n)
		}
		e := Entry{Name: string(line[sum+2:])}
		digits := string(line[:sum])
		if _, err := hex.Decode(e.Sum[:], line[:sum]); err != nil || strings.ToLower(digits) != digits {
			return nil, fmt.Errorf("%w: line %d of its manifest has no SHA-256", ErrArchive, n)
		}
		if !validName(e.Name) || seen[e.Name] {
			return nil, fmt.Errorf("%w: line %d of its manifest names %q, which it may not, or names it twice", ErrArchive, n, shorten(e.Name))
		}
		seen[e.Name] = true
		out = append(out, e)
	}
	return out, nil
}

// validName takes relative paths of plain words: no way out of the directory
// that an auditor unpacks to.
func validName(name string) bool {
	if _, _, ok := splitName(name); name == "" || !ok {
		return false
	}
	for word := range strings.SplitSeq(name, "/") {
		if word == "" || word[0] == '.' || word[0] == '-' {
			return false
		}
		for i := 0; i < len(word); i++ {
			c := word[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' && c != ':' {
				return false
			}
		}
	}
	return true
}

// splitName is how a header holds a name: whole if it can, else with the
// shortest prefix that leaves few enough bytes.
func splitName(name string) (prefix, rest string, ok bool) {
	if len(name) <= maxName {
		return "", name, true
	}
	from := len(name) - maxName - 1
	i := strings.IndexByte(name[from:], '/')
	if i < 0 || from+i > maxPrefix {
		return "", "", false
	}
	return name[:from+i], name[from+i+1:], true
}

func shorten(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}

// header is the one header of a file.
func header(name string, size int64) []byte {
	h := make([]byte, block)
	prefix, rest, _ := splitName(name)
	copy(h, rest)
	copy(h[345:], prefix)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	sum := 8 * int(' ')
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// WriteArchive writes a pack. The manifest is made beforehand, so that a reader
// can check each file as it comes; open gives the content of each entry. What
// open gives must be what the entry's sum says.
func WriteArchive(w io.Writer, entries []Entry, open func(Entry) ([]byte, error)) error {
	manifest := EncodeManifest(entries)
	if _, err := ParseManifest(manifest); err != nil {
		return err
	}
	if len(manifest) > MaxManifest {
		return fmt.Errorf("the manifest has %d bytes, more than %d: export a shorter time", len(manifest), MaxManifest)
	}
	if err := writeFile(w, ManifestName, manifest); err != nil {
		return err
	}
	for _, e := range entries {
		data, err := open(e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if sha256.Sum256(data) != e.Sum || len(data) > MaxFile {
			return fmt.Errorf("%s: it changed while it was exported, or is too large", e.Name)
		}
		if err := writeFile(w, e.Name, data); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, 2*block))
	return err
}

func writeFile(w io.Writer, name string, data []byte) error {
	for _, part := range [][]byte{header(name, int64(len(data))), data, make([]byte, padding(len(data)))} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func padding(n int) int { return (block - n%block) % block }

// Archive reads a pack once, from front to back, holding one file at a time.
type Archive struct {
	r       io.Reader
	entries []Entry
	next    int
	id      [sha256.Size]byte
}

// OpenArchive reads the manifest. Errors wrap [ErrArchive] unless reading failed.
func OpenArchive(r io.Reader) (*Archive, error) {
	name, data, err := readFile(r, MaxManifest)
	if err != nil {
		return nil, err
	}
	if name != ManifestName {
		return nil, fmt.Errorf("%w: it begins with %q, not with its manifest", ErrArchive, shorten(name))
	}
	entries, err := ParseManifest(data)
	if err != nil {
		return nil, err
	}
	return &Archive{r: r, entries: entries, id: sha256.Sum256(data)}, nil
}

// ID is the SHA-256 of the manifest: it names the pack with all that is in it.
func (a *Archive) ID() [sha256.Size]byte { return a.id }

// Entries are all files, in order.
func (a *Archive) Entries() []Entry { return a.entries }

// Next gives the next file, checked against the manifest; io.EOF after the last,
// once the end of the archive is there and nothing follows.
func (a *Archive) Next() (name string, data []byte, err error) {
	if a.next == len(a.entries) {
		return "", nil, a.end()
	}
	e := a.entries[a.next]
	name, data, err = readFile(a.r, MaxFile)
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("%s: %w", e.Name, err)
	case name != e.Name:
		return "", nil, fmt.Errorf("%w: %q stands where its manifest has %q", ErrArchive, shorten(name), e.Name)
	case sha256.Sum256(data) != e.Sum:
		return "", nil, fmt.Errorf("%w: %s is not what its manifest says: its SHA-256 differs", ErrArchive, e.Name)
	}
	a.next++
	return name, data, nil
}

func (a *Archive) end() error {
	tail, err := io.ReadAll(io.LimitReader(a.r, 2*block+1))
	if err != nil {
		return err
	}
	if len(tail) != 2*block || !zero(tail) {
		return fmt.Errorf("%w: it does not end where it should", ErrArchive)
	}
	return io.EOF
}

func readFile(r io.Reader, most int64) (name string, data []byte, err error) {
	h := make([]byte, block)
	if _, err := io.ReadFull(r, h); err != nil {
		return "", nil, truncated(err)
	}
	name = string(bytes.TrimRight(h[:maxName], "\x00"))
	if prefix := string(bytes.TrimRight(h[345:345+maxPrefix], "\x00")); prefix != "" {
		name = prefix + "/" + name
	}
	var size int64
	if _, err := fmt.Sscanf(string(h[124:135]), "%o", &size); err != nil || size < 0 || !validName(name) || !bytes.Equal(h, header(name, size)) {
		return "", nil, fmt.Errorf("%w: a header is not the one that a pack has", ErrArchive)
	}
	if size > most {
		return "", nil, fmt.Errorf("%w: a file of %d bytes is larger than %d", ErrArchive, size, most)
	}
	// Grown as it is read: a size alone reserves no memory.
	var buf bytes.Buffer
	n := size + int64(padding(int(size)))
	if _, err := io.CopyN(&buf, r, n); err != nil {
		return "", nil, truncated(err)
	}
	data = buf.Bytes()[:size:size]
	if !zero(buf.Bytes()[size:]) {
		return "", nil, fmt.Errorf("%w: something stands behind the end of a file", ErrArchive)
	}
	return name, data, nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", ErrArchive)
	}
	return err
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
