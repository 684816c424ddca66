//! A bound on what SQLite takes for queries: one of them alone, and all of them together.
//!
//! SQLite can limit its memory only for the whole process, and then the writer is the next to be refused, which ends the
//! member. So what stands in front of SQLite's own allocator counts what the query on this thread holds: beyond its share
//! there is no memory for it, which SQLite reports as the statement's error. Nobody else is counted or refused.
//!
//! It also knows when there really is none. SQLite passes most such failures on, but not all: a statement of its own whose
//! failure undoes the transaction can be part of one that reports success.
//!
//! Source: <https://www.sqlite.org/malloc.html>, "Alternative low-level memory allocators".
#![allow(unsafe_code)]

use crate::failpoint::{Place, pass};
use rusqlite::ffi;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// What a query may hold without asking, and what it asks for at once: most never ask.
const STEP: i64 = 1 << 20;
/// Unless something else is said: of all queries together, in bytes.
const TOTAL: i64 = 512 << 20;

/// SQLite's own allocator, once ours stands in front of it.
static BEHIND: OnceLock<Allocator> = OnceLock::new();
/// Of all queries together; one of them may have half of it.
static LIMIT: AtomicI64 = AtomicI64::new(TOTAL);
/// What they were granted.
static GRANTED: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Of the query that this thread runs, if it runs one.
    static QUERY: Cell<Option<Share>> = const { Cell::new(None) };
    /// How often there was no memory for what is no query.
    static FAILURES: Cell<u64> = const { Cell::new(0) };
}

/// Functions of an allocator.
#[derive(Clone, Copy, Debug)]
struct Allocator {
    allocate: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    grow: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

/// What the query on this thread holds and may hold, in bytes.
#[derive(Clone, Copy, Debug)]
struct Share {
    held: i64,
    granted: i64,
    was_refused: bool,
}

impl Share {
    /// The same with `more` bytes allowed, if it may hold them.
    fn with(self, more: i64) -> Option<Self> {
        let lacks = self.held + more - self.granted;
        if lacks <= 0 {
            return Some(self);
        }
        let more = (lacks + STEP - 1) / STEP * STEP;
        grant(self.granted, more).then_some(Self { granted: self.granted + more, ..self })
    }

    /// The same holding `bytes` more, or less: what was there before the query may go while it runs.
    fn holding(self, bytes: i64) -> Self {
        Self { held: (self.held + bytes).max(0), ..self }
    }
}

/// Puts the bound in front of SQLite's allocator; false if SQLite is in use already, and stays as it is.
pub fn install() -> bool {
    if BEHIND.get().is_some() {
        return true;
    }
    let mut own = MaybeUninit::<ffi::sqlite3_mem_methods>::uninit();
    // SAFETY: SQLite fills in the structure that the pointer leads to, or says that it does not.
    let own = unsafe {
        if ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, own.as_mut_ptr()) != ffi::SQLITE_OK {
            return false;
        }
        own.assume_init()
    };
    let (Some(behind_allocate), Some(behind_free), Some(behind_grow), Some(size)) =
        (own.xMalloc, own.xFree, own.xRealloc, own.xSize)
    else {
        return false;
    };
    if BEHIND
        .set(Allocator { allocate: behind_allocate, free: behind_free, grow: behind_grow, size })
        .is_err()
    {
        return true;
    }
    let bounded =
        ffi::sqlite3_mem_methods { xMalloc: Some(allocate), xFree: Some(free), xRealloc: Some(grow), ..own };
    // SAFETY: SQLite copies the structure; its functions are those of its own allocator, or call them.
    unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const bounded) == ffi::SQLITE_OK }
}

/// From now on all queries together may hold `bytes`, and one of them half of it; 0 is without limit.
pub fn set_limit(bytes: u64) {
    let limit = if bytes == 0 { i64::MAX } else { i64::try_from(bytes).unwrap_or(i64::MAX) };
    LIMIT.store(limit, Ordering::Relaxed);
}

/// How often SQLite got no memory on this thread, queries apart.
pub fn failures() -> u64 {
    FAILURES.get()
}

