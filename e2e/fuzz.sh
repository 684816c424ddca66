#!/usr/bin/env bash
# fuzz.sh TARGET|all SECONDS [run | minimise] — `make fuzz`: runs the fuzz targets of node/fuzz one after the other, each for
# so many seconds, on what is kept in node/fuzz/corpus and on what earlier runs found (target/fuzz). `minimise` takes what
# adds coverage into the corpus. SQLite is built with the same instruments as Rust, so that coverage leads into it.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. e2e/lib.sh
wanted=${1:-all} seconds=${2:-600} what=${3:-run}
FUZZ=$TARGET/fuzz
# What a corpus may take in the repository.
MAX_FILES=200 MAX_BYTES=1048576 MAX_INPUT=16384
export PATH=$PATH:$FUZZ/tools/bin

prepare() {
  command -v rustup >/dev/null || die "fuzzing needs nightly Rust: install rustup"
  rustup toolchain list | grep -q '^nightly' || quietly fuzz-nightly rustup toolchain install nightly --profile minimal
  command -v clang >/dev/null || packages clang
  command -v clang >/dev/null || die "clang is missing: SQLite is built with it"
  command -v cargo-fuzz >/dev/null ||
    quietly fuzz-tools cargo +nightly install cargo-fuzz --version '^0.13' --locked --root "$FUZZ/tools"
}

cargo_fuzz() { # cargo_fuzz COMMAND ARGUMENT...
  local host command=$1; shift
  host=$(rustc -vV | sed -n 's/^host: //p')
  (cd node/fuzz && env CC=clang "CFLAGS_${host//-/_}=-fsanitize=address,fuzzer-no-link -fno-omit-frame-pointer -O1 -g1" \
    cargo +nightly fuzz "$command" --fuzz-dir . --target-dir "$FUZZ/build" "$@")
}

run() { # run TARGET
  local found=$FUZZ/found/$1 log=$LOG_DIR/fuzz-$1.log status=0
  mkdir -p "$found" "node/fuzz/corpus/$1" "$LOG_DIR"
  printf '%s\n' "${bold}── $1, $seconds s${plain}"
  # What is only in memory is quick, and gone at the end.
  TMPDIR=$scratch cargo_fuzz run "$1" "$found" "corpus/$1" -- -max_total_time="$seconds" -max_len=$MAX_INPUT -timeout=25 \
    -rss_limit_mb=4096 -print_final_stats=1 -verbosity=1 ${dictionary:+-dict="$dictionary"} >"$log" 2>&1 || status=$?
  grep -E '^stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)|^#[0-9]+\s+DONE' "$log" | sed 's/^/   /'
  ((status == 0)) && return
  tail -n 60 "$log" >&2
  printf '%s\n' "all of it: $log" >&2
  return 1
}

# Smallest inputs first, and no more than a repository should hold.
minimise() { # minimise TARGET
  local found=$FUZZ/found/$1 kept=$FUZZ/kept/$1 log=$LOG_DIR/fuzz-$1-minimise.log files=0 bytes=0 size name
  rm -rf "$kept"; mkdir -p "$kept" "$found" "node/fuzz/corpus/$1" "$LOG_DIR"
  cp -n "node/fuzz/corpus/$1/"* "$found/" 2>/dev/null
  cp "$found/"* "$kept/"
  TMPDIR=$scratch cargo_fuzz cmin "$1" "$kept" -- -max_len=$MAX_INPUT -timeout=25 -rss_limit_mb=4096 >"$log" 2>&1 ||
    { tail -n 40 "$log" >&2; return 1; }
  find "node/fuzz/corpus/$1" -type f ! -name 'seed-*' -delete
  files=$(find "node/fuzz/corpus/$1" -type f | wc -l)
  while read -r size name; do
    ((files < MAX_FILES && bytes + size < MAX_BYTES)) || break
    cmp -s "$kept/$name" "node/fuzz/corpus/$1/$name" && continue
    cp "$kept/$name" "node/fuzz/corpus/$1/$name"
    files=$((files + 1)) bytes=$((bytes + size))
  done < <(find "$kept" -type f -printf '%s %f\n' | sort -n)
  printf '%s\n' "   $1: $files inputs, $bytes bytes"
}

prepare || exit
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT
all=$(sed -n 's/^name = "\(.*\)"$/\1/p' node/fuzz/Cargo.toml | tail -n +2)
[ "$wanted" = all ] || { grep -qx "$wanted" <<<"$all" || die "no target $wanted; there are:" $all; all=$wanted; }
failed=0
for target in $all; do "$what" "$target" || failed=1; done
exit $failed
