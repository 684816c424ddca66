//! A file system in memory that keeps promises no better than a bad disk: for crash tests of the log and of what is
//! built on it.

mod disk;
mod fault_io;
mod segment;

pub use disk::{FaultDisk, Plan, Survival};
pub use segment::StreamWriter;
