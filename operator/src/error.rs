//! Why a reconcile failed: one variant for each step of the sentence that touches the network.

use crate::cluster::apply::ApplyError;
use crate::cluster::execute::ExecuteError;
use crate::cluster::observe::ObserveError;
use crate::cluster::status::StatusError;

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// While looking.
    #[error("cannot observe")]
    Observe(#[from] ObserveError),
    /// While sending objects.
    #[error("cannot apply")]
    Apply(#[from] ApplyError),
    /// While taking a step.
    #[error("cannot execute")]
    Execute(#[from] ExecuteError),
    /// While telling.
    #[error("cannot write the status")]
    Status(#[from] StatusError),
}

impl Error {
    /// Name of the step, for metrics.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Observe(_) => "observe",
            Self::Apply(_) => "apply",
            Self::Execute(_) => "execute",
            Self::Status(_) => "status",
        }
    }

    /// Why the server refused to let a volume grow, if that is what happened.
    pub fn resize_rejection(&self) -> Option<String> {
        match self {
            Self::Apply(error) if error.is_resize_rejection() => {
                let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                Some(format!("{error}: {source}"))
            }
            _ => None,
        }
    }
}
