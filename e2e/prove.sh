#!/usr/bin/env bash
# prove.sh [node | PART OF A NAME] — `make prove`: the tests of the node (prove-node.sh) and the end-to-end tests, or only
# one of both, with their full counts; what the end-to-end tests measured goes into docs/measurements.jsonl, test by test,
# and from there into the tables of docs/measurements.md. Numbers of tests that were not run stay.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. e2e/lib.sh
case ${1:-} in
node) exec e2e/prove-node.sh ;;
'') e2e/prove-node.sh; node=$? ;;
*) node=0 ;;
esac
# Clouds and users have what is compiled as a release, so that is what is measured.
E2E_PROFILE=release E2E_PROVE=1 E2E_TESTS=${1:-} e2e/test.sh tools e2e
status=$?
results=$TARGET/e2e-artifacts/results.jsonl
[ -s "$results" ] || exit $((status | node))
commit=$(git rev-parse --short HEAD 2>/dev/null || echo none)
# What an earlier proof wrote into the pages is no change of what is proved.
[ -z "$(git status --porcelain -- . ':!docs' 2>/dev/null)" ] || commit+=-dirty
"$TARGET/ci/measurements" --results "$results" --docs docs --command "make prove${1:+ WHAT=$1}" \
  --commit "$commit" --date "$(date -u +%F)" \
  --machine "$(nproc) cores, $(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)" || exit
echo "written: docs/measurements.jsonl, docs/measurements.md"
exit $((status | node))
