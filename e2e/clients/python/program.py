"""What the programs share: where the database is (first line of standard input: host port user password), and the part
in which the leader changes."""

import sys

WRITES = 200


def writes():
    """Numbers to write; says when half of them are, and goes on when it is told that the leader has changed."""
    for n in range(WRITES):
        if n == WRITES // 2:
            print("half", flush=True)
            sys.stdin.readline()
        yield n


def run(main):
    host, port, user, password = sys.stdin.readline().split()
    main(host, int(port), user, password)
    print("done", flush=True)
