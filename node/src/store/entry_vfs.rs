//! SQLite's file system layer with the clock of a log entry. It also holds the two SQLite calls that rusqlite does not offer.
//!
//! The writer's connection is opened on a copy of the default VFS in which `xCurrentTime` and `xCurrentTimeInt64`
//! answer with the entry's time. So `'now'`, `CURRENT_TIMESTAMP`, defaults and triggers follow the entry on every
//! replica, whatever its own clock says. Readers use the default VFS and see the wall clock.
//!
//! The copy also notes when the operating system reports a full disk, because SQLITE_FULL alone does not tell a full
//! disk (this replica's misfortune) from an exhausted AUTOINCREMENT sequence (a result that all replicas share).
//!
//! What is written into the WAL is shown to [`super::wal_capture`].
//!
//! Source: <https://www.sqlite.org/vfs.html>, `sqlite3_vfs` and `sqlite3_io_methods` in `sqlite3.h`.
#![allow(unsafe_code)]

use super::wal_capture;
use parking_lot::Mutex;
use rusqlite::{Connection, ffi};
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Julian day number of 1970-01-01 in milliseconds.
const UNIX_EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

/// A registered VFS with a settable clock. It is never unregistered: SQLite may hold pointers to it, and a process
/// opens few writers. Dropping the handle gives it back for the next writer of this process.
pub struct EntryVfs {
    inner: &'static Registered,
}

#[repr(C)]
struct Registered {
    /// First, so that SQLite's pointer to it is a pointer to the whole.
    base: ffi::sqlite3_vfs,
    default: *mut ffi::sqlite3_vfs,
    name: CString,
    julian_ms: AtomicI64,
}

// SAFETY: after registration SQLite only reads `base` (all but `pNext`, which it guards by its own mutex), `default`
// points to SQLite's static default VFS, and the clock is atomic.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

static IDLE: Mutex<Vec<&'static Registered>> = Mutex::new(Vec::new());
static REGISTERED: AtomicU64 = AtomicU64::new(0);
static FULL_WRITES: AtomicU64 = AtomicU64::new(0);

/// Methods of a kind of file, with a watched `xWrite`. SQLite has several kinds: with and without locks, for one.
#[repr(C)]
struct Methods {
    /// First, so that SQLite's pointer to it is a pointer to the whole.
    watched: ffi::sqlite3_io_methods,
    original: *const ffi::sqlite3_io_methods,
    is_wal: bool,
}
// SAFETY: immutable tables of function pointers.
unsafe impl Send for Methods {}
// SAFETY: as above.
unsafe impl Sync for Methods {}
static METHODS: Mutex<Vec<&'static Methods>> = Mutex::new(Vec::new());

impl Methods {
    /// The watched copy of `original`, which is never freed: there are as many as SQLite has kinds of files.
    fn of(original: &'static ffi::sqlite3_io_methods, is_wal: bool) -> &'static Self {
        let mut all = METHODS.lock();
        if let Some(known) = all.iter().find(|m| ptr::eq(m.original, original) && m.is_wal == is_wal) {
            return known;
        }
        let mut watched = *original;
        watched.xWrite = Some(write);
        let new: &'static Self = Box::leak(Box::new(Self { watched, original, is_wal }));
        all.push(new);
        new
    }
}

/// SQLite could not register the VFS.
#[derive(Debug, thiserror::Error)]
#[error("SQLite refused to register its file system layer (code {0})")]
pub struct RegisterError(c_int);

impl EntryVfs {
    /// A VFS that no other writer of this process uses.
    pub fn register() -> Result<Self, RegisterError> {
        if let Some(inner) = IDLE.lock().pop() {
            return Ok(Self { inner });
        }
        // SAFETY: sqlite3_initialize may be called at any time; sqlite3_vfs_find(NULL) then returns the default VFS, a
        // valid static structure, which is copied bytewise as the SQLite documentation allows for shims. The copy and
        // its name are leaked, so the registered pointers stay valid for the life of the process.
        unsafe {
            let rc = ffi::sqlite3_initialize();
            if rc != ffi::SQLITE_OK {
                return Err(RegisterError(rc));
            }
            let default = ffi::sqlite3_vfs_find(ptr::null());
            if default.is_null() {
                return Err(RegisterError(ffi::SQLITE_ERROR));
            }
            let n = REGISTERED.fetch_add(1, Ordering::Relaxed);
            let name = CString::new(format!("entry-{n}")).map_err(|_| RegisterError(ffi::SQLITE_MISUSE))?;
            let mut base = ptr::read(default);
            base.pNext = ptr::null_mut();
            base.xOpen = Some(open);
            base.xCurrentTime = Some(current_time);
            base.xCurrentTimeInt64 = Some(current_time_int64);
            let inner = Box::leak(Box::new(Registered { base, default, name, julian_ms: AtomicI64::new(0) }));
            inner.base.zName = inner.name.as_ptr();
            let rc = ffi::sqlite3_vfs_register(&raw mut inner.base, 0);
            if rc != ffi::SQLITE_OK {
                return Err(RegisterError(rc));
            }
            Ok(Self { inner })
        }
    }

