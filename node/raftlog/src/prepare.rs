//! The helper thread: makes the next segment before it is needed and retires old ones, so that appends never wait
//! for 64 MiB of zeros.
//!
//! Nor do their syncs wait long behind those of the zeros: these come in small pieces with pauses, as long as the present
//! segment fills up more slowly than the next one is made.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::LogError;
use crate::io::Io;
use crate::options::len_of_new;
use crate::segment::{Filled, Role, Segment, counter_of, make_generation, sync_dir, unlink};

/// After each piece of zeros the disk is left to others for this many times what the piece's sync took.
const PAUSE: u32 = 3;

/// What the helper needs to know.
pub(crate) struct Setup {
    pub io: Arc<dyn Io>,
    pub dir: PathBuf,
    pub segment_bytes: u64,
    pub max_spares: usize,
    pub spares: Vec<Segment>,
    /// Highest counter in use.
    pub last_counter: u32,
    /// A segment that an earlier process has prepared.
    pub ready: Option<Segment>,
    /// Told about a failure that must end the log.
    pub on_failure: Box<dyn Fn(&LogError) + Send>,
}

/// Handle of the helper; dropping it stops and joins the thread.
pub(crate) struct Preparer {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Desk {
    orders: Mutex<Orders>,
    changed: Condvar,
    stop: AtomicBool,
    /// Bytes written of the segment in use.
    position: AtomicU64,
}

impl Desk {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until more zeros may be written; `false` if no segment is wanted any more.
    fn pause(&self, filled: Filled) -> bool {
        let until = Instant::now() + filled.sync * PAUSE;
        let mut orders = self.orders.lock();
        loop {
            if self.is_stopped() {
                return false;
            }
            let is_late = orders.awaited || filled.bytes <= self.position.load(Ordering::Relaxed);
            if is_late || self.changed.wait_until(&mut orders, until).timed_out() {
                return !self.is_stopped();
            }
        }
    }
}

#[derive(Default)]
struct Orders {
    wanted: bool,
    /// Whether somebody waits in [`Preparer::take`].
    awaited: bool,
    ready: Option<Result<Segment, LogError>>,
    retired: VecDeque<Arc<Segment>>,
    ended: bool,
}

impl Preparer {
    pub(crate) fn start(mut setup: Setup) -> std::io::Result<Self> {
        let ready = setup.ready.take().map(Ok);
        let desk =
            Arc::new(Desk { orders: Mutex::new(Orders { ready, ..Orders::default() }), ..Desk::default() });
        let worker = Worker { desk: desk.clone(), setup };
        let thread =
            std::thread::Builder::new().name("raftlog-prepare".to_owned()).spawn(move || worker.run())?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Asks for the next segment, ahead of need.
    pub(crate) fn request(&self) {
        self.desk.orders.lock().wanted = true;
        self.desk.changed.notify_all();
    }

    /// Says how much of the segment in use is written, in bytes.
    pub(crate) fn note_position(&self, bytes: u64) {
        self.desk.position.store(bytes, Ordering::Relaxed);
    }

    /// Takes the next segment, waiting for it if need be. A full disk is given a second chance, from scratch: space
    /// may have been freed since the segment was asked for.
    pub(crate) fn take(&self) -> Result<Segment, LogError> {
        let mut orders = self.desk.orders.lock();
        let mut second_chance = true;
        loop {
            match orders.ready.take() {
                Some(Err(error)) if is_harmless(&error) && second_chance => second_chance = false,
                Some(result) => {
                    (orders.wanted, orders.awaited) = (false, false);
                    return result;
                }
                None if orders.ended => return Err(LogError::Panicked),
                None => {}
            }
            (orders.wanted, orders.awaited) = (true, true);
            self.desk.changed.notify_all();
            self.desk.changed.wait(&mut orders);
        }
    }

    /// Hands over segments that nothing refers to any more.
    pub(crate) fn retire(&self, segments: Vec<Arc<Segment>>) {
        self.desk.orders.lock().retired.extend(segments);
        self.desk.changed.notify_all();
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        // Under the lock, or the worker could miss the call between its look and its wait.
        let orders = self.desk.orders.lock();
        self.desk.stop.store(true, Ordering::Relaxed);
        drop(orders);
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the helper thread of the log has panicked");
        }
    }
}

/// Whether nothing but a new file was touched, and nothing but room was missing.
fn is_harmless(error: &LogError) -> bool {
    matches!(error, LogError::Create { .. } | LogError::ZeroFill { .. }) && error.is_storage_full()
}

enum Job {
    Retire(Arc<Segment>),
    Prepare,
    Stop,
}

struct Worker {
    desk: Arc<Desk>,
    setup: Setup,
}

impl Worker {
    fn run(mut self) {
        let _ended = Ended(self.desk.clone());
        loop {
            let result = match self.next_job() {
                Job::Stop => return,
                Job::Retire(segment) => self.retire(segment),
                Job::Prepare => match self.prepare() {
                    Ok(None) => Ok(()),
                    Ok(Some(segment)) => {
                        self.deliver(Ok(segment));
                        Ok(())
                    }
                    Err(error) => {
                        self.deliver(Err(error.clone()));
                        // A full disk matters only when the segment is needed.
                        if is_harmless(&error) { Ok(()) } else { Err(error) }
                    }
                },
            };
            if let Err(error) = result {
                (self.setup.on_failure)(&error);
                return;
            }
        }
    }

