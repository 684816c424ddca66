#!/usr/bin/env bash
# prove-node.sh [PATTERN OF NAMES] — `make prove WHAT=node`: the tests of the node with the full counts and durations (the
# same code as in `make test`), and what they say of themselves as docs/measurements-node.md, each with the commit that it
# was measured at. A run that fails is in the page too; rows of those that were not run stay. Some five hours.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. e2e/lib.sh
page=docs/measurements-node.md
wanted=${1:-}
declare -A rows
names=() failed=0
measured="$(git rev-parse --short HEAD 2>/dev/null || echo none), $(date -u +%F), $(nproc) cores,\
 $(free -g | awk '/^Mem/ {print $2}') GiB, Linux $(uname -r)"

# prove NAME "VARIABLE=VALUE …" TEST [PART OF A TEST'S NAME]
prove() {
  local name=$1 variables=$2 test=$3 part=${4:-} log begin=$SECONDS outcome said
  names+=("$name")
  [[ $name =~ $wanted ]] || return
  mkdir -p "$LOG_DIR"
  log=$LOG_DIR/prove-${name//[^a-z0-9]/-}.log
  printf '%s\n' "${bold}── $name${plain}"
  # shellcheck disable=SC2086 # several variables, and perhaps no name
  if env $variables cargo test --profile ci --workspace --features node/failpoints --test "$test" -- --nocapture \
    --test-threads 1 $part >"$log" 2>&1; then outcome=held; else outcome='**failed**' failed=1; fi
  # A test's first words come after its name, on the same line.
  said=$(sed -E 's/^test .* \.\.\. //' "$log" |
    grep -vE '^(ok|FAILED|test |running|$)|^ *(Compiling|Finished|Running|Blocking)|^(warning|error|failures)' | head -n 30 |
    sed 's/|/\\|/g' | paste -sd '~' | sed 's/~/<br>/g')
  printf '   %s, %s s\n' "$outcome" "$((SECONDS - begin))"
  rows[$name]="| $name | $outcome | ${said:--} | \`$variables cargo test --profile ci --workspace --features node/failpoints --test $test -- --nocapture ${part}\` | $measured |"
}

prove "generated statements on three stores" "DETERMINISM_STATEMENTS=1000000" determinism "--exact three_replicas_stay_equal"
prove "the same in three processes with other clocks and time zones" "DETERMINISM_STATEMENTS=1000000" determinism clocks_and
prove "the same, and what changes is captured" "DETERMINISM_STATEMENTS=1000000" determinism capture_what_changes
prove "power cuts, 50 each of one, two, all members" "POWER_ROUNDS=50" power
prove "kills of the leader, no failed request on the others" "MEMBERS_ROUNDS=30" members living_member
prove "leadership handed over under load" "LEADERSHIP_ROUNDS=30 LEADERSHIP_SECONDS=60" leadership
prove "an hour of full load, no election" "LEADERSHIP_SECONDS=3600" leadership full_load
prove "a million changes at a sink, the leader killed ten times" "CHANGES=1000000 KILLS=10" changes "--ignored proof"
prove "an open reader for ten minutes, 2 GiB streamed" "READERS_SECONDS=600 STREAM_MIB=2048" readers
prove "crash at every step" "" crash
prove "members come and go, by seeds" "CHURN_SEEDS=50 CHURN_STEPS=100" churn
prove "memory that SQLite does not get" "NO_MEMORY_EACH=7" no_memory
prove "10,000 connections that say little" "CONNECTIONS=10000" connections
prove "databases changed behind their backs" "CONSISTENCY_ROUNDS=10" consistency
prove "2 GiB booted and loaded in 256 MiB of memory" "LOAD_MIB=2048" large
prove "restores to any moment" "BACKUP_MOMENTS=100" backup
# shellcheck source=e2e/kube/lib.sh
s3=$(. e2e/kube/lib.sh && echo "$KUBE_BIN/versitygw")
if [ -x "$s3" ]; then
  prove "uploader killed at each step" "BACKUP_S3=$s3" backup_faults --include-ignored
  prove "everything lost at 200 writes a second, but an S3 server" "BACKUP_DISASTERS=20 BACKUP_S3=$s3" backup recovery_point
  prove "a large database to an S3 server and back" "BACKUP_MIB=2048 BACKUP_S3=$s3" backup large
  prove "an S3 server that is away for five minutes" "BACKUP_AWAY=300 BACKUP_S3=$s3" backup_faults "--ignored away"
  prove "writes while an S3 server gets a backup and the archive" "BACKUP_SECONDS=60 BACKUP_S3=$s3 BACKUP_S3_DIR=/dev/shm" backup_faults "--ignored latency"
  prove "the same, all processors busy throughout" \
    "BACKUP_BUSY=1 BACKUP_SECONDS=60 BACKUP_S3=$s3 BACKUP_S3_DIR=/dev/shm" backup_faults "--ignored latency"
fi

((${#rows[@]})) || { echo "no proof is named like $wanted" >&2; exit 2; }
# One at a time: another one may have proven something else meanwhile. What was measured by other commands stays.
exec 9<"$page"
flock 9
before=$(sed '/^## /,$d' "$page") others=$(sed -n '/^## /,$p' "$page")
{
  echo "# Measurements of the node"
  echo
  echo "By \`make prove WHAT=node\`, or \`e2e/prove-node.sh PATTERN\` for those whose name matches."
  echo
  echo "| what | outcome | what it said | command | measured at |"
  echo "|---|---|---|---|---|"
  for name in "${names[@]}"; do
    if [ -n "${rows[$name]:-}" ]; then echo "${rows[$name]}"; else grep -F "| $name |" <<<"$before"; fi
  done
  [ -z "$others" ] || printf '\n%s\n' "$others"
} >"$page"
echo "written: $page"
exit $failed
