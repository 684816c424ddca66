//! What SQLite says where a database's file cannot be read, or is not what was written there.
//!
//! Source: <https://www.sqlite.org/rescode.html>.

use rusqlite::{Error, ffi};

/// Whether the error tells of the file, and of nothing that a statement, a lock or a lack of memory can cause. That it does
/// is no proof: whoever would act on it looks at the pages.
pub fn tells_of_damage(error: &Error) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    match error.extended_code & 0xff {
        // A damaged virtual table (FTS index) is damaged everywhere: its pages are what was written.
        ffi::SQLITE_CORRUPT => error.extended_code != ffi::SQLITE_CORRUPT_VTAB,
        ffi::SQLITE_NOTADB => true,
        _ => matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_READ
                | ffi::SQLITE_IOERR_SHORT_READ
                | ffi::SQLITE_IOERR_CORRUPTFS
                | ffi::SQLITE_IOERR_DATA
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_causes_tells_of_damage() {
        for (code, tells) in [
            (ffi::SQLITE_CORRUPT, true),
            (ffi::SQLITE_CORRUPT_INDEX, true),
            (ffi::SQLITE_CORRUPT_VTAB, false),
            (ffi::SQLITE_NOTADB, true),
            (ffi::SQLITE_IOERR_READ, true),
            (ffi::SQLITE_IOERR_SHORT_READ, true),
            (ffi::SQLITE_IOERR_CORRUPTFS, true),
            (ffi::SQLITE_IOERR_DATA, true),
            (ffi::SQLITE_IOERR_NOMEM, false),
            (ffi::SQLITE_IOERR_FSYNC, false),
            (ffi::SQLITE_IOERR_SHMMAP, false),
            (ffi::SQLITE_NOMEM, false),
            (ffi::SQLITE_FULL, false),
            (ffi::SQLITE_BUSY, false),
            (ffi::SQLITE_CANTOPEN, false),
            (ffi::SQLITE_ERROR, false),
            (ffi::SQLITE_INTERRUPT, false),
        ] {
            let error = Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(tells_of_damage(&error), tells, "{error}");
        }
        assert!(!tells_of_damage(&Error::QueryReturnedNoRows));
    }
}
