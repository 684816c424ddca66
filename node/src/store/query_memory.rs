//! A bound on what SQLite takes for queries: one of them alone, and all of them together.
//!
//! SQLite can limit its memory only for the whole process, and then the writer is the next to be refused, which ends the
//! member. So what stands in front of SQLite's own allocator counts what the query on this thread holds: beyond its share
//! there is no memory for it, which SQLite reports as the statement's error. Nobody else is counted or refused.
//!
//! Source: <https://www.sqlite.org/malloc.html>, "Alternative low-level memory allocators".
#![allow(unsafe_code)]

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
    static QUERY: Cell<Share> = const { Cell::new(Share::NOBODYS) };
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
    /// Of a thread that runs no query.
    const NOBODYS: Self = Self { held: 0, granted: i64::MAX, was_refused: false };
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

/// While it is there, what SQLite takes on this thread is the query's.
#[derive(Debug)]
pub struct QueryMemory(());

impl QueryMemory {
    /// A query begins.
    pub fn begin() -> Self {
        QUERY.set(Share { held: 0, granted: STEP, was_refused: false });
        Self(())
    }

    /// What the query is told if it wanted more than it may have.
    pub fn refusal(&self) -> Option<String> {
        let limit = LIMIT.load(Ordering::Relaxed);
        QUERY.get().was_refused.then(|| {
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
        let share = QUERY.replace(Share::NOBODYS);
        GRANTED.fetch_sub(share.granted - STEP, Ordering::Relaxed);
    }
}

/// Whether the query on this thread may hold `more` bytes; notes if not.
fn may_hold(more: i64) -> bool {
    let share = QUERY.get();
    let lacks = share.held + more - share.granted;
    if lacks <= 0 {
        return true;
    }
    let more = (lacks + STEP - 1) / STEP * STEP;
    let is_granted = grant(share.granted, more);
    QUERY.set(if is_granted {
        Share { granted: share.granted + more, ..share }
    } else {
        Share { was_refused: true, ..share }
    });
    is_granted
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

fn hold(bytes: i64) {
    let share = QUERY.get();
    // What was there before the query may go while it runs.
    QUERY.set(Share { held: (share.held + bytes).max(0), ..share });
}

/// Size of an allocation, in bytes.
///
/// # Safety
/// `allocation` is one of the allocator behind.
unsafe fn size_of(behind: &Allocator, allocation: *mut c_void) -> i64 {
    // SAFETY: as the caller promises.
    i64::from(unsafe { (behind.size)(allocation) })
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    let Some(behind) = BEHIND.get().filter(|_| may_hold(bytes.into())) else { return ptr::null_mut() };
    // SAFETY: SQLite calls its own function as it would without us, and what it returns is of that allocator.
    unsafe {
        let allocation = (behind.allocate)(bytes);
        if !allocation.is_null() {
            hold(size_of(behind, allocation));
        }
        allocation
    }
}

unsafe extern "C" fn free(allocation: *mut c_void) {
    let Some(behind) = BEHIND.get() else { return };
    // SAFETY: SQLite frees what it has from `allocate` or `grow`, once.
    unsafe {
        hold(-size_of(behind, allocation));
        (behind.free)(allocation);
    }
}

unsafe extern "C" fn grow(allocation: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(behind) = BEHIND.get() else { return ptr::null_mut() };
    // SAFETY: SQLite has it from `allocate` or `grow`, and what it becomes is of the same allocator.
    unsafe {
        let before = size_of(behind, allocation);
        if !may_hold(i64::from(bytes) - before) {
            return ptr::null_mut();
        }
        let grown = (behind.grow)(allocation, bytes);
        if !grown.is_null() {
            hold(size_of(behind, grown) - before);
        }
        grown
    }
}
