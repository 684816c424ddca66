#!/bin/bash
# Kills the leader (kill -9) under inserts, each time in a new cluster: how long is no insert acknowledged?
#   bench/failover.sh [REPETITIONS [OUT.jsonl]]
# TAG  name in the records; also the variables of cluster.sh, and BENCH.
source "$(dirname "$0")/lib.sh"
out=${2:-$target/failover-$(date +%Y%m%dT%H%M%S).jsonl}
for _ in $(seq "${1:-3}"); do
  new_cluster
  "$bench" failover "${cluster[@]}" --tag "${TAG:-sqlited}" --out "$out"
  "$here/cluster.sh" stop
done
printf '\n%s\n\n' "Records: $out"
"$bench" report "$out"
