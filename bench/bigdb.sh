#!/usr/bin/env bash
# bigdb.sh MIB — what a large database costs: three members on loopback are filled with MIB of rows, then
#   memory   resident memory after filling, and after a minute of rest
#   restart  kill -9 of a follower, of all; time until it is in service again, with a warm and (as root) a cold page cache
#   join     a member with an empty disk joins, without and with a load of inserts: time, throughput, p99 of the inserts
#            before and during, and how far each member's memory rises
#   backup   time of GET /db/backup, if the members serve it
# STEPS        which of them (default: all)
# SQLITED, BENCH, BENCH_DIR, BENCH_PORT, BENCH_FLAGS: see cluster.sh and lib.sh
. "$(dirname "$0")/lib.sh"
mib=${1:?how many MiB}
steps=${STEPS:-memory restart join backup}
export BENCH_DIR=${BENCH_DIR:-/var/tmp/sqlited-bigdb-$(id -u)}
work=$(mktemp -d)
load=
# shellcheck disable=SC2317 # called by the trap
end() {
  [[ -z $load ]] || kill "$load" 2>/dev/null || true
  for pid in $(extra_pids); do kill "$pid" 2>/dev/null || true; done
  "$here/cluster.sh" stop
  rm -rf "$work" "$BENCH_DIR"/data[123]
}
trap end EXIT
# Members that this script started again have other process ids than cluster.sh knows.
declare -A pid_of
extra_pids() { printf '%s\n' "${pid_of[@]}"; }

