#!/bin/bash
# `make bench`: sqlited and its peers side by side on this machine, in turn, every one durable, three members on
# loopback; then one table, written into docs/performance.md. About 15 minutes, and the building before.
#   bench/compare.sh
# PEERS         which peers (default: etcd,hiqlite, dqlite where libdqlite is installed, rqlite where RQLITED is set)
# REPS          rounds over all of them (default 3; the table shows medians)
# CLIENTS       numbers of clients of the inserts (default 1,16,64,256)
# READ_CLIENTS  the same of reads and the mixed load (default 1,64)
# SECONDS_EACH  measured seconds of one repetition (default 3)
# QUICK=1       one round of one second each, without failovers: some minutes; leaves the page alone
# AGAIN=1       measure anew; otherwise what the records of this commit have already is not measured again
# RECORDS       file of the records (default: target/bench/records-COMMIT.jsonl)
# PAGE          the page (default: docs/performance.md)
# PREBUILT=1    builds nothing that is there already
# ALONE         a command put before each measurement (at most about 3 minutes), where a machine is shared: flock FILE
# RQLITED       rqlite's program, to measure it too
# Also the variables of cluster.sh, and BENCH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
bin=$target/bench/bin
quick=${QUICK:-}
reps=${REPS:-${quick:+1}} seconds=${SECONDS_EACH:-${quick:+1}}
reps=${reps:-3} seconds=${seconds:-3}
clients=${CLIENTS:-1,16,64,256} read_clients=${READ_CLIENTS:-1,64}
export BENCH=${BENCH:-$target/release/bench} SQLITED=${SQLITED:-$target/release/sqlited}
export HIQLITE=${HIQLITE:-$bin/hiqlite-bench}
export BENCH_DIR=${BENCH_DIR:-/var/tmp/sqlited-bench-$(id -u)}

say() { echo "bench: $*" >&2; }

# The program that has the client of a kind.
generator() { if [[ $1 = hiqlite ]]; then echo "$HIQLITE"; else echo "$BENCH"; fi; }
spoken() { case $1 in etcd | dqlite) echo "$1" ;; *) echo rqlite ;; esac; }

# Reads that any member answers; their clients are spread over all members.
anywhere=query-none,query-linearizable
# Works of a kind whose clients talk to the leader, beside writes.
at_leader() {
  case $1 in
    sqlited | rqlite) echo query-weak,query-strong,mixed ;;
    etcd | hiqlite) echo mixed ;;
    dqlite) echo query-weak,mixed ;;
  esac
}

# The block device below BENCH_DIR, for its flushes.
disk() {
  mkdir -p "$BENCH_DIR"
  local device
  device=$(df --output=source "$BENCH_DIR" | tail -n 1)
  device=${device#/dev/}
  if grep -qw "$device" /proc/diskstats; then echo "$device"; fi
}

# Sets `plans`: arguments of `bench run`, one line for each group of works.
plans() {
  plans=("--work insert --clients $clients" "--work bulk --clients 1,4"
    "--work $(at_leader "$1") --clients $read_clients")
  [[ $1 = dqlite ]] || plans+=("--work $anywhere --clients $read_clients --to spread")
}

# A new cluster, for as long as this process lives; sets `cluster`: what `bench` is to know of it.
cluster_of() {
  export KIND=$1
  trap '"$here/cluster.sh" stop' EXIT
  "$here/cluster.sh" start
  cluster=(--addrs "$("$here/cluster.sh" addrs)" --pids "$("$here/cluster.sh" pids)" --kind "$(spoken "$1")"
    --tag "$1" --out "$RECORDS")
}

# All loads of one kind, up to so many repetitions.
measure_loads() {
  local kind=$1 reps=$2 plan words=()
  local disk=()
  [[ -z $(disk) ]] || disk=(--disk "$(disk)")
  cluster_of "$kind"
  plans "$kind"
  for plan in "${plans[@]}"; do
    read -ra words <<<"$plan"
    "$(generator "$kind")" run "${cluster[@]}" "${disk[@]}" "${words[@]}" --resume --reps "$reps" \
      --seconds "$seconds" --warm 0.6 >/dev/null
  done
}

measure_failover() {
  local kind=$1 by=$2
  cluster_of "$kind"
  "$(generator "$kind")" failover "${cluster[@]}" --by "$by" --warm 2 --seconds 10 >/dev/null
}

# One step of a run, made a process of its own so that ALONE can stand before it.
if [[ ${1:-} = --step ]]; then
  shift
  "$@"
  exit
fi

peers=${PEERS-}
if [[ -z ${PEERS+set} ]]; then
  peers=etcd,hiqlite
  if pkg-config --exists dqlite 2>/dev/null; then peers+=,dqlite; fi
  if [[ -n ${RQLITED:-} ]]; then peers+=,rqlite; fi
fi
IFS=, read -ra kinds <<<"sqlited${peers:+,$peers}"

build() {
  say "building $1"
  mkdir -p "$bin"
  case $1 in
    sqlited) (cd "$root" && cargo build --release -p bench -p node) ;;
    etcd) (cd "$here/peers/etcd" && go build -trimpath -o "$bin/etcd" go.etcd.io/etcd/server/v3) ;;
    hiqlite)
      (cd "$here/peers/hiqlite" && cargo build --release --locked --target-dir "$target/bench/hiqlite")
      cp "$target/bench/hiqlite/release/hiqlite-bench" "$bin/"
      ;;
    dqlite)
      # shellcheck disable=SC2046 # flags are words
      cc -O2 -Wall -o "$bin/dqlite-node" "$here/peers/dqlite/node.c" $(pkg-config --cflags --libs dqlite)
      ;;
    rqlite) [[ -x ${RQLITED:-} ]] || { say "RQLITED names no program"; exit 2; } ;;
    *) say "unknown peer $1"; exit 2 ;;
  esac
}
built() {
  case $1 in
    sqlited) [[ -n ${PREBUILT:-} && -x $SQLITED && -x $BENCH ]] ;;
    etcd) [[ -n ${PREBUILT:-} && -x $bin/etcd ]] ;;
    hiqlite) [[ -n ${PREBUILT:-} && -x $HIQLITE ]] ;;
    dqlite) [[ -n ${PREBUILT:-} && -x $bin/dqlite-node ]] ;;
    *) false ;;
  esac
}
for kind in "${kinds[@]}"; do built "$kind" || build "$kind"; done

