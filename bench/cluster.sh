#!/bin/bash
# Three members of a server on loopback, every one durable: a write is acknowledged when a quorum has synced it.
#   cluster.sh start         a new cluster; returns when all members are in service
#   cluster.sh stop          ends it, by pid
#   cluster.sh addrs | pids  host:port,… of the client ports; process ids, in the same order
# KIND         sqlited (default), etcd, hiqlite, dqlite or rqlite
# SQLITED, ETCD, HIQLITE, DQLITE, RQLITED  their programs (default: as `make bench` builds them, below target)
# BENCH_DIR    data, logs and pid files; the data are deleted by `start`. A disk, not a tmpfs: fdatasync is what is measured
# BENCH_PORT   first port (default 15000)
# BENCH_FLAGS  further flags of the members
# SECURE=1     sqlited with TLS on both ports and a user with a hashed password; BENCH_DIR/ca.pem and user are for clients
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
kind=${KIND:-sqlited}
dir=${BENCH_DIR:-/var/tmp/sqlited-bench-$(id -u)}
port=${BENCH_PORT:-15000}
members=(1 2 3)
case $kind in
  sqlited) program=${SQLITED:-$target/release/sqlited} ;;
  etcd) program=${ETCD:-$target/bench/bin/etcd} ;;
  hiqlite) program=${HIQLITE:-$target/bench/bin/hiqlite-bench} ;;
  dqlite) program=${DQLITE:-$target/bench/bin/dqlite-node} ;;
  rqlite) program=${RQLITED:-rqlited} ;;
  *) echo "KIND=$kind is none of sqlited, etcd, hiqlite, dqlite, rqlite" >&2; exit 2 ;;
esac

client() { echo "127.0.0.1:$((port + 10 * $1 + 1))"; }
peer() { echo "127.0.0.1:$((port + 10 * $1 + 2))"; }
health() { echo "127.0.0.1:$((port + 10 * $1 + 3))"; }
pid() { cat "$dir/$1.pid"; }
# A process id may have been given to another program since: only one that was started with our directory is ours.
is_ours() { [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' <"/proc/$1/cmdline" | grep -qxF "$dir/data$2"; }
each() { for n in "${members[@]}"; do "$1" "$n"; done | paste -sd, -; }

# Certificates for loopback, of an authority of the cluster's own, and a user.
secure() {
  local password
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench \
    -keyout "$dir/ca.key" -out "$dir/ca.pem"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=member -keyout "$dir/member.key" \
    -out "$dir/member.csr"
  openssl x509 -req -in "$dir/member.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
    -out "$dir/member.pem" -extfile <(echo subjectAltName=IP:127.0.0.1)
  password=$(openssl rand -hex 16)
  (umask 077; echo "bench:$password" >"$dir/user")
  # The members show each other a password too, which is plain text in their own files.
  (umask 077; printf '[{"username": "bench", "password": "%s", "perms": ["all"]},
    {"username": "member", "password": "%s", "perms": ["join"]}]\n' \
    "$("$program" hash-password <<<"$password")" "$(openssl rand -hex 16)" >"$dir/users.json")
}

start_member() {
  local flags=() more=()
  read -ra more <<<"${BENCH_FLAGS:-}"
  case $kind in
    sqlited | rqlite)
      flags=(-node-id "$1" -http-addr "$(client "$1")" -raft-addr "$(peer "$1")"
        -bootstrap-expect ${#members[@]} -join "$(each peer)")
      [[ $kind = rqlite ]] || flags+=(-health-addr "$(health "$1")" -log-level warn)
      [[ -z ${SECURE:-} ]] || flags+=(-auth "$dir/users.json" -join-as member -http-cert "$dir/member.pem" -http-key "$dir/member.key"
        -node-cert "$dir/member.pem" -node-key "$dir/member.key" -node-ca-cert "$dir/ca.pem")
      flags+=("${more[@]}" "$dir/data$1")
      ;;
    etcd)
      flags=(--name "n$1" --data-dir "$dir/data$1" --log-level error --max-txn-ops 2048
        --listen-client-urls "http://$(client "$1")" --advertise-client-urls "http://$(client "$1")"
        --listen-peer-urls "http://$(peer "$1")" --initial-advertise-peer-urls "http://$(peer "$1")"
        --initial-cluster "$(for n in "${members[@]}"; do echo "n$n=http://$(peer "$n")"; done | paste -sd, -)"
        --initial-cluster-state new "${more[@]}")
      ;;
    hiqlite) flags=(node --id "$1" --api "$(each client)" --raft "$(each peer)" --data "$dir/data$1" "${more[@]}") ;;
    dqlite) flags=("$1" "$(client "$1")" "$dir/data$1" "${more[@]}") ;;
  esac
  mkdir -p "$dir/data$1"
  setsid "$program" "${flags[@]}" >"$dir/$1.log" 2>&1 </dev/null &
  echo $! >"$dir/$1.pid"
}

is_ready() {
  case $kind in
    sqlited) curl -sf -m 1 -o /dev/null "http://$(health "$1")/ready" ;;
    rqlite) curl -sf -m 1 -o /dev/null "http://$(client "$1")/readyz" ;;
    etcd) curl -sf -m 1 -o /dev/null "http://$(client "$1")/health" ;;
    hiqlite | dqlite) grep -qx ready "$dir/$1.log" ;;
  esac
}

await_ready() {
  for _ in $(seq 300); do
    is_ready "$1" && return
    kill -0 "$(pid "$1")" 2>/dev/null || break
    sleep 0.1
  done
  echo "member $1 is not in service; the end of $dir/$1.log:" >&2
  tail -n 5 "$dir/$1.log" >&2
  return 1
}

stop_member() {
  [[ -f $dir/$1.pid ]] || return 0
  local pid
  pid=$(pid "$1")
  if is_ours "$pid" "$1"; then
    kill "$pid"
    for _ in $(seq 100); do is_ours "$pid" "$1" || break; sleep 0.1; done
    if is_ours "$pid" "$1"; then kill -9 "$pid"; fi
  fi
  rm -f "$dir/$1.pid"
}

stop() { for n in "${members[@]}"; do stop_member "$n"; done; }

case ${1:-} in
  start)
    [[ -x $(command -v "$program") ]] || { echo "$program is not there: \`make bench\` builds it" >&2; exit 2; }
    stop
    rm -rf "$dir"/data[123] "$dir"/[123].log
    mkdir -p "$dir"
    [[ -z ${SECURE:-} ]] || secure 2>"$dir/secure.log"
    for n in "${members[@]}"; do start_member "$n"; done
    for n in "${members[@]}"; do await_ready "$n" || { stop; exit 1; }; done
    if [[ $kind = dqlite ]]; then "${BENCH:-$target/release/bench}" form --addrs "$(each client)" || { stop; exit 1; }; fi
    ;;
  stop) stop ;;
  addrs) each client ;;
  pids) each pid ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
