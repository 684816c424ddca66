"""What the programs share: where the database is (first line of standard input: host port user password, and host:port of
other members, if they are to be used), and the part in which the leader changes."""

import http.client
import sys

WRITES = 200


def writes():
    """Numbers to write; says when half of them are, and goes on when it is told that the leader has changed."""
    for n in range(WRITES):
        if n == WRITES // 2:
            print("half", flush=True)
            sys.stdin.readline()
        yield n


class Somewhere:
    """The member that answers: as these clients know one each, whoever uses them goes on to the next."""

    def __init__(self, hosts, connect):
        self.others = list(hosts[1:])
        self.connect = connect
        self.connection = connect(*hosts[0])

    def do(self, work, again):
        """Does work with a connection; where its member is gone, again with the next one's. It may have been done already."""
        while True:
            try:
                return work(self.connection)
            except (OSError, http.client.HTTPException):
                if not self.others:
                    raise
                self.connection = self.connect(*self.others.pop(0))
                work = again


def run(main):
    host, port, user, password, *others = sys.stdin.readline().split()
    hosts = [(host, int(port))] + [(name, int(port)) for name, port in (other.split(":") for other in others)]
    main(hosts, user, password)
    print("done", flush=True)
