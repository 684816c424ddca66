//! Where passwords come from: a file or the terminal, never the command line.

use crate::ShellError;
use std::path::Path;

/// The password of `user`: the first line of the file, else what is typed without echo.
pub fn read(user: &str, file: Option<&Path>) -> Result<String, ShellError> {
    match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ShellError::File { path: path.into(), source })?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        None => rpassword::prompt_password(format!("Password of {user}: ")).map_err(ShellError::NoTerminal),
    }
}
