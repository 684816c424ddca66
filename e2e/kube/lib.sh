# shellcheck shell=bash
# shellcheck disable=SC2034 # its variables are for those that source it
# lib.sh — parameters and functions shared by the scripts of this folder. Every value can be set in the environment.

KUBE_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBE_STATE=${KUBE_STATE:-${XDG_STATE_HOME:-/var/lib}/sqlite-operator-kube} # one per machine, outside every checkout
KUBE_BIN=$KUBE_STATE/bin                                                   # kube and its links, coredns, helm …
KUBE_IMAGES=$KUBE_STATE/images                                             # *.tar, imported on every node
KUBE_RUN=$KUBE_STATE/run                                                   # what a running cluster writes
KUBE_CONFIG_OUT=${KUBE_CONFIG_OUT:-$KUBE_SRC/admin.kubeconfig}             # there while the cluster is up

BRIDGE=${BRIDGE:-kube0}         # bridge between this host and the nodes
NODE_NET=${NODE_NET:-10.89.0}   # the host is .1, node N is .(10+N)
POD_NET=${POD_NET:-10.244}      # pods of node N: POD_NET.N.0/24
SVC_NET=${SVC_NET:-10.96}       # services: SVC_NET.0.0/16
API_PORT=${API_PORT:-6443}
ETCD_PORT=${ETCD_PORT:-12379}   # loopback only; not 2379, which others may use
SERVICE_CIDR=$SVC_NET.0.0/16 CLUSTER_CIDR=$POD_NET.0.0/16
HOST_IP=$NODE_NET.1 DNS_IP=$SVC_NET.0.10 API_URL=https://$NODE_NET.1:$API_PORT

# How fast a dead node is noticed and its pods evicted (upstream: 50s and 300s).
NODE_GRACE=${NODE_GRACE:-20s}
EVICT_AFTER=${EVICT_AFTER:-20}

PKI=$KUBE_RUN/pki LOGS=$KUBE_RUN/logs

node_ip() { echo "$NODE_NET.$((10 + $1))"; }
log() { printf '%s %s\n' "$(date +%T)" "$*"; }
die() { echo "error: $*" >&2; exit 1; }

# need PACKAGE... — installs those of these Debian packages that are missing.
need() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || die "not a Debian machine; install what these packages hold: ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "not root; run: apt-get install ${missing[*]}"
  log "installing ${missing[*]}"
  local out; out=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$out" 2>&1; then
    tail -20 "$out" >&2
    die "apt-get install ${missing[*]}"
  fi
  rm -f "$out"
}

# Where groups of processes share processors.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then CPU_GROUPS=/sys/fs/cgroup; else CPU_GROUPS=/sys/fs/cgroup/cpu; fi

# cpu_group NAME SHARES — makes such a group; where processors are short, 1024 is what a process without a group gets.
cpu_group() {
  local of_root=$CPU_GROUPS/cgroup.subtree_control
  if [ -e "$of_root" ]; then echo +cpu >"$of_root"; fi
  mkdir -p "$CPU_GROUPS/$1"
  if [ -e "$of_root" ]; then
    echo $(($2 * 100 / 1024)) >"$CPU_GROUPS/$1/cpu.weight"
  else
    echo "$2" >"$CPU_GROUPS/$1/cpu.shares"
  fi
}

# wait_for SECONDS WHAT COMMAND... — tries COMMAND five times a second.
wait_for() {
  local limit=$1 what=$2 end; shift 2; end=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "$what: not there after ${limit}s (logs: $LOGS)"
    sleep 0.2
  done
}

# A pid alone may by now be somebody else's: the time at which the process started is noted with it. A process that
# ended and that nobody has waited for yet (state Z) has no start.
started_at() { sed -E '/.*\) Z/d; s/.*\) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
alive() { # alive NAME
  local pid at
  read -r pid at 2>/dev/null <"$KUBE_RUN/$1.pid" && [ -n "$at" ] && [ "$(started_at "$pid")" = "$at" ]
}
pid_of() { cut -d' ' -f1 "$KUBE_RUN/$1.pid"; }

# daemon NAME COMMAND... — starts COMMAND detached unless it runs. It keeps no lock: 9 is that of this folder's scripts, 8
# that of the end-to-end tests, which start nodes too.
daemon() {
  local name=$1; shift
  alive "$name" && return
  setsid nohup "$@" >>"$LOGS/$name.log" 2>&1 </dev/null 8>&- 9>&- &
  echo "$! $(started_at $!)" >"$KUBE_RUN/$name.pid"
}

# alone — only one script of this folder changes the machine's cluster at a time. Held until the script ends.
alone() {
  mkdir -p "$KUBE_STATE"
  exec 9>"$KUBE_STATE/lock"
  flock -n 9 || { log "waiting for another run: $(cat "$KUBE_STATE/lock.by" 2>/dev/null)"; flock 9; }
  echo "${0##*/} of $KUBE_SRC, pid $$" >"$KUBE_STATE/lock.by"
}
owner() { cat "$KUBE_RUN/owner" 2>/dev/null || true; }
