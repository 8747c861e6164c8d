#!/usr/bin/env bash
# Everything: formatting, vet, all tests under the race detector where the
# machine has a C compiler, each fuzz target for a moment. What this machine
# lacks is named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
missing=()

unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	printf 'gofmt would change:\n%s\n' "$unformatted" >&2
	exit 1
fi
"$go" vet ./...

./deploy/fuzz.sh "${FUZZTIME:-2s}"

race=-race
if ! command -v "${CC:-cc}" >/dev/null; then
	race=
	missing+=("a C compiler: the race detector did not run")
fi
[ -e /dev/nvidiactl ] || missing+=("an NVIDIA GPU: gpu/nvml was tested on its answer 'no NVML' only")

status=0
"$go" test $race -timeout 25m ./... || status=$?
for m in "${missing[@]}"; do
	echo "not on this machine: $m"
done
exit $status