/// While it is there, what SQLite takes on this thread is the query's.
#[derive(Debug)]
pub struct QueryMemory(());

impl QueryMemory {
    /// A query begins.
    pub fn begin() -> Self {
        QUERY.set(Some(Share { held: 0, granted: STEP, was_refused: false }));
        Self(())
    }

    /// What the query is told if it has wanted more than it may have since this was last asked.
    pub fn take_refusal(&self) -> Option<String> {
        let limit = LIMIT.load(Ordering::Relaxed);
        let share = QUERY.get()?;
        QUERY.set(Some(Share { was_refused: false, ..share }));
        share.was_refused.then(|| {
            format!(
                "the query needs more memory than there is for it: {} MiB, and {} MiB for all together \
                 (-query-memory-limit)",
                limit >> 21,
                limit >> 20
            )
        })
    }
}

impl Drop for QueryMemory {
    fn drop(&mut self) {
        if let Some(share) = QUERY.take() {
            GRANTED.fetch_sub(share.granted - STEP, Ordering::Relaxed);
        }
    }
}

/// Takes `more` bytes of what all queries may have for one that has `granted`, if it may have them.
fn grant(granted: i64, more: i64) -> bool {
    let limit = LIMIT.load(Ordering::Relaxed);
    if granted + more > limit / 2 {
        return false;
    }
    let taken = GRANTED.fetch_add(more, Ordering::Relaxed) + more;
    if taken > limit {
        GRANTED.fetch_sub(more, Ordering::Relaxed);
    }
    taken <= limit
}

/// Has `allocate` make `bytes` bytes of what were `before`, unless the query on this thread, if there is one, may not hold
/// them.
///
/// # Safety
/// What `allocate` returns is null or of the allocator `behind`.
unsafe fn counted(
    behind: &Allocator,
    before: i64,
    bytes: c_int,
    allocate: impl FnOnce() -> *mut c_void,
) -> *mut c_void {
    let Some(share) = QUERY.get() else {
        let allocation = match pass(Place::SqliteMemory) {
            Ok(()) => allocate(),
            // Only a test's doing: there is none.
            Err(_) => ptr::null_mut(),
        };
        FAILURES.set(FAILURES.get() + u64::from(allocation.is_null()));
        return allocation;
    };
    let Some(share) = share.with(i64::from(bytes) - before) else {
        QUERY.set(Some(Share { was_refused: true, ..share }));
        return ptr::null_mut();
    };
    let allocation = allocate();
    let held = match allocation.is_null() {
        true => before,
        // SAFETY: as the caller promises.
        false => unsafe { size_of(behind, allocation) },
    };
    // Also where there was none: it was granted.
    QUERY.set(Some(share.holding(held - before)));
    allocation
}

/// Size of an allocation, in bytes.
///
/// # Safety
/// `allocation` is one of the allocator `behind`.
unsafe fn size_of(behind: &Allocator, allocation: *mut c_void) -> i64 {
    // SAFETY: as the caller promises.
    i64::from(unsafe { (behind.size)(allocation) })
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    let Some(behind) = BEHIND.get() else { return ptr::null_mut() };
    // SAFETY: SQLite calls its own function as it would without us.
    unsafe { counted(behind, 0, bytes, || (behind.allocate)(bytes)) }
}

unsafe extern "C" fn free(allocation: *mut c_void) {
    let Some(behind) = BEHIND.get() else { return };
    // SAFETY: SQLite frees what it has from `allocate` or `grow`, once.
    unsafe {
        if let Some(share) = QUERY.get() {
            QUERY.set(Some(share.holding(-size_of(behind, allocation))));
        }
        (behind.free)(allocation);
    }
}

unsafe extern "C" fn grow(allocation: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(behind) = BEHIND.get() else { return ptr::null_mut() };
    // SAFETY: SQLite has it from `allocate` or `grow`, and what it becomes is of the same allocator.
    unsafe {
        let before = size_of(behind, allocation);
        counted(behind, before, bytes, || (behind.grow)(allocation, bytes))
    }
}