    /// Its name, for `open_with_flags_and_vfs`.
    pub fn name(&self) -> &CStr {
        &self.inner.name
    }

    /// Sets the clock, in microseconds since 1970. SQLite's clock has milliseconds. Set it before preparing.
    pub fn set_time(&self, timestamp_us: i64) {
        let ms = timestamp_us.div_euclid(1000).saturating_add(UNIX_EPOCH_JULIAN_MS);
        // 0 would mean "unset" to SQLite.
        self.inner.julian_ms.store(ms.max(1), Ordering::Relaxed);
    }
}

impl Drop for EntryVfs {
    fn drop(&mut self) {
        IDLE.lock().push(self.inner);
    }
}

/// How often a write of this process through an [`EntryVfs`] met a full disk.
pub fn full_writes() -> u64 {
    FULL_WRITES.load(Ordering::Relaxed)
}

/// Sets what `last_insert_rowid()` returns until the next insert: it is part of the replicated state.
pub fn set_last_insert_rowid(connection: &Connection, rowid: i64) {
    // SAFETY: the handle of a live connection, used on the thread that owns the connection.
    unsafe { ffi::sqlite3_set_last_insert_rowid(connection.handle(), rowid) }
}

/// Whether a deferred foreign key constraint is violated at this point of the transaction.
pub fn has_deferred_violations(connection: &Connection) -> bool {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: the handle of a live connection and two valid integers.
    let rc = unsafe {
        let op = ffi::SQLITE_DBSTATUS_DEFERRED_FKS;
        ffi::sqlite3_db_status(connection.handle(), op, &raw mut current, &raw mut highest, 0)
    };
    rc == ffi::SQLITE_OK && current != 0
}

/// `sqlite3_changes64()` and `sqlite3_total_changes64()` of the connection that calls a function.
pub fn counters_of(context: &rusqlite::functions::Context<'_>) -> rusqlite::Result<(u64, u64)> {
    // SAFETY: the reference is used only within this call, on the thread that runs the function.
    let connection = unsafe { context.get_connection()? };
    Ok((connection.changes(), connection.total_changes()))
}

unsafe extern "C" fn current_time_int64(vfs: *mut ffi::sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes the VFS that was registered, which is the first field of a `Registered`, and a valid `out`.
    unsafe { *out = (*vfs.cast::<Registered>()).julian_ms.load(Ordering::Relaxed) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: as above.
    unsafe { *out = (*vfs.cast::<Registered>()).julian_ms.load(Ordering::Relaxed) as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const std::ffi::c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's own for this call; the default VFS's xOpen accepts a copy of itself as `vfs`
    // (it reads only mxPathname and pAppData, which are copied). `pMethods` is then NULL or a valid static table.
    unsafe {
        let Some(default_open) = (*(*vfs.cast::<Registered>()).default).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let rc = default_open(vfs, name, file, flags, out_flags);
        if let Some(original) = (*file).pMethods.as_ref() {
            let methods = Methods::of(original, flags & ffi::SQLITE_OPEN_WAL != 0);
            (*file).pMethods = &raw const methods.watched;
        }
        rc
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: `open` gave `file` the first field of a `Methods`, copied from the methods of the VFS that opened it.
    // SQLite passes `amount` readable bytes at `data`.
    unsafe {
        let methods = &*(*file).pMethods.cast::<Methods>();
        let Some(original_write) = (*methods.original).xWrite else { return ffi::SQLITE_IOERR_WRITE };
        let rc = original_write(file, data, amount, offset);
        if rc == ffi::SQLITE_FULL {
            FULL_WRITES.fetch_add(1, Ordering::Relaxed);
        }
        if methods.is_wal
            && rc == ffi::SQLITE_OK
            && let (Ok(length), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset))
        {
            wal_capture::wrote(offset, std::slice::from_raw_parts(data.cast::<u8>(), length));
        }
        rc
    }
}
