//! SQLite's preupdate hook: each row that a statement inserts, changes or deletes, before it does, with its values.
//!
//! rusqlite offers it only with bindings made at build time, which need libclang; the declarations that come with the
//! bundled SQLite have it.
//!
//! Source: <https://www.sqlite.org/c3ref/preupdate_blobwrite.html>.
#![allow(unsafe_code)]

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// It is new.
    Insert,
    /// It changes.
    Update,
    /// It goes.
    Delete,
}

/// A row that is about to change. It can be read only while the hook runs.
pub struct RowChange<'a> {
    /// What becomes of it.
    pub op: RowOp,
    /// The table.
    pub table: &'a str,
    /// Its rowid before and after; 0 in a table without rowids.
    pub rowids: (i64, i64),
    database: *mut ffi::sqlite3,
}

/// Which values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that it had.
    Before,
    /// Those that it is to have.
    After,
}

impl RowChange<'_> {
    /// How many columns the table has, virtual ones too.
    pub fn columns(&self) -> usize {
        // SAFETY: called while the hook runs, with the handle that SQLite gave it.
        let count = unsafe { ffi::sqlite3_preupdate_count(self.database) };
        usize::try_from(count).unwrap_or(0)
    }

    /// The value of a column: none if it is not stored (a virtual generated one). An error is SQLite's code.
    pub fn value(&self, side: Side, column: usize) -> Result<Option<ValueRef<'_>>, c_int> {
        let mut value: *mut ffi::sqlite3_value = ptr::null_mut();
        let Ok(column) = c_int::try_from(column) else { return Ok(None) };
        // SAFETY: called while the hook runs, with the handle that SQLite gave it; `value` is a valid place. SQLite
        // answers SQLITE_RANGE for a column that is not part of the record.
        let code = unsafe {
            match side {
                Side::Before => ffi::sqlite3_preupdate_old(self.database, column, &raw mut value),
                Side::After => ffi::sqlite3_preupdate_new(self.database, column, &raw mut value),
            }
        };
        match code {
            ffi::SQLITE_OK if value.is_null() => Err(ffi::SQLITE_NOMEM),
            // SAFETY: SQLite filled `value`, which is valid until the hook returns; `self` is not longer-lived.
            ffi::SQLITE_OK => Ok(Some(unsafe { read(value) })),
            ffi::SQLITE_RANGE => Ok(None),
            code => Err(code),
        }
    }
}

/// # Safety
/// `value` is a valid value that outlives `'a`.
unsafe fn read<'a>(value: *mut ffi::sqlite3_value) -> ValueRef<'a> {
    // SAFETY: the caller's promise; text and blobs are read before their length, as SQLite asks.
    unsafe {
        let bytes = |start: *const u8| {
            let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
            if start.is_null() { &[][..] } else { std::slice::from_raw_parts(start, length) }
        };
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => ValueRef::Text(bytes(ffi::sqlite3_value_text(value))),
            ffi::SQLITE_BLOB => ValueRef::Blob(bytes(ffi::sqlite3_value_blob(value).cast())),
            _ => ValueRef::Null,
        }
    }
}

/// Takes the changes of rows on a connection. It must not use the connection, and must not panic.
pub trait Follower: Send + Sync {
    /// A row is about to change.
    fn about_to_change(&self, change: &RowChange<'_>);
}

/// Has `follower` see what changes on `connection` from now on. The connection must be closed before the last clone of
/// `follower` goes; statements that were compiled before may skip the hook.
pub fn follow<F: Follower>(connection: &Connection, follower: &Arc<F>) {
    let context = Arc::as_ptr(follower).cast_mut().cast::<c_void>();
    // SAFETY: the handle of a live connection; `context` points to an `F` that the caller keeps for as long.
    unsafe { ffi::sqlite3_preupdate_hook(connection.handle(), Some(called::<F>), context) };
}

unsafe extern "C" fn called<F: Follower>(
    context: *mut c_void,
    database: *mut ffi::sqlite3,
    op: c_int,
    schema: *const c_char,
    table: *const c_char,
    old_rowid: ffi::sqlite3_int64,
    new_rowid: ffi::sqlite3_int64,
) {
    // SAFETY: `follow` gave `context`, which lives as long as the connection; SQLite's names are C strings that are
    // valid for this call.
    let (follower, schema, table) =
        unsafe { (&*context.cast::<F>(), CStr::from_ptr(schema), CStr::from_ptr(table)) };
    let op = match op {
        ffi::SQLITE_INSERT => RowOp::Insert,
        ffi::SQLITE_UPDATE => RowOp::Update,
        _ => RowOp::Delete,
    };
    // Names are UTF-8, as all text of the schema; what is not is nobody's table.
    if schema == c"main"
        && let Ok(table) = table.to_str()
    {
        follower.about_to_change(&RowChange { op, table, rowids: (old_rowid, new_rowid), database });
    }
}
