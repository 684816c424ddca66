#!/usr/bin/env bash
# build.sh DIR — the programs of e2e/clients with the clients they use, from their registries, into DIR.
set -euo pipefail
into=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"

[ -x "$into/python/bin/pip" ] || python3 -m venv "$into/python"
"$into/python/bin/pip" install --quiet --disable-pip-version-check --requirement python/requirements.txt

(cd go && CGO_ENABLED=0 go build -o "$into/go" .)

mkdir -p "$into/javascript"
cp javascript/package.json javascript/package-lock.json javascript/program.js "$into/javascript/"
(cd "$into/javascript" && npm ci --silent --no-audit --no-fund)
mkdir -p "$into/console"
cp console/package.json console/package-lock.json console/*.js "$into/console/"
(cd "$into/console" && npm ci --silent --no-audit --no-fund)

cargo build --quiet --locked --manifest-path rust/Cargo.toml --target-dir "$into/rust"
