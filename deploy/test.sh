#!/usr/bin/env bash
# Everything: formatting, vet, each fuzz target for a moment, all packages, those
# that start goroutines under the race detector where the machine has a C
# compiler, and the scenarios: whole meshes in virtual time, meshes on loopback,
# separate processes, container engines and machines. Those run without the race
# detector, which would slow a mesh down seven times on two cores, and scenarios one
# package at a time; a few meshes run under it at the end. What this machine lacks is
# named last.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
missing=()

# As make build compiles: what is built once serves vet, the tests, the agents that
# they start and the program. The race detector has everything compiled once more.
export GOFLAGS="${GOFLAGS:-} -trimpath -tags=netgo,osusergo"

unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	printf 'gofmt would change:\n%s\n' "$unformatted" >&2
	exit 1
fi
"$go" vet ./...

./deploy/fuzz.sh "${FUZZTIME:-3000x}" plain

race=-race
if ! command -v "${CC:-cc}" >/dev/null; then
	race=
	missing+=("a C compiler: the race detector did not run")
fi
[ -e /dev/nvidiactl ] || missing+=("an NVIDIA GPU: gpu/nvml ran against a double of the library, and on its answer 'no NVML'")
for tool in sha256sum python3 openssl; do
	command -v "$tool" >/dev/null || missing+=("$tool: the recipe in the packs' README was not played")
done
command -v systemd-analyze >/dev/null || missing+=("systemd-analyze: the units were not verified by it")
missing+=("a clock of its own for a process: a wrong clock is tested in virtual time only")

# These start no goroutine, and their mutation suites would take ten times as long.
alone='/(consensus/evidence|consensus/evidence/receipt|consensus/ledger)$'
# These start engines and machines, each a test at a time: their supervisors are
# these binaries, and would take the time of a boot to start with the detector in.
# An emulated machine takes a processor: they run one package at a time.
guests='/node/driver/(container|microvm|vm)$'
parts=$("$go" list ./... | grep -v /scenarios | grep -Ev "$alone|$guests")
machines=$("$go" list ./... | grep -E "$guests")
single=$("$go" list ./... | grep -E "$alone")
scenarios=$("$go" list ./scenarios/...)

status=0
skipped=$(mktemp)
trap 'rm -f "$skipped"' EXIT
# tests runs them and keeps what was skipped, with its reason: the last that the test said.
tests() {
	local log
	log=$(mktemp)
	"$go" test -v "$@" 2>&1 | tee "$log" | awk -v skipped="$skipped" '
		/^=== (RUN|NAME|CONT)/ { test = $3; next }
		/^ *--- SKIP/ { print $3 ": " reason[$3] >>skipped; next }
		/^ *(=== |--- PASS)/ || /^PASS$/ { next }
		/^ +[A-Za-z0-9_]+\.go:[0-9]+: / { line = $0; sub(/^ +[^ ]+ /, "", line); reason[test] = line }
		/^(ok|FAIL|--- FAIL|panic)/ || /^ *--- FAIL/ { print }' || {
		# All of it, but what passed: races, traces, and texts of several lines.
		grep -vE '^ *(=== |--- (PASS|SKIP))' "$log" | tail -n 3000
		rm -f "$log"
		return 1
	}
	rm -f "$log"
}
tests $race -timeout 20m $parts || status=1
if command -v mmdebstrap >/dev/null && [ "$(id -u)" = 0 ]; then
	./deploy/guest.sh "${SOVMESH_GUESTS:-${XDG_CACHE_HOME:-$HOME/.cache}/sovmesh}/debian-12" || echo "the Debian guest could not be made: a Debian mirror is needed"
fi
tests -p 1 -timeout 25m $machines || status=1
tests -timeout 15m $single || status=1
tests -p 1 -timeout 25m $scenarios || status=1
if [ -n "$race" ]; then
	"$go" test -race -timeout 15m -run 'OneNode|RegionOfThree|TaggedDE|IsForwarded|IsolatedRegion' ./scenarios/mesh || status=1
fi
for m in "${missing[@]}"; do
	echo "not on this machine: $m"
done
sort -u "$skipped" | sed 's/^/skipped: /'
exit $status
