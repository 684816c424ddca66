#!/bin/bash
# All loads against a new cluster of three, then the table.
#   bench/run.sh [OUT.jsonl]
# REPS, SECONDS_EACH, CLIENTS  repetitions, seconds of each, numbers of clients
# TAG                          name in the records
# Also the variables of cluster.sh, and BENCH.
source "$(dirname "$0")/lib.sh"
out=${1:-$target/bench-$(date +%Y%m%dT%H%M%S).jsonl}
reps=${REPS:-3} seconds=${SECONDS_EACH:-4} clients=${CLIENTS:-1,16,64,256}
new_cluster
load() {
  "$bench" run "${cluster[@]}" --tag "${TAG:-sqlited}" --out "$out" --reps "$reps" --seconds "$seconds" "$@"
}
load --work insert --clients "$clients"
load --work bulk --clients 1,4
load --work query-none,query-weak,query-linearizable,mixed --clients "$clients"
printf '\n%s\n\n' "Records: $out"
"$bench" report "$out"