new_cluster
IFS=, read -ra addrs < <("$here/cluster.sh" addrs)
IFS=, read -ra pids < <("$here/cluster.sh" pids)
for i in 0 1 2; do pid_of[$i]=${pids[$i]}; done
health() { local port=${addrs[$1]##*:}; echo "127.0.0.1:$((port + 2))"; }
now() { date +%s%N; }
since() { awk -v ns="$(($(now) - $1))" 'BEGIN {printf "%.2f s", ns / 1e9}'; }
rss() { awk '/^VmRSS|^RssAnon/ {printf "%s %d MiB  ", $1, $2 / 1024}' "/proc/${pid_of[$1]}/status"; }
peak() { awk '/^VmHWM/ {print int($2 / 1024)}' "/proc/${pid_of[$1]}/status"; }
reset_peak() { echo 5 >"/proc/${pid_of[$1]}/clear_refs"; }
await_ready() { until curl -sf -m 1 -o /dev/null "http://$(health "$1")/ready"; do sleep 0.01; done; }
post() { curl -sf -m 120 -H 'Content-Type: application/json' --data-binary "$2" "http://${addrs[$1]}/db/execute"; }
leader() {
  local i
  for i in 0 1 2; do
    curl -sf -m 2 "http://${addrs[$i]}/cluster" | grep -q '"role":"Leader"' && echo "$i" && return
  done
  return 1
}
follower() { echo $((($(leader) + 1) % 3)); }
remember() { tr '\0' '\n' <"/proc/${pid_of[$1]}/cmdline" >"$work/cmdline$1"; }
start() {
  local arguments
  mapfile -t arguments <"$work/cmdline$1"
  setsid "${arguments[@]}" >>"$BENCH_DIR/$(($1 + 1)).log" 2>&1 </dev/null &
  pid_of[$1]=$!
  echo "${pid_of[$1]}" >"$BENCH_DIR/$(($1 + 1)).pid"
}
kill_9() { kill -9 "${pid_of[$1]}"; while kill -0 "${pid_of[$1]}" 2>/dev/null; do sleep 0.01; done; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }

for i in 0 1 2; do remember "$i"; done
post 0 '["CREATE TABLE big(id INTEGER PRIMARY KEY, filling BLOB)"]' >/dev/null
# 1 MiB of rows of 4 KB each, as a client would send them.
{
  printf '[["INSERT INTO big(filling) VALUES'
  for n in $(seq 256); do [[ $n = 1 ]] || printf ','; printf '(?)'; done
  printf '"'
  for n in $(seq 256); do printf ',"x'"'"'%s'"'"'"' "$(head -c 4000 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"; done
  printf ']]'
} >"$work/body"
began=$(now)
seq "$mib" | xargs -P 4 -I{} curl -sf -m 120 -o "$work/answer{}" --data-binary "@$work/body" "http://${addrs[0]}/db/execute"
if grep -lq error "$work"/answer*; then grep -h error "$work"/answer* | head -n 1; exit 1; fi
rm "$work"/answer*
echo "fill: $mib MiB of rows in $(since "$began")"
size=$(stat -L -c %s "$BENCH_DIR/data1/db.sqlite")
for i in 0 1 2; do await_ready "$i"; done

for step in $steps; do
  case $step in
  memory)
    for rest in 0 60; do
      sleep "$rest"
      for i in 0 1 2; do echo "memory after filling and ${rest} s of rest, member $((i + 1)): $(rss "$i")peak $(peak "$i") MiB"; done
    done
    ;;
  restart)
    for cache in warm cold; do
      [[ $cache = warm || $(id -u) = 0 ]] || continue
      i=$(follower)
      kill_9 "$i"
      [[ $cache = warm ]] || cold
      began=$(now); start "$i"; await_ready "$i"
      echo "restart: follower after kill -9, $cache: $(since "$began")"
    done
    for i in 0 1 2; do kill_9 "$i"; done
    began=$(now)
    for i in 0 1 2; do start "$i"; done
    for i in 0 1 2; do await_ready "$i"; done
    echo "restart: all after kill -9: $(since "$began")"
    ;;
  join)
    for loaded in no yes; do
      i=$(follower); other=$(leader)
      kill_9 "$i"
      curl -sf -m 20 -X DELETE --data-binary "{\"id\":\"$((i + 1))\"}" "http://${addrs[$other]}/remove"
      rm -rf "$BENCH_DIR/data$((i + 1))"
      for j in 0 1 2; do
        # Without the log there is only the snapshot.
        [[ $j = "$i" ]] || curl -sf -m 60 -o /dev/null -X POST "http://${addrs[$j]}/snapshot?trailing_logs=0"
      done
      if [[ $loaded = yes ]]; then
        load_for() { "$bench" run --addrs "${addrs[$other]}" --pids "${pid_of[$other]}" --work insert --clients 16 \
          --seconds "$1" --reps 1 --spare 0 --max-other 99 --tag "$2" --out "$work/$2.jsonl" >/dev/null 2>&1; }
        load_for 5 before
        # In parts until it is in service, however long that takes.
        rm -f "$work/joined"
        (part=0; until [[ -e $work/joined ]]; do load_for 4 "during-$((part += 1))"; done) &
        load=$!
        sleep 1.5
      fi
      for j in 0 1 2; do [[ $j = "$i" ]] || reset_peak "$j"; done
      declare -A idle=()
      for j in 0 1 2; do [[ $j = "$i" ]] || idle[$j]=$(peak "$j"); done
      began=$(now); start "$i"; await_ready "$i"
      took=$(($(now) - began))
      touch "$work/joined"
      awk -v ns="$took" -v bytes="$size" -v loaded="$loaded" 'BEGIN {
        printf "join: load %s, %d MiB caught up in %.2f s, %.0f MiB/s\n", loaded, bytes / 1048576, ns / 1e9, bytes / 1048576 / (ns / 1e9)}'
      for j in "${!idle[@]}"; do echo "join: peak of member $((j + 1)) $(peak "$j") MiB, ${idle[$j]} MiB before"; done
      echo "join: peak of the new member $(peak "$i") MiB"
      if [[ $loaded = yes ]]; then
        wait "$load" || true
        load=
        for file in "$work"/before.jsonl "$work"/during-*.jsonl; do
          echo "join: inserts $(basename "$file" .jsonl): $(tail -n 1 "$file" | grep -oE '"(per_s|p50_ms|p99_ms|p999_ms|rows_per_s|errors)":[0-9.]+' | paste -sd' ')"
        done
      fi
    done
    ;;
  backup)
    began=$(now)
    if curl -sf -m 600 -o "$work/backup" "http://${addrs[$(follower)]}/db/backup?level=none"; then
      echo "backup: $(stat -c %s "$work/backup") bytes in $(since "$began")"
    else
      echo "backup: not served"
    fi
    ;;
  *) echo "no such step: $step" >&2; exit 2 ;;
  esac
done
