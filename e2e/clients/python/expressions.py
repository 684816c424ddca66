"""Reads expressions of PromQL, one a line, as Prometheus would; ends with an error at the first that it cannot read."""

import sys

import promql_parser

for expression in sys.stdin.read().splitlines():
    try:
        promql_parser.parse(expression)
    except ValueError as error:
        sys.exit(f"{expression}: {error}")
