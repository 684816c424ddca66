#!/usr/bin/env bash
# prove.sh [node | PART OF A NAME] — `make prove`: the tests of the node (prove-node.sh) and the end-to-end tests, or only
# one of both, with their full counts; what the end-to-end tests measured goes into docs/measurements.md.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. e2e/lib.sh
case ${1:-} in
node) exec e2e/prove-node.sh ;;
'') e2e/prove-node.sh; node=$? ;;
*) node=0 ;;
esac
E2E_PROVE=1 E2E_TESTS=${1:-} e2e/test.sh tools e2e
status=$?
results=$TARGET/e2e-artifacts/results.jsonl
[ -s "$results" ] || exit $((status | node))
mkdir -p docs
others=$(sed -n '/^## /,$p' docs/measurements.md) # what was measured by other commands stays
{
  echo "# Measurements"
  echo
  echo "By \`make prove${1:+ WHAT=$1}\` at commit $(git rev-parse --short HEAD 2>/dev/null || echo none), $(date -u +%F);" \
    "$(nproc) cores, $(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)." \
    "An open loop of 200 writes a second, none of them sent again; a pause is the longest time between two acknowledgements."
  echo
  echo "| what | runs | acknowledged | lost | written twice | failed | p99, median | pause, median | pause, longest |"
  echo "|---|---|---|---|---|---|---|---|---|"
  jq -rs 'map(select(.ledger)) | group_by([.test, .what])[] | . as $runs
    | ([.[].ledger.longest_gap.length_ms] | sort) as $pauses
    | ([.[].ledger.p99_us] | sort) as $p99
    | def total(f): [$runs[].ledger | f] | add;
      "| \(.[0].what) | \(length) | \(total(.acknowledged)) | \(total(.lost | length)) | \(total(.duplicates | length)) | \(total(.failed + .unknown)) | \($p99[length / 2 | floor] / 1000) ms | \($pauses[length / 2 | floor] / 1000) s | \($pauses[-1] / 1000) s |"' "$results"
  echo
  echo "| what | runs | median | longest |"
  echo "|---|---|---|---|"
  jq -rs 'map(select(.milliseconds)) | group_by([.test, .what])[] | ([.[].milliseconds] | sort) as $times
    | "| \(.[0].what) | \(length) | \($times[length / 2 | floor] / 1000) s | \($times[-1] / 1000) s |"' "$results"
  [ -z "$others" ] || printf '\n%s\n' "$others"
} >docs/measurements.md
echo "written: docs/measurements.md"
exit $((status | node))
