/* An extension of SQLite for tests. SQLite hands over a table of pointers to its functions, in an order that never changes
   (sqlite3ext.h): by their places in it no header is needed.

   twice(x)   deterministic: x * TIMES
   draw()     not deterministic
   reversed   a collation: from back to front
   three      a module whose tables have the rows 1, 2, 3 */

#include <stdlib.h>
#include <string.h>

typedef long long i64;
typedef struct { const void *module; int references; char *message; } table;
typedef struct { table *of; i64 row; } cursor;

static void *const *api;
#ifdef UNDEFINED
extern i64 nobody_defines_this(void);
#endif
enum { CREATE_COLLATION = 43, CREATE_FUNCTION = 45, CREATE_MODULE = 47, DECLARE_VTAB = 50, RESULT_INT64 = 83, VALUE_INT64 = 107 };

static i64 argument(void *value) { return ((i64 (*)(void *))api[VALUE_INT64])(value); }
static void answer(void *context, i64 n) { ((void (*)(void *, i64))api[RESULT_INT64])(context, n); }

static void twice(void *context, int count, void **values) { answer(context, argument(values[0]) * TIMES); }
static void draw(void *context, int count, void **values) {
  static i64 state = 0;
  answer(context, (i64)(size_t)&state ^ ++state);
}

static int reversed(void *unused, int n, const void *a, int m, const void *b) {
  int c = memcmp(b, a, n < m ? n : m);
  return c ? c : m - n;
}

static int connect(void *db, void *aux, int argc, const char *const *argv, table **out, char **message) {
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
    1, {connect, connect, best_index, disconnect, disconnect, open_cursor, close_cursor, filter, next, eof, column, rowid}};

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
  if (!code) code = ((create_collation)routines[CREATE_COLLATION])(db, "reversed", utf8, 0, reversed);
  if (!code) code = ((create_module)routines[CREATE_MODULE])(db, "three", &three, 0);
  return code;
}