commit=$(git -C "$root" rev-parse --short HEAD)
git -C "$root" diff --quiet HEAD -- node bench Cargo.lock || commit+=-changed
export RECORDS=${RECORDS:-$target/bench/records-$commit${quick:+-quick}.jsonl}
mkdir -p "$(dirname "$RECORDS")"
[[ -z ${AGAIN:-} ]] || rm -f "$RECORDS"
read -ra alone <<<"${ALONE:-}"
export SECONDS_EACH=$seconds CLIENTS=$clients READ_CLIENTS=$read_clients

missing() { # KIND REPS: repetitions that are still to be made
  local plan words=() sum=0
  plans "$1"
  for plan in "${plans[@]}"; do
    read -ra words <<<"$plan"
    sum=$((sum + $("$BENCH" pending --tag "$1" --out "$RECORDS" --reps "$2" "${words[@]}")))
  done
  echo "$sum"
}
failovers() { # KIND BY: how many there are
  if [[ -f $RECORDS ]]; then grep -c "\"tag\":\"$1\",\"by\":\"$2\"" "$RECORDS" || true; else echo 0; fi
}

for round in $(seq "$reps"); do
  for kind in "${kinds[@]}"; do
    left=$(missing "$kind" "$round")
    ((left)) || continue
    say "round $round of $reps: $kind, $left repetitions"
    "${alone[@]}" "$0" --step measure_loads "$kind" "$round"
  done
done
if [[ -z $quick ]]; then
  for round in $(seq "$reps"); do
    for kind in "${kinds[@]}"; do
      for by in kill transfer; do
        [[ $by = kill || $kind = sqlited ]] || continue
        (($(failovers "$kind" "$by") < round)) || continue
        say "round $round of $reps: $kind, leadership lost by $by"
        "${alone[@]}" "$0" --step measure_failover "$kind" "$by"
      done
    done
  done
fi

if [[ -n $quick ]]; then
  "$BENCH" report "$RECORDS"
  say "records: $RECORDS"
  exit
fi
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
memory=$(awk '/^MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)
versions="sqlited $commit"
for kind in "${kinds[@]:1}"; do
  case $kind in
    etcd) versions+=", etcd $("$bin/etcd" --version | sed -n 's/^etcd Version: //p')" ;;
    hiqlite) versions+=", hiqlite $(sed -n '/^name = "hiqlite"$/{n;s/version = "\(.*\)"/\1/p}' "$here/peers/hiqlite/Cargo.lock") with a sync before the acknowledgement" ;;
    dqlite) versions+=", dqlite $(pkg-config --modversion dqlite)" ;;
    rqlite) versions+=", $("$RQLITED" -version | cut -d' ' -f1,2)" ;;
  esac
done
"$BENCH" compare "$RECORDS" --into "${PAGE:-$root/docs/performance.md}" --about "Measured by \`make bench\` on $(date -u +%F): $versions; \
three members and the clients on one machine with $(nproc) processors ($cpu), $memory, Linux $(uname -r); medians of $reps rounds of $seconds s, \
the kinds in turn within each round. Clients of query-none and query-linearizable are spread over all members, all others talk to the leader."
say "wrote ${PAGE:-docs/performance.md}; records: $RECORDS"
