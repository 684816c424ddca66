/* An extension of SQLite for tests. SQLite hands over a table of pointers to its functions, in an order that never changes
   (sqlite3ext.h): by their places in it no header is needed.

   twice(x)   deterministic: x * TIMES
   draw()     not deterministic
   reversed   a collation: from back to front
   attempt(s) tries to open the file s, or to do what s says, and undoes it; the error number, 0 if it could
   three      a module whose tables have the rows 1, 2, 3 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef long long i64;
typedef struct { const void *module; int references; char *message; } table;
typedef struct { table *of; i64 row; } cursor;

static void *const *api;
#ifdef UNDEFINED
extern i64 nobody_defines_this(void);
#endif
enum { CREATE_COLLATION = 43, CREATE_FUNCTION = 45, CREATE_MODULE = 47, DECLARE_VTAB = 50, RESULT_INT64 = 83, VALUE_INT64 = 107, VALUE_TEXT = 109 };

static i64 argument(void *value) { return ((i64 (*)(void *))api[VALUE_INT64])(value); }
static void answer(void *context, i64 n) { ((void (*)(void *, i64))api[RESULT_INT64])(context, n); }

static void twice(void *context, int count, void **values) { answer(context, argument(values[0]) * TIMES); }
static void draw(void *context, int count, void **values) {
  static i64 state = 0;
  answer(context, (i64)(size_t)&state ^ ++state);
}

static void *nothing(void *unused) { return unused; }
static long child(long pid) {
  if (pid == 0) _exit(0);
  return pid < 0 ? pid : waitpid(pid, 0, 0);
}
static long try(const char *what) {
  char *none[] = {0};
  pthread_t thread;
  long fd = -1;
  if (*what == '/') fd = open(what, O_RDONLY);
  else if (*what == '+') fd = open(what + 1, O_WRONLY | O_CREAT, 0600);
  else if (!strcmp(what, "socket")) fd = socket(AF_INET, SOCK_STREAM, 0);
  else if (!strcmp(what, "local socket")) fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  else if (!strcmp(what, "connect")) return connect(-1, 0, 0);
  else if (!strcmp(what, "bind")) return bind(-1, 0, 0);
  else if (!strcmp(what, "accept")) return accept(-1, 0, 0);
  else if (!strcmp(what, "sendto")) return sendto(-1, 0, 0, 0, 0, 0);
  else if (!strcmp(what, "execve")) return execve("/no such program", none, none);
  else if (!strcmp(what, "execveat")) return syscall(SYS_execveat, -1, "", none, none, 0);
  else if (!strcmp(what, "fork")) return child(fork());
  else if (!strcmp(what, "clone")) return child(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  else if (!strcmp(what, "clone3")) return syscall(SYS_clone3, 0, 0);
  else if (!strcmp(what, "thread")) {
    errno = pthread_create(&thread, 0, nothing, 0);
    return errno || pthread_join(thread, 0) ? -1 : 0;
  }
  else if (!strcmp(what, "kill")) return kill(getppid(), 0);
  else if (!strcmp(what, "tgkill")) return syscall(SYS_tgkill, getppid(), getppid(), 0);
  else if (!strcmp(what, "tgkill oneself")) return syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0);
  else if (!strcmp(what, "prlimit64")) return syscall(SYS_prlimit64, getppid(), 7, 0, 0);
  else if (!strcmp(what, "ptrace")) return syscall(SYS_ptrace, 0x4206, 0x7fffffff, 0, 0);
  else if (!strcmp(what, "process_vm_readv")) return syscall(SYS_process_vm_readv, 0x7fffffff, 0, 0, 0, 0, 0);
  else if (!strcmp(what, "mount")) return syscall(SYS_mount, 0, 0, 0, 0, 0);
  else if (!strcmp(what, "unshare")) return syscall(SYS_unshare, 0);
  else if (!strcmp(what, "init_module")) return syscall(SYS_init_module, 0, 0, 0);
  else if (!strcmp(what, "bpf")) return syscall(SYS_bpf, -1, 0, 0);
  else if (!strcmp(what, "perf_event_open")) return syscall(SYS_perf_event_open, 0, 0, 0, 0, 0);
  else if (!strcmp(what, "keyctl")) return syscall(SYS_keyctl, -1, 0, 0, 0, 0);
  else if (!strcmp(what, "setuid")) return syscall(SYS_setuid, getuid());
  else if (!strcmp(what, "io_uring_setup")) return syscall(SYS_io_uring_setup, 0, 0);
  else if (!strcmp(what, "truncate")) return syscall(SYS_truncate, "/no such file", 0);
  else if (!strcmp(what, "fchmodat")) return syscall(SYS_fchmodat, -1, "no such file", 0);
#ifdef __x86_64__
  else if (!strcmp(what, "socket by its second number")) return syscall(0x40000000 | SYS_socket, 0, 0, 0);
#endif
  else {
    errno = EINVAL;
    return -1;
  }
  return fd < 0 ? fd : close(fd);
}
static void attempt(void *context, int count, void **values) {
  const char *what = ((const char *(*)(void *))api[VALUE_TEXT])(values[0]);
  answer(context, try(what) < 0 ? errno : 0);
}

static int reversed(void *unused, int n, const void *a, int m, const void *b) {
  int c = memcmp(b, a, n < m ? n : m);
  return c ? c : m - n;
}

static int attach(void *db, void *aux, int argc, const char *const *argv, table **out, char **message) {
  *out = calloc(1, sizeof(table));
  return *out ? ((int (*)(void *, const char *))api[DECLARE_VTAB])(db, "CREATE TABLE x(n)") : 7;
}
static int disconnect(table *t) { free(t); return 0; }
static int best_index(table *t, void *info) { return 0; }
static int open_cursor(table *t, cursor **out) { *out = calloc(1, sizeof(cursor)); return *out ? 0 : 7; }
static int close_cursor(cursor *c) { free(c); return 0; }
static int filter(cursor *c, int n, const char *s, int argc, void **argv) { c->row = 1; return 0; }
static int next(cursor *c) { c->row++; return 0; }
static int eof(cursor *c) { return c->row > 3; }
static int column(cursor *c, void *context, int i) { answer(context, c->row); return 0; }
static int rowid(cursor *c, i64 *out) { *out = c->row; return 0; }

static const struct { int version; void *methods[24]; } three = {
    1, {attach, attach, best_index, disconnect, disconnect, open_cursor, close_cursor, filter, next, eof, column, rowid}};

int ENTRY_POINT(void *db, char **message, void *const *routines) {
  typedef int (*create_function)(void *, const char *, int, int, void *, void *, void *, void *);
  typedef int (*create_collation)(void *, const char *, int, void *, void *);
  typedef int (*create_module)(void *, const char *, const void *, void *);
  const int utf8 = 1, deterministic = 0x800, innocuous = 0x200000;
  create_function function = (create_function)routines[CREATE_FUNCTION];
  int code = CODE;
  api = routines;
#ifdef UNDEFINED
  code = nobody_defines_this();
#endif
  if (!code) code = function(db, "twice", 1, utf8 | deterministic | innocuous, 0, twice, 0, 0);
  if (!code) code = function(db, "draw", 0, utf8 | innocuous, 0, draw, 0, 0);
  if (!code) code = function(db, "attempt", 1, utf8 | deterministic | innocuous, 0, attempt, 0, 0);
  if (!code) code = ((create_collation)routines[CREATE_COLLATION])(db, "reversed", utf8, 0, reversed);
  if (!code) code = ((create_module)routines[CREATE_MODULE])(db, "three", &three, 0);
  return code;
}
