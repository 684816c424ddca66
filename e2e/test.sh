#!/usr/bin/env bash
# test.sh STAGE... — the stages of `make test` and `make verify`, each timed; says at the end how many checks and tests
# passed and failed. Long output goes to target/logs and is shown when something failed. A failed stage does not stop
# the others, except when there is nothing left to test.
#
#   E2E_THREADS=1   end-to-end tests at a time        E2E_TESTS=…   only those whose name contains this
#   E2E_PROFILE=ci  with what members and operator are compiled (make prove: release)
#   E2E_ROUNDS=…    rounds of those that repeat what they do (make test: 1, make prove: 30)
set -uo pipefail
cd "$(dirname "$0")/.." || exit
. e2e/lib.sh
passed=0 failed=0 times=()

stage() { # stage NAME COMMAND...
  local name=$1 begin=$SECONDS; shift
  printf '%s\n' "${bold}── $name${plain}"
  if "$@"; then
    printf '   %s %s\n' "${green}✓${plain}" "$name, $((SECONDS - begin)) s"
    times+=("$name $((SECONDS - begin))")
  else
    printf '   %s %s\n' "${red}✗${plain}" "$name, $((SECONDS - begin)) s"
    times+=("$name $((SECONDS - begin)) failed")
    return 1
  fi
}
# A check counts as one; stages that run tests count those.
check() { if stage "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi; }

# skipped WHY — for a check whose tool is not there: said, and in CI a failure, as nothing was checked.
skipped() { echo "   skipped: $1"; [ -z "${CI:-}" ]; }

# count LOG — adds up what the test runner says in its closing lines.
count() {
  local p f
  read -r p f < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$1" |
    awk '{p += $1; f += $2} END {print p + 0, f + 0}')
  passed=$((passed + p)) failed=$((failed + f))
  printf '   %s\n' "$p passed, $f failed"
}

# show_failures LOG BUILD_LOG — what failed in a stage that runs tests; without a failed test it did not compile, or died.
show_failures() {
  sed -n '/^failures:/,$p' "$1" >&2
  grep -qE '^test result: FAILED' "$1" || { tail -n 40 "$2" >&2; failed=$((failed + 1)); }
  return 1
}

# The programs of the local Kubernetes, unless another one is used. Before cargo runs: the two would share two cores.
tools() {
  if [ -z "${KUBECONFIG:-}" ]; then
    packages jq curl shellcheck containerd gcc libc6-dev busybox-static python3 python3-venv e2fsprogs xfsprogs strace \
      libfaketime || return
    command -v npm >/dev/null || packages npm || return
    e2e/kube/build.sh
  fi
}

