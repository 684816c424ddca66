#!/bin/bash
# Where the members' processor time goes under a load: prints shares, and draws a flame graph by thread,
# docs/performance-WORK-CLIENTS.svg.
#   bench/flame.sh [WORK CLIENTS [leader|spread]]
# Without arguments the loads whose times docs/performance.md divides.
# SECONDS_EACH  how long each is looked at (default 5)
# Needs perf (Debian: linux-perf); inferno, which draws, is compiled once.
# Also the variables of cluster.sh, and BENCH.
source "$(dirname "$0")/lib.sh"
seconds=${SECONDS_EACH:-5} tools=$target/bench/tools
command -v perf >/dev/null || { echo "flame: perf is missing: apt install linux-perf" >&2; exit 1; }
[[ -x $tools/bin/inferno-flamegraph ]] || cargo install inferno --version '^0.12' --locked --root "$tools"
samples=$(mktemp -d -p /var/tmp)
trap '"$here/cluster.sh" stop; rm -rf "$samples"' EXIT
new_cluster

# picture WORK CLIENTS WHERE — dwarf stacks, as SQLite and the C library have no frame pointers; at a rate at which writing
# them down is no load of its own.
picture() {
  local load page=$here/../docs/performance-$1-$2.svg
  "$bench" run "${cluster[@]}" --tag flame --out "$samples/records.jsonl" --reps 1 --spare 0 --seconds $((seconds + 3)) \
    --work "$1" --clients "$2" --to "$3" >"$samples/said" 2>&1 &
  load=$!
  # Past the beginning: connections, and rows that reads find.
  sleep 2
  perf record --quiet -e cpu-clock -F 199 --call-graph dwarf,8192 -p "$("$here/cluster.sh" pids)" -o "$samples/data" \
    -- sleep "$seconds"
  wait "$load" || { cat "$samples/said" >&2; exit 1; }
  perf script --no-inline -i "$samples/data" 2>"$samples/said" | "$tools/bin/inferno-collapse-perf" >"$samples/folded"
  "$tools/bin/inferno-flamegraph" --minwidth 0.5 --title "sqlited, $1, $2 clients: processor time of three members" \
    --subtitle "$(awk '{n += $NF} END {print n}' "$samples/folded") samples in $seconds s, $(git -C "$here" rev-parse --short HEAD)" \
    "$samples/folded" >"$page"
  echo "$1, $2 clients"
  awk -f "$here/shares.awk" "$samples/folded"
  echo "written: docs/$(basename "$page")"
}

if (($#)); then
  picture "$1" "${2:?how many clients}" "${3:-leader}"
else
  while read -r work clients where; do picture "$work" "$clients" "$where"; done <<'END'
insert 1 leader
insert 64 leader
mixed 64 leader
query-linearizable 64 spread
END
fi
