#!/bin/bash
# Three members of sqlited on loopback.
#   cluster.sh start         a new cluster; returns when all members are in service
#   cluster.sh stop          ends it, by pid
#   cluster.sh addrs | pids  host:port,… of the client ports; process ids, in the same order
# SQLITED      the program (default: target/release/sqlited)
# BENCH_DIR    data, logs and pid files; the data are deleted by `start`. A disk, not a tmpfs: fdatasync is what is measured
# BENCH_PORT   first port (default 15000)
# BENCH_FLAGS  further flags of sqlited
set -euo pipefail
cd "$(dirname "$0")/.."
sqlited=${SQLITED:-${CARGO_TARGET_DIR:-target}/release/sqlited}
dir=${BENCH_DIR:-/var/tmp/sqlited-bench-$(id -u)}
port=${BENCH_PORT:-15000}
members=(1 2 3)

client() { echo "127.0.0.1:$((port + 10 * $1 + 1))"; }
peer() { echo "127.0.0.1:$((port + 10 * $1 + 2))"; }
health() { echo "127.0.0.1:$((port + 10 * $1 + 3))"; }
pid() { cat "$dir/$1.pid"; }
# A process id may have been given to another program since: only one that was started with our directory is ours.
is_ours() { [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' <"/proc/$1/cmdline" | grep -qxF "$dir/data$2"; }
each() { for n in "${members[@]}"; do "$1" "$n"; done | paste -sd, -; }

start_member() {
  local flags=()
  read -ra flags <<<"${BENCH_FLAGS:-}"
  setsid "$sqlited" -node-id "$1" -http-addr "$(client "$1")" -raft-addr "$(peer "$1")" \
    -health-addr "$(health "$1")" -bootstrap-expect ${#members[@]} -join "$(each peer)" -log-level warn \
    "${flags[@]}" "$dir/data$1" >"$dir/$1.log" 2>&1 </dev/null &
  echo $! >"$dir/$1.pid"
}

await_ready() {
  for _ in $(seq 300); do
    curl -sf -m 1 -o /dev/null "http://$(health "$1")/ready" && return
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
    [[ -x $sqlited ]] || { echo "$sqlited is not there: cargo build --release -p node, or set SQLITED" >&2; exit 2; }
    stop
    rm -rf "$dir"/data[123] "$dir"/[123].log
    mkdir -p "$dir"
    for n in "${members[@]}"; do start_member "$n"; done
    for n in "${members[@]}"; do await_ready "$n" || { stop; exit 1; }; done
    ;;
  stop) stop ;;
  addrs) each client ;;
  pids) each pid ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
