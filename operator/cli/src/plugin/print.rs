//! Standard output of the verbs. `println!` panics where the reader has gone, as `head` goes when it has seen enough: here
//! that is an error like others, which ends a verb early and is no failure.

use super::Plugin;
use crate::ShellError;
use anyhow::Result;
use serde::Serialize;
use std::io::{Write, stderr, stdout};

impl Plugin {
    /// Prints a value as JSON if that was asked for, else the text, which ends its last line itself.
    pub(super) fn print(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        Ok(out(&if self.json { serde_json::to_string_pretty(value)? + "\n" } else { text() })?)
    }

    /// Prints an object: as JSON if that was asked for, else as YAML.
    pub(super) fn show(&self, object: &impl Serialize) -> Result<()> {
        let yaml = serde_yaml::to_string(object)?;
        self.print(object, || yaml)
    }
}

/// Prints text as it is, at once.
pub(super) fn out(text: &str) -> Result<(), ShellError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ShellError::Output)
}

/// Tells of what went wrong with a part, while the rest goes on.
pub(super) fn warn(text: &str) {
    // Nobody is left who could be told that this fails.
    let _ = writeln!(stderr(), "{text}");
}

/// What `done` is; `unread` where nobody reads on.
pub(super) fn unless_unread<T>(done: Result<T>, unread: T) -> Result<T> {
    done.or_else(|error| match error.downcast_ref::<ShellError>() {
        Some(ours) if ours.is_closed_pipe() => Ok(unread),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn only_the_end_of_the_own_output_is_no_failure() {
        let unread = |error: anyhow::Error| unless_unread(Err(error), "unread").ok();
        assert_eq!(unread(ShellError::Output(ErrorKind::BrokenPipe.into()).into()), Some("unread"));
        assert_eq!(unread(ShellError::Output(ErrorKind::StorageFull.into()).into()), None);
        // That of a connection.
        assert_eq!(unread(Error::from(ErrorKind::BrokenPipe).into()), None);
        assert_eq!(unless_unread(Ok("done"), "unread").ok(), Some("done"));
    }
}
