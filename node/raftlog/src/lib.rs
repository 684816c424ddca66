//! Raft's durable log: votes, entries, truncations, purges and the committed hint in one append-only record stream.
//!
//! Why one stream: Raft needs its vote and its entries on disk in the order in which it decided them. One stream has
//! only one order, one sync makes everything submitted before it durable, and one recovery decides what survived.
//!
//! * [`RaftLog`] is the handle. Submissions are cheap and never wait for the disk; a flush thread writes everything
//!   that has gathered, syncs once and completes the callbacks in order.
//! * The first failed write or sync **poisons** the log for good. An fsync that failed is never tried again, because
//!   the kernel may have dropped the data and report success the second time. The way back is to open again.
//! * The log stores opaque bytes. It knows the index of an entry and nothing of terms, members or commands.
//! * All I/O goes through [`Io`], so that tests can cut the power at every single operation.
//!
//! The bytes on disk are described in [`format`](mod@format).
//!
//! ```
//! # use std::sync::{Arc, mpsc};
//! # use bytes::Bytes;
//! # use raftlog::{Options, OsIo, RaftLog};
//! # let dir = tempfile::tempdir()?;
//! # let options = Options { segment_bytes: 64 * 1024, ..Options::default() };
//! let (log, recovered) = RaftLog::open(dir.path(), options, Arc::new(OsIo))?;
//! assert_eq!(recovered.last_index, None);
//! let (done, durable) = mpsc::channel();
//! log.append([(0, Bytes::from_static(b"hello"))], Box::new(move |result| drop(done.send(result))))?;
//! durable.recv()??;
//! assert_eq!(log.read(0..1, 1024)?, vec![(0, Bytes::from_static(b"hello"))]);
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod catalog;
mod error;
mod flush;
mod frame;
mod index;
mod io;
mod log;
mod open;
mod options;
mod os_io;
mod prepare;
mod read;
mod record;
mod recover;
mod replay;
mod scan;
mod segment;
mod shared;
mod state;
mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod writer;

#[doc = include_str!("../docs/format.md")]
pub mod format {}

pub use error::{LogError, OpenError, OrderError, SubmitError};
pub use io::{DirLock, Io, IoFile};
pub use log::{Callback, RaftLog};
pub use options::{Options, PoisonHook};
pub use os_io::OsIo;
pub use recover::{Recovered, TornTail};
pub use stats::{FLUSH_BUCKETS_MICROS, Stats};
