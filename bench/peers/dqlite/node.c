/* A dqlite node: dqlite-node ID HOST:PORT DIRECTORY. The node with id 1 makes a cluster of itself; `bench form` adds
 * the others to it. Prints "ready" once it listens, ends on SIGTERM. */
#include <dqlite.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what, dqlite_node *node)
{
	fprintf(stderr, "%s: %s\n", what, node ? dqlite_node_errmsg(node) : "failed");
	return 1;
}

int main(int argc, char **argv)
{
	dqlite_node *node = NULL;
	sigset_t wanted;
	int received;

	if (argc < 4) {
		fprintf(stderr, "usage: %s ID HOST:PORT DIRECTORY\n", argv[0]);
		return 2;
	}
	/* Before the library starts threads: they inherit the mask. */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigprocmask(SIG_BLOCK, &wanted, NULL);

	if (dqlite_node_create(strtoull(argv[1], NULL, 10), argv[2], argv[3], &node) != 0)
		return fail("create", node);
	if (dqlite_node_set_bind_address(node, argv[2]) != 0)
		return fail("bind", node);
	if (dqlite_node_start(node) != 0)
		return fail("start", node);
	puts("ready");
	fflush(stdout);
	sigwait(&wanted, &received);
	if (dqlite_node_stop(node) != 0)
		return fail("stop", node);
	dqlite_node_destroy(node);
	return 0;
}
