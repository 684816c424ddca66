//! Why a reconcile failed: one variant for each step of the sentence that touches the network.

use crate::cluster::access::AccessError;
use crate::cluster::apply::ApplyError;
use crate::cluster::backups::act::BackupsError;
use crate::cluster::certificates::CertificateError;
use crate::cluster::execute::ExecuteError;
use crate::cluster::observe::ObserveError;
use crate::status::StatusError;

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// While finding the way in to the members.
    #[error("cannot get in to the members")]
    Access(#[from] AccessError),
    /// While making certificates.
    #[error("cannot make certificates")]
    Certificates(#[from] CertificateError),
    /// While looking.
    #[error("cannot observe")]
    Observe(#[from] ObserveError),
    /// While sending objects.
    #[error("cannot apply")]
    Apply(#[from] ApplyError),
    /// While taking a step.
    #[error("cannot execute")]
    Execute(#[from] ExecuteError),
    /// While making backups that are due.
    #[error("cannot make backups")]
    Backups(#[from] BackupsError),
    /// While telling.
    #[error("cannot write the status")]
    Status(#[from] StatusError),
}

/// Why a reconcile failed where a human has to do something about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Error {
    /// Name of the step, for metrics.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Access(_) => "access",
            Self::Certificates(_) => "certificates",
            Self::Observe(_) => "observe",
            Self::Apply(_) => "apply",
            Self::Execute(_) => "execute",
            Self::Backups(_) => "backups",
            Self::Status(_) => "status",
        }
    }

    /// What needs a human, if that is why it failed: reason and sentence.
    pub fn rejection(&self) -> Option<Rejection> {
        if let Some(message) = self.resize_rejection() {
            return Some(Rejection { reason: "ResizeRejected", message });
        }
        let Self::Execute(error) = self else { return None };
        let message = error.restore_refusal()?.to_owned();
        Some(Rejection { reason: "RestoreRefused", message })
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