    /// Waits for work. What is retired comes first: it may become the next segment.
    fn next_job(&self) -> Job {
        let mut orders = self.desk.orders.lock();
        loop {
            if let Some(segment) = orders.retired.pop_front() {
                return Job::Retire(segment);
            }
            if self.desk.is_stopped() {
                return Job::Stop;
            }
            if orders.wanted && orders.ready.is_none() {
                return Job::Prepare;
            }
            self.desk.changed.wait(&mut orders);
        }
    }

    fn deliver(&self, result: Result<Segment, LogError>) {
        self.desk.orders.lock().ready = Some(result);
        self.desk.changed.notify_all();
    }

    fn prepare(&mut self) -> Result<Option<Segment>, LogError> {
        let spare = self.setup.spares.pop();
        let Setup { io, dir, .. } = &self.setup;
        let counter = self.setup.last_counter + 1;
        let generation = make_generation(counter, io.nonce());
        let segment = match spare {
            Some(mut spare) => {
                spare.rename(io.as_ref(), dir, generation, Role::Segment)?;
                Some(spare)
            }
            None => {
                let go_on = |filled| self.desk.pause(filled);
                let len = len_of_new(counter, self.setup.segment_bytes);
                Segment::create(io.as_ref(), dir, generation, len, &go_on)?
            }
        };
        self.setup.last_counter = counter_of(generation);
        Ok(segment)
    }

    fn retire(&mut self, segment: Arc<Segment>) -> Result<(), LogError> {
        let Setup { io, dir, .. } = &self.setup;
        let has_room = self.setup.spares.len() < self.setup.max_spares;
        let has_size = segment.len == self.setup.segment_bytes;
        let path = segment.path.clone();
        // A segment that somebody still reads must keep its bytes, so it cannot be used again.
        match Arc::into_inner(segment) {
            Some(mut spare) if has_room && has_size => {
                let generation = spare.generation;
                spare.rename(io.as_ref(), dir, generation, Role::Spare)?;
                self.setup.spares.push(spare);
                Ok(())
            }
            _ => {
                unlink(io.as_ref(), &path)?;
                sync_dir(io.as_ref(), dir)
            }
        }
    }
}

/// Wakes whoever waits for a segment that will never come.
struct Ended(Arc<Desk>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.orders.lock().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    /// A pause after it does not end by itself.
    const SLOW: Filled = Filled { bytes: 4096, sync: Duration::from_hours(1) };

    #[test]
    fn zeros_do_not_pause_when_the_segment_is_needed_soon() {
        let desk = Desk::default();
        assert!(desk.pause(Filled { sync: Duration::ZERO, ..SLOW }), "a pause ends");
        desk.position.store(SLOW.bytes, Ordering::Relaxed);
        assert!(desk.pause(SLOW), "the segment in use fills up faster");
    }

    #[test]
    fn a_pause_ends_when_somebody_waits_or_nobody_will() {
        for stop in [false, true] {
            let desk = Desk::default();
            std::thread::scope(|scope| {
                let paused = scope.spawn(|| desk.pause(SLOW));
                let mut orders = desk.orders.lock();
                orders.awaited = !stop;
                desk.stop.store(stop, Ordering::Relaxed);
                drop(orders);
                desk.changed.notify_all();
                assert_eq!(paused.join().unwrap(), !stop);
            });
        }
    }
}
