//! A set of extensions that is open, as it goes onto connections.

use super::super::guard::Purpose;
use super::library::{Library, drop_module};
use super::set::ExtensionSet;
use super::{ExtensionError, ExtensionFile};
use rusqlite::{Connection, ffi};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A set that is open.
#[derive(Debug, Default)]
pub struct Loaded {
    set: ExtensionSet,
    /// The data directory on whose shelf its files are.
    data_dir: PathBuf,
    libraries: Vec<Library>,
    /// Functions whose results may differ from call to call, in lower case.
    volatile_functions: BTreeSet<String>,
    /// Modules that writes may not use, in lower case.
    refused_modules: BTreeSet<String>,
}

/// What a connection offers.
#[derive(Default)]
struct Offer {
    /// (name, number of arguments, kind, encoding, flags)
    functions: BTreeSet<(String, i64, String, String, i64)>,
    modules: BTreeSet<String>,
}

impl Offer {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let functions = "SELECT lower(name), narg, type, coalesce(enc, ''), flags FROM pragma_function_list
                         WHERE NOT builtin";
        let functions = connection
            .prepare(functions)?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let modules = connection
            .prepare("SELECT lower(name) FROM pragma_module_list")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Self { functions, modules })
    }
}

impl Loaded {
    /// No extension at all.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Of `libraries`, the files of `set` in their order, and looks at what they offer.
    pub(super) fn new(
        set: ExtensionSet,
        data_dir: &Path,
        libraries: Vec<Library>,
    ) -> Result<Self, ExtensionError> {
        let of_sqlite = |source| ExtensionError::NotInstalled { name: "SQLite".into(), source };
        let connection = Connection::open_in_memory().map_err(of_sqlite)?;
        // SQLite makes the modules by which it is asked when they are first used: looked at twice.
        Offer::of(&connection).map_err(of_sqlite)?;
        let before = Offer::of(&connection).map_err(of_sqlite)?;
        for (library, ExtensionFile { name, .. }) in libraries.iter().zip(set.files()) {
            let installed = library.install(&connection);
            installed.map_err(|source| ExtensionError::NotInstalled { name: name.clone(), source })?;
        }
        let after = Offer::of(&connection).map_err(of_sqlite)?;
        let is_volatile = |flags: i64| flags & i64::from(ffi::SQLITE_DETERMINISTIC) == 0;
        let volatile_functions = after
            .functions
            .difference(&before.functions)
            .filter(|(.., flags)| is_volatile(*flags))
            .map(|(name, ..)| name.clone())
            .collect();
        let modules: BTreeSet<String> = after.modules.difference(&before.modules).cloned().collect();
        if let Some(unknown) = set.modules().difference(&modules).next() {
            return Err(ExtensionError::refused(
                Path::new("-extensions-modules"),
                format!("no extension has a module {unknown}"),
            ));
        }
        let refused_modules = modules.difference(set.modules()).cloned().collect();
        let data_dir = data_dir.to_owned();
        Ok(Self { set, data_dir, libraries, volatile_functions, refused_modules })
    }

    /// Which they are.
    pub fn set(&self) -> &ExtensionSet {
        &self.set
    }

    /// Puts them on `connection`. What must stand over them is put there after that. Where entries are executed, and where
    /// tables are made, virtual tables are only of modules that somebody vouched for: a module cannot say that it tells
    /// every member the same.
    pub fn install(&self, connection: &Connection, purpose: Purpose) -> rusqlite::Result<()> {
        self.libraries.iter().try_for_each(|library| library.install(connection))?;
        match purpose {
            Purpose::Write => self.refused_modules.iter().try_for_each(|name| drop_module(connection, name)),
            Purpose::Read => Ok(()),
        }
    }

    /// Whether a write may call the function.
    pub fn is_volatile(&self, function: &str) -> bool {
        holds(&self.volatile_functions, function)
    }

    /// Whether a write may not use virtual tables of the module.
    pub fn refuses_module(&self, module: &str) -> bool {
        holds(&self.refused_modules, module)
    }

    /// By what arguments a child process has them too.
    pub fn arguments(&self) -> Vec<OsString> {
        if self.set.is_empty() {
            return Vec::new();
        }
        let bytes: String = self.set.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        vec![self.data_dir.clone().into(), bytes.into()]
    }

    /// The data directory and the set of [`Loaded::arguments`]; none if they make no sense.
    pub fn of_arguments(arguments: &[String]) -> Option<(PathBuf, ExtensionSet)> {
        let [data_dir, bytes] = arguments else { return None };
        let pairs = bytes.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = pairs.map(byte).collect::<Option<_>>()?;
        Some((data_dir.into(), ExtensionSet::decode(&bytes).ok()?))
    }
}

fn holds(names: &BTreeSet<String>, name: &str) -> bool {
    !names.is_empty() && names.contains(&name.to_ascii_lowercase())
}
