#!/bin/bash
# What TLS on both ports and users with hashed passwords cost: two clusters of three, one with and one without, measured in
# turn, load by load; prints the medians and their ratios.
#   bench/security.sh [OUT.jsonl]
# REPS, SECONDS_EACH  rounds, seconds of each measurement
# Also the variables of cluster.sh, and BENCH.
source "$(dirname "$0")/lib.sh"
out=${1:-$target/bench-security-$(date +%Y%m%dT%H%M%S).jsonl}
reps=${REPS:-5} seconds=${SECONDS_EACH:-3}
base=${BENCH_DIR:-/var/tmp/sqlited-bench-$(id -u)} port=${BENCH_PORT:-15000}

# Sets what cluster.sh needs of one of the two.
choose() {
  export BENCH_DIR=$base-$1
  if [[ $1 = secure ]]; then export SECURE=1 BENCH_PORT=$((port + 100)); else export SECURE='' BENCH_PORT=$port; fi
}
stop() { for kind in plain secure; do choose $kind; "$here/cluster.sh" stop; done; }
trap stop EXIT
for kind in plain secure; do choose $kind; "$here/cluster.sh" start; done

while read -r work clients; do
  for _ in $(seq "$reps"); do
    for kind in plain secure; do
      choose $kind
      access=()
      [[ -z $SECURE ]] || access=(--ca "$BENCH_DIR/ca.pem" --user-file "$BENCH_DIR/user")
      "$bench" run --addrs "$("$here/cluster.sh" addrs)" --pids "$("$here/cluster.sh" pids)" "${access[@]}" --tag $kind \
        --out "$out" --reps 1 --seconds "$seconds" --spare 0 --work "$work" --clients "$clients" >/dev/null
    done
  done
done <<'END'
insert 1
insert 64
bulk 4
query-none 64
query-weak 64
query-linearizable 64
mixed 64
END

echo "| work | clients | without, rows/s | with, rows/s | cost | CPU s per 10,000 rows, without | with |"
echo "|---|--:|--:|--:|--:|--:|--:|"
jq -rs 'def median: sort | .[length / 2 | floor];
  map(select(.work)) | group_by([.work, .clients])[] | . as $all
  | def of(tag; f): [$all[] | select(.tag == tag) | f] | median;
    of("plain"; .rows_per_s) as $off | of("secure"; .rows_per_s) as $on
  | def cpu(tag): of(tag; .cpu_s_per_10k_rows | add // 0);
    "| \(.[0].work) | \(.[0].clients) | \($off | round) | \($on | round) | \((1 - $on / $off) * 1000 | round / 10) % | \(cpu("plain") * 100 | round / 100) | \(cpu("secure") * 100 | round / 100) |"' "$out"
printf '\n%s\n' "Records: $out"
