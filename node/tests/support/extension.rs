//! Extensions of SQLite made for a test: `extension.c`, compiled by the compiler that SQLite itself needs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What an extension is to be.
#[derive(Clone, Copy)]
pub struct Extension {
    /// The factor of its function `twice`: another one makes another file.
    pub times: u32,
    /// What its entry point is called.
    pub entry_point: &'static str,
    /// What its entry point answers instead of doing its work; 0: nothing.
    pub code: u32,
    /// Whether it calls a function that nobody defines, `nobody_defines_this`.
    pub undefined: bool,
}

impl Extension {
    /// One that works.
    pub const SOUND: Self =
        Self { times: 2, entry_point: "sqlite3_extension_init", code: 0, undefined: false };

    /// Writes it to `directory/name`, which is made.
    pub fn build(self, directory: &Path, name: &str) -> PathBuf {
        std::fs::create_dir_all(directory).unwrap();
        let (path, source) = (directory.join(name), directory.join(format!(".{name}.c")));
        std::fs::write(&source, include_str!("extension.c")).unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-pthread", "-O1", "-w"])
            .args([format!("-DTIMES={}", self.times), format!("-DENTRY_POINT={}", self.entry_point)])
            .arg(format!("-DCODE={}", self.code))
            .args(self.undefined.then_some("-DUNDEFINED"))
            .arg("-o")
            .args([&path, &source])
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        path
    }
}
