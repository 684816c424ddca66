//! What a user is told when something did not work, and what to do then.

use crate::command::CommandError;
use client::sql::SqlError;
use client::trust::TrustError;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// Something did not work.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// A statement failed, or the request with it.
    #[error("{0}")]
    Statement(String),
    /// There is no answer.
    #[error(transparent)]
    Sql(SqlError),
    /// The member is not ready; its words.
    #[error("not ready:\n{0}")]
    NotReady(String),
    /// A command makes no sense.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Files that should hold authorities, or a certificate and its key, do not.
    #[error("--ca-cert, --client-cert, --client-key")]
    Trust(#[source] TrustError),
    /// Scripts read each other in a circle.
    #[error("{}: files nested too deeply; does one read itself?", path.display())]
    TooDeep {
        /// The one too many.
        path: PathBuf,
    },
    /// Output could not be written.
    #[error("cannot write")]
    Output(#[source] io::Error),
    /// Input could not be read.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// Nobody can be asked for the password.
    #[error("cannot ask for the password; name a file that holds it with --password-file")]
    NoTerminal(#[source] io::Error),
    /// The line editor failed.
    #[error("cannot read from the terminal")]
    Terminal(#[source] rustyline::error::ReadlineError),
    /// Ctrl-C while a request was under way.
    #[error("interrupted; a write may have taken effect all the same")]
    Interrupted,
    /// Something in a script.
    #[error("line {line}: {source}")]
    Line {
        /// Where the statement or command begins.
        line: usize,
        /// What did not work there.
        source: Box<ShellError>,
    },
}

impl ShellError {
    /// Tells the user, on standard error. A reader that went away (`| head`) is no error to tell of.
    pub fn report(&self) {
        if !self.is_closed_pipe() {
            eprintln!("Error: {}", self.explain());
        }
    }

    /// Whether output could not be written because its reader went away.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What did not work, why, and what to do.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.innermost().source();
        while let Some(error) = cause {
            // Writing to a String does not fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        if let Some(advice) = self.advice() {
            let _ = write!(text, "\n{advice}");
        }
        text
    }

    fn innermost(&self) -> &Self {
        match self {
            Self::Line { source, .. } => source.innermost(),
            _ => self,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        let Self::Sql(error) = self.innermost() else { return None };
        match error {
            SqlError::Unreachable { .. } => Some(
                "Is sqlited running there? Name a member with -H and -p, others to turn to with -a, \
                 and give it more time with -t.",
            ),
            SqlError::OutcomeUnknown { .. } => Some("Look whether it took effect before you run it again."),
            SqlError::ForeignRedirect { .. } => Some("If you trust that member, name it with -a."),
            SqlError::Refused { status, .. } => match status.as_u16() {
                401 => Some("Name a user that is allowed to do this with -u."),
                404 => Some("That member does not know this request: is it sqlited, and new enough?"),
                503 => Some("Try again in a few seconds. .nodes shows which members can be reached."),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<SqlError> for ShellError {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}
