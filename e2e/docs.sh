#!/usr/bin/env bash
# docs.sh — `make docs`: the documentation as a site, in target/docs; mdBook is built where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
MDBOOK=0.5.4
tools=$TARGET/docs-tools
if ! command -v mdbook >/dev/null; then
  export PATH=$tools/bin:$PATH
  command -v mdbook >/dev/null || quietly docs-tools cargo install mdbook --version "$MDBOOK" --locked --root "$tools"
fi
quietly docs mdbook build docs --dest-dir "$TARGET/docs"
echo "written: $TARGET/docs/index.html"
