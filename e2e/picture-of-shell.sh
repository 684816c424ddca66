#!/usr/bin/env bash
# picture-of-shell.sh — docs/shell.svg: what somebody who types sees of the shell, in a terminal of tmux, against a member
# that is started for it. The programs are those of target/ci, or of PROGRAMS.
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/lib.sh
programs=${PROGRAMS:-$TARGET/ci}
columns=84 rows=22
home=$(mktemp -d)
terminal() { tmux -S "$home/tmux" -f /dev/null "$@"; }
# shellcheck disable=SC2329 # the trap calls it
tidy() {
  terminal kill-server 2>/dev/null || true
  [ -z "${member:-}" ] || { kill "$member"; wait "$member" || true; } 2>/dev/null
  rm -rf "$home"
}
trap tidy EXIT

eventually() { # eventually COMMAND... — waits until it succeeds
  for ((i = 0; i < 300; i++)); do
    "$@" && return
    sleep 0.1
  done
  die "not in time: $*"
}
ports() { python3 -c 'import socket; s = [socket.create_server(("127.0.0.1", 0)) for _ in "hr"]; print(*[p.getsockname()[1] for p in s])'; }
read -r http raft < <(ports)
"$programs/sqlited" -http-addr "127.0.0.1:$http" -raft-addr "127.0.0.1:$raft" "$home/data" 2>"$home/log" &
member=$!
# shellcheck disable=SC2329 # eventually calls it
is_there() { "$programs/sqlite-cli" -p "$http" -c .leader >"$home/leader" 2>&1; }
eventually is_there
"$programs/sqlite-cli" -p "$http" <<'END'
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, item TEXT, price REAL);
INSERT INTO customers (name) VALUES ('Ada'), ('Linus'), ('Grace');
INSERT INTO orders (customer, item, price) VALUES (1, 'a lamp', 49.9), (1, 'a chair', 120), (2, 'a table', 310.5), (3, 'a shelf', 89);
END

terminal new-session -d -x "$columns" -y "$rows" -e "HOME=$home" "$programs/sqlite-cli -p $http"
# shellcheck disable=SC2329 # eventually calls it
shows() { terminal capture-pane -p | grep -qF -- "$1"; }
# What is asked for stands in the last line.
# shellcheck disable=SC2329 # eventually calls it
asks() { [ "$(terminal capture-pane -p | sed '/^$/d' | tail -n 1)" = "sqlite>" ]; }
types() { terminal send-keys -l "${1/%;/\\;}"; } # a semicolon at the end would part two commands of tmux
enters() { types "$1" && terminal send-keys Enter; }

eventually asks
enters 'SELECT name, count(*) AS orders, sum(price) AS total'
enters 'FROM orders JOIN customers ON customers.id = customer'
enters 'GROUP BY name ORDER BY total DESC;'
eventually shows '310.5'
eventually asks
enters 'SELECT itm FROM orders;'
eventually shows 'no such column'
eventually asks
enters '.tables'
eventually asks
enters '.mode json'
eventually asks
enters "SELECT id, item FROM orders WHERE price < 100;"
eventually shows 'a shelf'
eventually asks
types 'SELECT * FROM or'
terminal send-keys Tab Tab
eventually shows 'orders  or'

read -r x y < <(terminal display-message -p '#{cursor_x} #{cursor_y}')
terminal capture-pane -e -p | python3 -c '
import re, sys
from html import escape

columns, x, y = map(int, sys.argv[1:])
lines = sys.stdin.read().rstrip("\n").split("\n")
lines += [""] * (y + 1 - len(lines))
advance, height, margin = 8.4, 20, 18
colours = {"31": "#f7768e", "32": "#9ece6a", "33": "#e0af68", "34": "#7aa2f7", "35": "#bb9af7", "36": "#7dcfff"}
wide, high = round(columns * advance + 2 * margin), len(lines) * height + 2 * margin
out = [f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" role="img"
  font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14" fill="#e5e9f0">
  <title>sqlite-cli in a terminal</title>
  <rect width="{wide}" height="{high}" rx="8" fill="#1e2330"/>
  <rect x="{margin + x * advance:.1f}" y="{margin + y * height + 2}" width="{advance}" height="{height - 3}" fill="#7c879c"/>"""]
for number, line in enumerate(lines):
    colour, bold, spans = None, False, []
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            for code in part[2:-1].split(";"):
                if code in ("", "0"):
                    colour, bold = None, False
                elif code == "1":
                    bold = True
                elif code == "39":
                    colour = None
                else:
                    colour = colours.get(code, colour)
        elif part:
            style = (f" fill=\"{colour}\"" if colour else "") + (" font-weight=\"bold\"" if bold else "")
            spans.append(f"<tspan{style}>{escape(part)}</tspan>" if style else escape(part))
    if spans:
        at = margin + number * height + 15
        out.append(f"  <text x=\"{margin}\" y=\"{at}\" xml:space=\"preserve\">{str().join(spans)}</text>")
out.append("</svg>")
print("\n".join(out))
' "$columns" "$x" "$y" >docs/shell.svg
