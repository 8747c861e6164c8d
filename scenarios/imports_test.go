package scenarios

import (
	"flag"
	"os"
	"os/exec"
	"sort"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite expected output")

const module = "github.com/sovmesh/sovmesh"

// TestImports keeps testdata/imports.txt equal to the internal imports of the
// module, so that a new arrow between packages shows in review.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		for _, to := range words[1:] {
			if strings.HasPrefix(to, module) {
				lines = append(lines, strings.TrimPrefix(words[0], module+"/")+" -> "+strings.TrimPrefix(to, module+"/"))
			}
		}
	}
	sort.Strings(lines)
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/imports.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the internal imports differ from %s; if the new arrow is meant, run: make golden\ngot:\n%s", file, diff(string(want), got))
	}
}

// TestArrowsPointDown checks the lines of the house: an import leads to a
// lower line, or rightwards within one.
func TestArrowsPointDown(t *testing.T) {
	data, err := os.ReadFile("testdata/imports.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, arrow := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		from, to, _ := strings.Cut(arrow, " -> ")
		if !allowed(from, to) {
			t.Errorf("%s: not allowed by the lines of DESIGN.md", arrow)
		}
	}
}

// floor is the line a package stands on; chain names packages of one line
// that may import each other from left to right.
func floor(pkg string) int {
	switch {
	case strings.HasPrefix(pkg, "cli/"):
		return 6
	case strings.HasPrefix(pkg, "scenarios"):
		return 5
	case pkg == "node":
		return 4
	case strings.HasPrefix(pkg, "node/"):
		return 3
	case strings.HasPrefix(pkg, "consensus"), strings.HasPrefix(pkg, "transport"), strings.HasPrefix(pkg, "gpu"):
		return 2
	}
	return 1
}

var chains = [][]string{
	{"placement/simulate", "placement/scheduler", "placement", "placement/residency"}, {"placement/simulate", "placement/scheduler", "placement/engine"},
	{"consensus/evidence", "consensus/evidence/receipt", "consensus", "consensus/ledger/store", "consensus/state", "consensus/ledger"},
	{"transport/gossip", "transport", "transport/identity", "transport/attest"},
	{"node/api", "node/userdata"}, {"node/outputs", "node/tree"},
	{"gpu/nvml", "gpu/probe", "gpu/sysfs", "gpu"},
	{"scenarios", "scenarios/mesh"},
	{"consensus/evidence", "transport/identity"}, {"consensus/evidence/receipt", "transport/identity"},
}

func allowed(from, to string) bool {
	if a, b := floor(from), floor(to); a != b {
		return a > b
	}
	if strings.HasPrefix(from, "cli/") || strings.HasPrefix(from, "scenarios") {
		return true
	}
	if strings.HasPrefix(from, "node/driver/") {
		return to == "node/runner" || to == "node/userdata" || to == "node/tree" || strings.HasPrefix(to, "node/driver/")
	}
	for _, chain := range chains {
		i, j := index(chain, from), index(chain, to)
		if i >= 0 && j > i {
			return true
		}
	}
	return false
}

func index(list []string, s string) int {
	for i, v := range list {
		if v == s {
			return i
		}
	}
	return -1
}

func diff(want, got string) string {
	old := map[string]bool{}
	for _, l := range strings.Split(want, "\n") {
		old[l] = true
	}
	var b strings.Builder
	for _, l := range strings.Split(got, "\n") {
		if !old[l] {
			b.WriteString("+ " + l + "\n")
		}
		delete(old, l)
	}
	for l := range old {
		b.WriteString("- " + l + "\n")
	}
	return b.String()
}
