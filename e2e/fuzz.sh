#!/usr/bin/env bash
# fuzz.sh run|minimise [TARGET|all] [SECONDS] — `make fuzz`: `run` runs the fuzz targets of node/fuzz, as many at a time as
# there are processors, each for so many seconds, on what is kept in node/fuzz/corpus and on what earlier runs found
# (target/fuzz/found); `minimise` takes what adds coverage into the corpus. SQLite is built with the same instruments as
# Rust, so that coverage leads into it. A run of all targets for ten minutes or more is written into docs/measurements-node.md.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. e2e/lib.sh
what=${1:-run} wanted=${2:-all} seconds=${3:-600}
FUZZ=$(mkdir -p "$TARGET/fuzz" && cd "$TARGET/fuzz" && pwd)
page=docs/measurements-node.md
# What a corpus may take in the repository, in files and bytes, and one input of it.
MAX_FILES=200 MAX_BYTES=1000000 MAX_INPUT=16384
export PATH=$PATH:$FUZZ/tools/bin
failed=0

prepare() {
  command -v rustup >/dev/null || die "fuzzing needs nightly Rust: install rustup"
  rustup toolchain list | grep -q '^nightly' || quietly fuzz-nightly rustup toolchain install nightly --profile minimal
  command -v clang >/dev/null || packages clang
  command -v clang >/dev/null || die "clang is missing: SQLite is built with it"
  command -v cargo-fuzz >/dev/null ||
    quietly fuzz-tools cargo +nightly install cargo-fuzz --version '^0.13' --locked --root "$FUZZ/tools"
}

# cargo_fuzz COMMAND ARGUMENT... — what is only in memory is quick, and gone at the end.
cargo_fuzz() {
  local host command=$1; shift
  host=$(rustc -vV | sed -n 's/^host: //p')
  # Each store has threads, and AddressSanitizer keeps a part of what each of them freed.
  (cd node/fuzz && env TMPDIR="$scratch" CC=clang \
    ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}quarantine_size_mb=64:thread_local_quarantine_size_kb=16" \
    "CFLAGS_${host//-/_}=-fsanitize=address,fuzzer-no-link -fno-omit-frame-pointer -O1 -g1" \
    cargo +nightly fuzz "$command" --fuzz-dir . --target-dir "$FUZZ/build" "$@")
}

run() { # run TARGET
  # Whole paths: the target of SQL works in a directory of its own.
  local corpus=$PWD/node/fuzz/corpus/$1 artifacts=$PWD/node/fuzz/artifacts/$1/
  local found=$FUZZ/found/$1 log=$LOG_DIR/fuzz-$1.log status=0 last executions crashes=0
  mkdir -p "$found" "$corpus" "$artifacts" "$LOG_DIR"
  # A store's threads may end a little after it: what they hold then is no leak.
  cargo_fuzz run "$1" "$found" "$corpus" -- -artifact_prefix="$artifacts" -detect_leaks=0 -max_total_time="$seconds" \
    -max_len="$MAX_INPUT" -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 >"$log" 2>&1 || status=$? crashes=1
  # "#12345 DONE cov: 678 ft: 910 corp: 11/12Kb …"; the last line of any kind where it crashed.
  last=$(grep -aE '^#[0-9]+\s.* cov: ' "$log" | tail -n 1)
  executions=$(grep -aoE '^#[0-9]+' <<<"$last" | tr -d '#')
  last=$(sed -E 's/.* cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+)\/([0-9A-Za-z]+) .*/\1 | \2 | \3 (\4)/' <<<"$last")
  printf '%s\n' "   $1, $seconds s: $executions executions; edges | features | inputs: $last"
  echo "| $1 | $seconds | $executions | $last | $crashes |" >"$scratch/$1.row"
  ((status == 0)) && return
  tail -n 60 "$log" >&2
  printf '%s\n' "all of it: $log" >&2
  return 1
}

# What is written as seed-… stays; of the rest the smallest inputs first, and no more than a repository should hold.
minimise() { # minimise TARGET
  local corpus=node/fuzz/corpus/$1 found=$FUZZ/found/$1 kept=$FUZZ/kept/$1 log=$LOG_DIR/fuzz-$1-minimise.log
  local files bytes size name seeds
  rm -rf "$kept"
  mkdir -p "$kept" "$found" "$corpus" "$LOG_DIR"
  find "$found" "$corpus" -type f -exec cp -t "$kept" {} +
  cargo_fuzz cmin "$1" "$kept" -- -max_len="$MAX_INPUT" -timeout=25 -rss_limit_mb=4096 >"$log" 2>&1 ||
    { tail -n 40 "$log" >&2; return 1; }
  find "$corpus" -type f ! -name 'seed-*' -delete
  # libFuzzer calls an input by its SHA-1.
  seeds=$(find "$corpus" -type f -exec sha1sum {} +)
  files=$(find "$corpus" -type f | wc -l)
  bytes=$(find "$corpus" -type f -printf '%s\n' | awk '{n += $1} END {print n + 0}')
  while read -r size name; do
    ((files < MAX_FILES && bytes + size < MAX_BYTES)) || break
    ! grep -q "^$name " <<<"$seeds" || continue
    cp "$kept/$name" "$corpus/"
    files=$((files + 1)) bytes=$((bytes + size))
  done < <(find "$kept" -type f -printf '%s %f\n' | sort -n)
  printf '%s\n' "   $1: $files inputs, $bytes bytes"
}

targets=$(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"$/\1/p' node/fuzz/Cargo.toml)
chosen=$targets
[ "$wanted" = all ] || { grep -qxF "$wanted" <<<"$targets" || die "no target $wanted; there are: ${targets//$'\n'/, }"; chosen=$wanted; }
prepare || exit
memory=/dev/shm
[ -w $memory ] || memory=${TMPDIR:-/tmp}
scratch=$(mktemp -d -p "$memory")
trap 'rm -rf "$scratch"' EXIT
case $what in
run)
  # First of all: builds of several at once would wait for each other.
  quietly fuzz-build cargo_fuzz build || exit
  for target in $chosen; do
    while (($(jobs -rp | wc -l) >= $(nproc))); do wait -n || failed=1; done
    run "$target" &
  done
  while [ -n "$(jobs -p)" ]; do wait -n || failed=1; done
  ;;
minimise) for target in $chosen; do minimise "$target" || failed=1; done ;;
*) die "$what is neither run nor minimise" ;;
esac
if [ "$what $wanted" = "run all" ] && ((seconds >= 600)); then
  measured=$(sed '/^## Fuzzing/,$d' "$page")
  {
    printf '%s\n\n' "$measured"
    echo "## Fuzzing"
    echo "By \`make fuzz\` at commit $(git rev-parse --short HEAD 2>/dev/null || echo none), $(date -u +%F); $(nproc) cores." \
      "Edges are of Rust and SQLite together."
    echo
    echo "| target | seconds | executions | edges | features | inputs | crashes |"
    echo "|---|--:|--:|--:|--:|--:|--:|"
    for target in $targets; do cat "$scratch/$target.row"; done
  } >"$page"
fi
exit $failed
