# shellcheck shell=bash
# What run.sh and failover.sh share; sourced.
# BENCH        the program (default: target/release/bench); where BENCH or SQLITED is not set, it is built
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
build=()
[[ -n ${BENCH:-} ]] || build+=(-p bench)
[[ -n ${SQLITED:-} ]] || build+=(-p node)
if ((${#build[@]})); then (cd "$here/.." && cargo build --release "${build[@]}"); fi
# shellcheck disable=SC2034 # used where this is sourced
bench=${BENCH:-$target/release/bench}
export SQLITED=${SQLITED:-$target/release/sqlited}
trap '"$here/cluster.sh" stop' EXIT

new_cluster() {
  "$here/cluster.sh" start
  # shellcheck disable=SC2034
  cluster=(--addrs "$("$here/cluster.sh" addrs)" --pids "$("$here/cluster.sh" pids)")
}
