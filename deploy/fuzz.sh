#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time, or number of inputs (3000x).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-3000x}
grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -r -n1 dirname | sort -u | while read -r dir; do
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | awk '{print $2}' | sort -u); do
		${GO:-go} test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x >/tmp/fuzz.$$ 2>&1 || { cat /tmp/fuzz.$$; rm -f /tmp/fuzz.$$; exit 1; }
		echo "fuzz $dir $target: ok"
	done
done
rm -f /tmp/fuzz.$$
