#!/usr/bin/env bash
# build.sh DIR — the programs of e2e/clients with the clients they use, and servers that stand for clouds' object stores,
# from their registries, into DIR.
set -euo pipefail
into=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"

[ -x "$into/python/bin/pip" ] || python3 -m venv "$into/python"
"$into/python/bin/pip" install --quiet --disable-pip-version-check --requirement python/requirements.txt

(cd go && CGO_ENABLED=0 go build -o "$into/go" .)

(cd gcs && CGO_ENABLED=0 go build -o "$into/gcs" .)

# modules NAME FILE... — what a folder's package.json names, beside the files.
modules() {
  local name=$1; shift
  mkdir -p "$into/$name"
  (cd "$name" && cp package.json package-lock.json "$@" "$into/$name/")
  (cd "$into/$name" && npm ci --silent --no-audit --no-fund --ignore-scripts)
}
modules javascript program.js
modules console modules.js program.js quickstart.js
modules azurite

cargo build --quiet --locked --manifest-path rust/Cargo.toml --target-dir "$into/rust"
