//! Where rows go.

use crate::ShellError;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

/// Standard output or a file.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Standard(BufWriter<io::Stdout>),
    /// A file.
    File {
        /// Its name.
        name: String,
        /// The file.
        file: BufWriter<File>,
    },
}

impl Output {
    /// Standard output.
    pub fn standard() -> Self {
        Self::Standard(BufWriter::new(io::stdout()))
    }

    /// A file that is made, or emptied.
    pub fn file(path: &Path) -> Result<Self, ShellError> {
        let file = File::create(path).map_err(|source| ShellError::File { path: path.into(), source })?;
        Ok(Self::File { name: path.display().to_string(), file: BufWriter::new(file) })
    }

    /// Whether people see it at once.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Standard(_)) && io::stdout().is_terminal()
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Standard(_) => "standard output",
            Self::File { name, .. } => name,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}
