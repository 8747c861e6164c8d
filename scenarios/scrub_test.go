package scenarios

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// scrubber replaces what differs from run to run by stable words. The same
// value gets the same word throughout a script, so that one can see that two
// hashes are equal.
type scrubber struct {
	dir    string
	words  map[string]string
	counts map[string]int
}

func newScrubber(dir string) *scrubber {
	return &scrubber{dir: dir, words: map[string]string{}, counts: map[string]int{}}
}

// rule replaces what matches; a match's first group, if any, is kept before the
// word. A rule with a name gives each value a number.
type rule struct {
	match *regexp.Regexp
	word  string
	named bool
}

var rules = []rule{
	{regexp.MustCompile(`(sm_[a-z0-9-]+_)[A-Za-z0-9_-]{43}`), "SECRET", true},
	{regexp.MustCompile(`(\b[a-z][a-z0-9-]*\.)[0-9a-z]{26}\b`), "JOB", true},
	{regexp.MustCompile(`(/(?:ledger|witness)\+)[0-9a-f]{8}\+[A-Za-z0-9+/]+={0,2}`), "KEY", false},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HASH", true},
	{regexp.MustCompile(`(sha256:)[0-9a-f]{12}\b`), "HASH", true},
	{regexp.MustCompile(`\b(?:[0-9a-z]{4}-){7}[0-9a-z]{4}\b`), "FINGERPRINT", true},
	{regexp.MustCompile(`(\b[a-z]+-\d/)\d+\b`), "LEAF", false},
	// How far a receipt has come depends on when it is asked for.
	{regexp.MustCompile(`(/ledger#)\d+(?: committed| witnessed \d+ of \d+)?`), "LEAF", false},
	{regexp.MustCompile(`(next try |the queue until |made for it at )\d\d:\d\d(?::\d\d)?\b`), "TIME", false},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?Z`), "TIME", false},
	{regexp.MustCompile(`(127\.0\.0\.1:)\d{4,5}\b`), "PORT", false},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "ID", true},
	{regexp.MustCompile(`("(?:index|created)": ?)\d{2,}`), "N", false},
	// What else a node runs depends on the machine.
	{regexp.MustCompile(`(?:\bcontainer )?\binference (?:microvm )?process(?: vm)?\b`), "inference process", false},
	// The day that decides, when nobody names one.
	{regexp.MustCompile(`((?:\bas of:?|"as_of":|, on) +"?)20\d\d-\d\d-\d\d\b`), "TODAY", false},
}

// hashStart is what short and long forms of a hash share.
const hashStart = 12

func (s *scrubber) text(text string) string {
	text = strings.ReplaceAll(text, s.dir, "$WORK")
	for _, r := range rules {
		text = replaceAll(text, r.match, func(m []string) string {
			value, kept := m[0], ""
			if len(m) > 1 {
				kept = m[1]
				value = strings.TrimPrefix(value, kept)
			}
			if !r.named {
				return kept + r.word
			}
			if r.word == "HASH" {
				value = value[:hashStart]
			}
			return kept + s.number(r.word, value)
		})
	}
	return tables(lastProgress(text))
}

func (s *scrubber) number(word, value string) string {
	if s.words[value] == "" {
		s.counts[word]++
		s.words[value] = fmt.Sprintf("%s%d", word, s.counts[word])
	}
	return s.words[value]
}

func replaceAll(text string, match *regexp.Regexp, word func([]string) string) string {
	return match.ReplaceAllStringFunc(text, func(all string) string { return word(match.FindStringSubmatch(all)) })
}

// header is the first line of a table.
var header = regexp.MustCompile(`^[A-Z][A-Z ]*(?:  +[A-Z]+(?: [A-Z]+)*)+$`)

var gap = regexp.MustCompile(` {2,}`)

// moving are the columns that show the clock.
var moving = map[string]string{"AGE": "0s", "SINCE": "0s", "AS OF": "TODAY"}

// tables lays tables out again: their columns were made for other words.
func tables(text string) string {
	var out []string
	var rows [][]string
	end := func() {
		var widths []int
		for n, row := range rows {
			for i, cell := range row {
				if still := moving[rows[0][i]]; n > 0 && still != "" && cell != "-" {
					cell = still
					row[i] = cell
				}
				if i == len(widths) {
					widths = append(widths, 0)
				}
				widths[i] = max(widths[i], len([]rune(cell)))
			}
		}
		for _, row := range rows {
			var line strings.Builder
			for i, cell := range row {
				fmt.Fprintf(&line, "%-*s", widths[i]+2, cell)
			}
			out = append(out, strings.TrimRight(line.String(), " "))
		}
		rows = nil
	}
	for _, line := range strings.Split(text, "\n") {
		cells := gap.Split(strings.TrimRight(line, " "), -1)
		switch {
		case header.MatchString(line):
			end()
			rows = [][]string{cells}
		case rows != nil && len(cells) == len(rows[0]):
			rows = append(rows, cells)
		default:
			end()
			out = append(out, line)
		}
	}
	end()
	return strings.Join(out, "\n")
}

// progress is one line of a command that follows a job. Which states it sees on
// the way depends on its luck: a terminal shows one line, and so does a script.
var progress = regexp.MustCompile(`^(\S+\.JOB\d+): (?:pending|starting|running|complete|failed|stopped|lost|unknown)`)

func lastProgress(text string) string {
	lines := strings.Split(text, "\n")
	var out []string
	for i, line := range lines {
		if m := progress.FindStringSubmatch(line); m != nil && i+1 < len(lines) && strings.HasPrefix(lines[i+1], m[1]+": ") {
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func TestScrub(t *testing.T) {
	s := newScrubber("/tmp/x")
	id := strings.Repeat("0j", 13)
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct{ in, want string }{
		{"as of 2026-11-21, expires 2026-12-21 23:05:55Z", "as of TODAY, expires TIME"},
		{"write a day, as in 2026-11-21", "write a day, as in 2026-11-21"},
		{"sha256:" + hash + " sha256:" + hash[:12] + "  x", "sha256:HASH1 sha256:HASH1  x"},
		{"https://127.0.0.1:46433", "https://127.0.0.1:PORT"},
		{"LINK    SINCE  X\nlocked  14s    x\n", "LINK    SINCE  X\nlocked  0s     x\n"},
		{"a-1." + id + ": pending\na-1." + id + ": complete\n", "a-1.JOB1: complete\n"},
		{"AS OF       CPU\n2026-11-21  30m\n-           300m\n", "AS OF  CPU\nTODAY  30m\n-      300m\n"},
		{"stop after 30s", "stop after 30s"},
		{"/tmp/x/mesh", "$WORK/mesh"},
	} {
		if got := s.text(c.in); got != c.want {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
}
