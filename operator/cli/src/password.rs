//! Where passwords come from: a file or the terminal; from the command line too, as in rqlite's shell, with a warning.

use crate::ShellError;
use crate::args::User;
use std::path::Path;

/// The password of `user`: the first line of the file, else what the command line says, else what is typed without echo.
pub fn read(user: &User, file: Option<&Path>) -> Result<String, ShellError> {
    if user.password.is_some() {
        eprintln!(
            "Warning: every user of this machine can read the password in -u NAME:PASSWORD; --password-file hides it"
        );
    }
    match (file, &user.password) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ShellError::File { path: path.into(), source })?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        (None, Some(password)) => Ok(password.clone()),
        (None, None) => {
            rpassword::prompt_password(format!("Password of {}: ", user.name)).map_err(ShellError::NoTerminal)
        }
    }
}
