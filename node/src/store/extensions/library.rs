//! A shared library with an extension of SQLite in it.
//!
//! SQLite's own `sqlite3_load_extension` is not used, and stays switched off on every connection, as it is by default. It
//! opens libraries so that their symbols are visible to those opened later: two versions of one extension in a process,
//! which is what a change of the set is, would call each other's functions. Here each library keeps its symbols for
//! itself. What SQLite hands to an extension (its table of functions) it also hands to "automatic" extensions, so one of
//! those notes where it is.
//!
//! Source: <https://www.sqlite.org/loadext.html>, `sqlite3_auto_extension` and `loadext.c`.
#![allow(unsafe_code)]

use super::ExtensionError;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use parking_lot::Mutex;
use rusqlite::{Connection, ffi};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

type Routines = ffi::sqlite3_api_routines;
type EntryPoint = unsafe extern "C" fn(*mut ffi::sqlite3, *mut *mut c_char, *const Routines) -> c_int;

/// A library that is open. It is never closed: connections hold pointers into it, and there are as many as the set had
/// files since the process was started.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    entry_point: EntryPoint,
}

/// SQLite's table of functions, which is the same for every connection.
static ROUTINES: AtomicPtr<Routines> = AtomicPtr::new(ptr::null_mut());

unsafe extern "C" fn note_routines(
    _: *mut ffi::sqlite3,
    _: *mut *mut c_char,
    routines: *const Routines,
) -> c_int {
    ROUTINES.store(routines.cast_mut(), Ordering::Release);
    ffi::SQLITE_OK
}

fn routines() -> rusqlite::Result<*const Routines> {
    static LOOKING: Mutex<()> = Mutex::new(());
    let _turn = LOOKING.lock();
    if ROUTINES.load(Ordering::Acquire).is_null() {
        // SAFETY: the function has the signature that SQLite calls it with, and only stores a pointer, whichever
        // connections are opened meanwhile.
        unsafe {
            let code = ffi::sqlite3_auto_extension(Some(note_routines));
            if code != ffi::SQLITE_OK {
                return Err(failure(code, None));
            }
        }
        let opened = Connection::open_in_memory();
        // SAFETY: as above.
        unsafe { ffi::sqlite3_cancel_auto_extension(Some(note_routines)) };
        opened?;
    }
    let found = ROUTINES.load(Ordering::Acquire);
    if found.is_null() { Err(failure(ffi::SQLITE_ERROR, None)) } else { Ok(found) }
}

fn failure(code: c_int, message: Option<String>) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), message)
}

impl Library {
    /// Opens the library at `path`, an absolute one, whose entry point is looked for by the name `name`.
    pub fn open(path: &Path, name: &str) -> Result<Self, ExtensionError> {
        // SAFETY: the code of the library runs in this process. Whoever configures the member says that it may, as with
        // any extension of SQLite.
        let opened = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let handle = opened.map_err(|error| {
            let message =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            ExtensionError::NotLoaded { name: name.to_owned(), message }
        })?;
        let names = entry_points(name);
        let found = names.iter().find_map(|name| {
            // SAFETY: a function of this name in an extension has this signature.
            unsafe { handle.get::<EntryPoint>(name.as_bytes()) }.ok().map(|symbol| *symbol)
        });
        match found {
            Some(entry_point) => {
                // Kept open for good.
                let _: *mut std::ffi::c_void = handle.into_raw();
                Ok(Self { entry_point })
            }
            None => Err(ExtensionError::NoEntryPoint { name: name.to_owned(), looked_for: names.join(", ") }),
        }
    }

    /// Has the extension put its functions, collations and modules on `connection`.
    pub fn install(self, connection: &Connection) -> rusqlite::Result<()> {
        let routines = routines()?;
        let mut message: *mut c_char = ptr::null_mut();
        // SAFETY: the handle of a live connection, used on the thread that owns it; SQLite's own table of functions; a
        // valid place for a message, which the extension allocates by SQLite's functions.
        let (code, message) = unsafe {
            let code = (self.entry_point)(connection.handle(), &raw mut message, routines);
            let text = (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned());
            ffi::sqlite3_free(message.cast());
            (code, text)
        };
        match code {
            ffi::SQLITE_OK | ffi::SQLITE_OK_LOAD_PERMANENTLY => Ok(()),
            code => Err(failure(code, message)),
        }
    }
}

/// Takes the module `name` off `connection`.
pub fn drop_module(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the handle of a live connection; without a module SQLite only removes the one of that name.
    let code = unsafe {
        ffi::sqlite3_create_module_v2(connection.handle(), name.as_ptr(), ptr::null(), ptr::null_mut(), None)
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(code, None)) }
}

/// What the entry point of the file `name` may be called: the usual name, then the letters of the file's, then its letters
/// and digits, without `lib` in front.
fn entry_points(name: &str) -> Vec<String> {
    let stem = name.split('.').next().unwrap_or_default();
    let stem = match stem.get(..3) {
        Some(lib) if lib.eq_ignore_ascii_case("lib") => &stem[3..],
        _ => stem,
    };
    let only = |keep: fn(&char) -> bool| {
        let letters: String = stem.chars().filter(keep).map(|c| c.to_ascii_lowercase()).collect();
        format!("sqlite3_{letters}_init")
    };
    let mut names = vec!["sqlite3_extension_init".to_owned(), only(char::is_ascii_alphabetic)];
    let with_digits = only(char::is_ascii_alphanumeric);
    if !names.contains(&with_digits) {
        names.push(with_digits);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_named_as_sqlite_does() {
        for (name, expected) in [
            ("mathfuncs.so", &["sqlite3_mathfuncs_init"][..]),
            ("libExample5.4.3.so", &["sqlite3_example_init", "sqlite3_example5_init"]),
            ("vec0.so", &["sqlite3_vec_init", "sqlite3_vec0_init"]),
            ("LIBa-b_c", &["sqlite3_abc_init"]),
        ] {
            assert_eq!(entry_points(name)[1..], *expected, "{name}");
        }
    }
}
