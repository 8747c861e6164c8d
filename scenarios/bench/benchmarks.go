package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// benchmarks runs Go benchmarks of one package several times, one processor
// after the other, and gives the median of each figure: name of the benchmark
// without "Benchmark" and the processor count, then unit.
func benchmarks(ctx context.Context, pkg, pattern string, args ...string) (figures, error) {
	args = append([]string{"test", "-run", "^$", "-bench", pattern, "-timeout", "20m"}, append(args, "github.com/sovmesh/sovmesh/"+pkg)...)
	cmd := exec.CommandContext(ctx, "go", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	got := medians(out)
	if len(got) == 0 {
		return nil, fmt.Errorf("go %s: no benchmark ran; does the pattern still name one?\n%s", strings.Join(args, " "), out)
	}
	return got, nil
}

// figures are medians by benchmark and unit.
type figures map[string]map[string]float64

// of is one figure, and an error if the benchmark does not report it any more.
func (f figures) of(name, unit string) (float64, error) {
	v, is := f[name][unit]
	if !is {
		return 0, fmt.Errorf("Benchmark%s gives no %s", name, unit)
	}
	return v, nil
}

// medians reads what `go test -bench` prints: a name, a count, then pairs of a
// value and its unit.
func medians(out []byte) figures {
	all := map[string]map[string][]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(words[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		if all[name] == nil {
			all[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(words); i += 2 {
			if v, err := strconv.ParseFloat(words[i], 64); err == nil {
				all[name][words[i+1]] = append(all[name][words[i+1]], v)
			}
		}
	}
	middle := figures{}
	for name, units := range all {
		middle[name] = map[string]float64{}
		for unit, values := range units {
			slices.Sort(values)
			middle[name][unit] = values[len(values)/2]
		}
	}
	return middle
}
