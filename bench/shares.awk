# Of folded stacks (inferno-collapse-perf): which share of the samples has what on its stack, and which thread it is of.
# A sample counts for the first line that matches any of its frames.
BEGIN {
  add("the log's fdatasync", "fdatasync|do_fsync|vfs_fsync|file_write_and_wait")
  add("TCP send", "tcp_sendmsg|sock_sendmsg|sock_write_iter|__sys_sendto")
  add("TCP receive", "tcp_recvmsg|sock_recvmsg|sock_read_iter|__sys_recv")
  add("epoll, futex, wake-ups, switches of threads", "epoll_wait|ep_poll|futex|eventfd|schedule|switch_to")
  add("other file writes (log, WAL)", "vfs_write|pwrite")
  add("SQLite and apply", "sqlite3|node::store")
  add("HTTP and JSON", "hyper|axum|serde_json|node::http|httparse|h2::")
  add("Raft and log", "openraft|raftlog|node::raft")
  add("the runtime's own work", "tokio")
  add("the rest", "")
}
function add(name, pattern) { names[++n] = name; patterns[n] = pattern }
{
  count = $NF
  thread = $0
  sub(/;.*/, "", thread)
  threads[thread] += count
  all += count
  for (i = 1; i <= n; i++) if ($0 ~ patterns[i]) { shares[i] += count; break }
}
END {
  if (!all) exit 1
  for (i = 1; i <= n; i++) printf "%5.1f %% %s\n", 100 * shares[i] / all, names[i]
  for (thread in threads) if (threads[thread] > all / 100) printf "%5.1f %% thread %s\n", 100 * threads[thread] / all, thread
}