# Everything that is compiled is compiled once, with one profile and one set of features: always the whole workspace.
# With failpoints (node/src/failpoint.rs), which do nothing unless FAILPOINTS is set; release builds are without.
everything=(--profile ci --workspace --features node/failpoints)
# With the tests: programs alone would be built with other features, and so twice.
build() { quietly build cargo build ${CI:+--locked} "${everything[@]}" --all-targets; }
# What runs in Kubernetes, if that is something else.
programs() {
  [ "$E2E_PROFILE" = ci ] || quietly programs cargo build --profile "$E2E_PROFILE" -p node -p operator --bins
}
formatting() { quietly format cargo fmt --all --check; }
lint() { quietly clippy cargo clippy "${everything[@]}" --all-targets -- -D warnings; }
generated() { quietly generated "$TARGET/ci/sqlite-operator" crds --check .; }
scripts() {
  local unformatted
  command -v shellcheck >/dev/null || { skipped "shellcheck is not installed"; return; }
  git ls-files -co --exclude-standard '*.sh' .ci/run | xargs shellcheck || return
  python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' e2e/mkimage.py || return
  command -v gofmt >/dev/null || { skipped "gofmt is not installed"; return; }
  unformatted=$(gofmt -l e2e/kube/cmd e2e/clients)
  [ -z "$unformatted" ] || { echo "   not formatted: $unformatted"; return 1; }
}
# By their defaults, and with everything that is optional; what comes out then is looked at by operator/tests/chart.rs.
charts() {
  local chart values
  command -v helm >/dev/null || { skipped "helm is not installed"; return; }
  for chart in charts/*/; do
    for values in values.yaml ci/everything-values.yaml; do
      quietly "chart-$(basename "$chart")" sh -ec \
        "helm lint --strict $chart --values $chart/$values && helm template test $chart --values $chart/$values" || return
    done
  done
}
# quick SCRIPT PROGRAM TARGET — what a script checks, unless it would have to compile PROGRAM first, as `make TARGET` does.
quick() {
  local status=0
  "$1" quick || status=$?
  ((status == 3)) || return "$status"
  skipped "$2 is not installed, and would have to be compiled (make $3)"
}
dependencies() { quick e2e/deny.sh cargo-deny deny; }
# The pages as a site, below target: nothing is written beside them.
site() { quick e2e/docs.sh mdBook docs; }
unit() {
  local status=0
  mkdir -p "$LOG_DIR"
  # Twice as long as it takes on two cores: a test that hangs is to be named, not waited for.
  timeout 2700 cargo test "${everything[@]}" --no-fail-fast >"$LOG_DIR/unit.log" 2>&1 || status=$?
  if ((status == 0)); then
    with_servers >>"$LOG_DIR/unit.log" 2>&1 || status=$?
  fi
  count "$LOG_DIR/unit.log"
  ((status == 0)) && return
  ((status != 124)) || grep 'has been running for over' "$LOG_DIR/unit.log" >&2
  sed -nE '/^(failures:|---- |error|thread )/,/^$/p' "$LOG_DIR/unit.log" | tail -n 150 >&2
  printf '%s\n' "all of it: $LOG_DIR/unit.log" >&2
  # It did not compile, or died: no test says so.
  grep -qE '^test result: FAILED' "$LOG_DIR/unit.log" || failed=$((failed + 1))
  return 1
}

# Tests that need a real S3 server, or a real etcd.
with_servers() {
  local bin
  bin=$(. e2e/kube/lib.sh && echo "$KUBE_BIN")
  [ -x "$bin/versitygw" ] || e2e/kube/build.sh versitygw || return
  [ -x "$bin/etcd" ] || e2e/kube/build.sh kube || return
  BACKUP_S3=$bin/versitygw DISCO_ETCD=$bin/etcd timeout 600 \
    cargo test "${everything[@]}" --test automatic --test backup_faults --test discovery -- --ignored
}

# Clients made for rqlite and clouds' object stores, from their registries; the console in a browser, the shell in a terminal.
clients() {
  local status=0 tool
  mkdir -p "$LOG_DIR"
  for tool in python3 go node npm; do
    command -v $tool >/dev/null && continue
    skipped "$tool is missing" && return
    failed=$((failed + 1))
    return 1
  done
  # A browser for the console, a terminal for the shell; the browser is Debian's, not one that a client brings along.
  command -v chromium >/dev/null && command -v tmux >/dev/null || packages chromium tmux || { failed=$((failed + 1)); return 1; }
  quietly clients-build e2e/clients/build.sh "$TARGET/clients" || { failed=$((failed + 1)); return 1; }
  CLIENTS=$TARGET/clients cargo test "${everything[@]}" --test clients --test stores --test terminal -- \
    --ignored --test-threads 1 \
    >"$LOG_DIR/clients.log" 2>&1 || status=$?
  count "$LOG_DIR/clients.log"
  ((status == 0)) || show_failures "$LOG_DIR/clients.log" "$LOG_DIR/clients.log"
}

kubernetes() {
  choose_kubernetes || return
  # Another run on this machine would disturb the times that are measured.
  exec 8>"${TMPDIR:-/tmp}/sqlite-operator-e2e.lock"
  flock -n 8 || { echo "   waiting for another run of the end-to-end tests"; flock 8; }
  # What an interrupted run left.
  kubectl delete namespace -l sqlite-operator.io/e2e --ignore-not-found --wait=false >/dev/null
}
images() {
  provide_images "$E2E_PROFILE" || return
  # A Kubernetes that was started before there was an S3 server among its images.
  [ "$KUBERNETES" != local ] || e2e/kube/kube-load.sh "$(. e2e/kube/lib.sh && echo "$KUBE_IMAGES")/versitygw.tar"
}
operator() {
  # Two operators that look after the same clusters would fight over them. The demo's leaves those of the tests alone.
  local others
  others=$(kubectl get deployments --all-namespaces -l app.kubernetes.io/name=sqlite-operator --output json |
    jq -r '.items[] | select(.metadata.namespace != "e2e-operator")
      | select(any(.spec.template.spec.containers[].args[]; . == "--cluster-selector=!sqlite-operator.io/e2e") | not)
      | .metadata.namespace') || return
  [ -z "$others" ] || { echo "   the operator in namespace $others looks after the tests' clusters too: set its" \
    "clusterSelector to !sqlite-operator.io/e2e, or take it away"; return 1; }
  # What the operator's pods may do is as little as what the tests' may.
  kubectl create namespace e2e-operator --dry-run=client -o yaml | kubectl apply -f - >/dev/null || return
  kubectl label --overwrite namespace e2e-operator pod-security.kubernetes.io/enforce=restricted >/dev/null || return
  quietly operator install_operator e2e-operator --values e2e/operator-values.yaml
}
e2e() {
  local status=0
  export E2E_ARTEFACTS=$TARGET/e2e-artifacts SQLITED_IMAGE OPERATOR_IMAGE
  # A browser and a client of rqlite's, for the pages that have them; `clients` installs them.
  [ ! -d "$TARGET/clients/console" ] || export CLIENTS=$TARGET/clients
  rm -rf "$E2E_ARTEFACTS"; mkdir -p "$E2E_ARTEFACTS"
  cargo test "${everything[@]}" --test kubernetes -- --ignored --test-threads "${E2E_THREADS:-1}" \
    ${E2E_TESTS:+"$E2E_TESTS"} 2>"$LOG_DIR/e2e-build.log" | tee "$LOG_DIR/e2e.log" | grep -E '^test ' | sed 's/^/   /'
  status=${PIPESTATUS[0]}
  count "$LOG_DIR/e2e.log"
  results
  quietly operator-gone helm uninstall sqlite-operator --namespace e2e-operator --wait
  ((status == 0)) || show_failures "$LOG_DIR/e2e.log" "$LOG_DIR/e2e-build.log"
}
# What the tests measured, as a table.
results() {
  [ -s "$E2E_ARTEFACTS/results.jsonl" ] || return 0
  jq -rs '["test", "what", "seconds", "acknowledged", "failed", "attempts failed", "lost", "p99 in peace, ms", "p99, ms", "longest pause, s"],
    (.[] | [.test, .what] + if .ledger
      then (.ledger | [.duration_ms / 1000, .acknowledged, .failed + .unknown, .attempts_failed, (.lost | length),
            .baseline.p99_us / 1000, .latency.p99_us / 1000, .longest_gap.length_ms / 1000])
      else [.milliseconds / 1000, "", "", "", "", "", "", ""] end) | @tsv' "$E2E_ARTEFACTS/results.jsonl" |
    column -t -s $'\t' | sed 's/^/   /'
}

summary() {
  printf '%s\n' "${bold}── time${plain}"
  local line total=0 name seconds rest
  for line in "${times[@]}"; do
    read -r name seconds rest <<<"$line"
    printf '   %-14s %5d s %s\n' "$name" "$seconds" "$rest"
    total=$((total + seconds))
  done
  printf '   %-14s %5d s\n' all "$total"
  printf '%s\n' "$passed passed, $failed failed"
  ((failed == 0))
}
# Interrupted: what was started ends with the script, and the summary says where it was.
trap 'failed=$((failed + 1)); summary; exit 130' INT TERM

toolchain
for what in "$@"; do
  case $what in
  tools) stage tools tools || exit ;;
  verify)
    check formatting formatting
    if stage build build; then check generated generated; else failed=$((failed + 1)); fi
    check clippy lint
    check scripts scripts
    check charts charts
    check dependencies dependencies
    check site site
    ;;
  unit) stage unit unit || true ;;
  clients) stage clients clients || true ;;
  e2e)
    if stage build build && stage programs programs && stage kubernetes kubernetes && stage images images && stage operator operator; then
      stage e2e e2e || true
    else
      failed=$((failed + 1))
    fi
    ;;
  *) die "no such stage: $what" ;;
  esac
done
summary
