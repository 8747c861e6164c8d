#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time, or number of inputs
# (3000x). A package is built and linked once, not once for each of its targets.
#
# With "plain" behind it the fuzzer is not told what its inputs reach: the binaries
# are those of the other tests, where guidance has every package of the module,
# its libraries and Go's own compiled once more and run four times slower. A few
# thousand inputs find nothing by guidance; hours do (make fuzz FUZZTIME=1h).
#
# A target that finds something does not keep the others from being run; all that was
# found is told again at the end. The input lies in testdata/fuzz beside the target.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
time=${1:-3000x}
guided=(-fuzz .)
[ "${2:-}" != plain ] || guided=()
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cache=$("$go" env GOCACHE)/fuzz
: >"$tmp/failed"
grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -r -n1 dirname | sort -u | while read -r dir; do
	"$go" test -c ${guided[@]+"${guided[@]}"} -o "$tmp/fuzz.test" "$dir"
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | awk '{print $2}' | sort -u); do
		(cd "$dir" && "$tmp/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" \
			-test.fuzzminimizetime 1x -test.fuzzcachedir "$cache/${dir#./}") >"$tmp/out" 2>&1 || {
			cat "$tmp/out"
			echo "fuzz $dir $target: FAILED" | tee -a "$tmp/failed"
			continue
		}
		echo "fuzz $dir $target: ok"
	done
done
if [ -s "$tmp/failed" ]; then
	cat "$tmp/failed"
	exit 1
fi
