//! Work that may take its time: a runtime whose threads step back behind those that answer clients and replicate.
//!
//! Backups hash, compress and encrypt megabytes at a time. On the runtime of clients each of these would hold up
//! every request behind it, and on a busy machine threads of equal rank would halve what requests get.

use rustix::process::{getpriority_process, setpriority_process};
use std::future::Future;
use std::io;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// How far the threads step back, as of `nice`: under full load they get about a tenth of what others do.
const NICER: i32 = 10;
/// The last that Linux knows.
const NICEST: i32 = 19;

/// The runtime. What it runs ends with it.
#[derive(Debug)]
pub struct Background {
    handle: Handle,
    /// Taken when this is dropped.
    runtime: Option<Runtime>,
}

impl Background {
    /// Starts its threads.
    pub fn start() -> io::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        let nice = (getpriority_process(None)? + NICER).min(NICEST);
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers.max(2))
            .thread_name("background")
            .on_thread_start(move || step_back(nice))
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs a task there, and what it spawns itself.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(task)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Not waited for: this may be dropped by a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Gives the calling thread another rank: Linux keeps one for each thread, though POSIX says process. Not so much lower
/// than it is: threads inherit it.
///
/// Source: setpriority(2), "C library/kernel differences".
fn step_back(nice: i32) {
    if let Err(error) = setpriority_process(None, nice) {
        tracing::warn!(%error, "backups take as much of the processors as requests do");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn its_threads_step_back_and_others_do_not() {
        let before = getpriority_process(None).unwrap();
        let background = Background::start().unwrap();
        let (send, told) = std::sync::mpsc::channel();
        background.spawn(async move {
            let of_worker = getpriority_process(None);
            let of_blocking = tokio::task::spawn_blocking(|| getpriority_process(None)).await;
            send.send((of_worker, of_blocking.unwrap())).unwrap();
        });
        let expected = (before + NICER).min(NICEST);
        let (of_worker, of_blocking) = told.recv().unwrap();
        assert_eq!((of_worker.unwrap(), of_blocking.unwrap()), (expected, expected));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
