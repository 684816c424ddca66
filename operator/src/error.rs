//! Why a reconcile failed: one variant for each step of the sentence that touches the network.

use crate::cluster::access::AccessError;
use crate::cluster::apply::ApplyError;
use crate::cluster::backups::act::BackupsError;
use crate::cluster::certificates::CertificateError;
use crate::cluster::execute::ExecuteError;
use crate::cluster::observe::ObserveError;
use crate::reasons::reasons;
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

reasons! {
    /// Reasons of the condition Stalled where somebody else refuses what the operator asks for, or the spec makes no sense.
    RejectionReason {
        /// The spec asks for what cannot be.
        InvalidSpec => "InvalidSpec",
        /// The API server refuses a StatefulSet.
        Rejected => "Rejected",
        /// The API server refuses that a volume grows.
        ResizeRejected => "ResizeRejected",
        /// Members refuse the backup that the cluster is to begin with.
        RestoreRefused => "RestoreRefused",
    }
}

/// Why a reconcile failed where a human has to do something about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: RejectionReason,
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
        if let Self::Apply(error) = self {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            return Some(Rejection { reason: error.rejection()?, message: format!("{error}: {source}") });
        }
        let Self::Execute(error) = self else { return None };
        let message = error.restore_refusal()?.to_owned();
        Some(Rejection { reason: RejectionReason::RestoreRefused, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn what_needs_a_human_by_table() {
        for (kind, code, reason) in [
            ("StatefulSet", 422, Some(RejectionReason::Rejected)),
            ("StatefulSet", 403, Some(RejectionReason::Rejected)),
            ("StatefulSet", 500, None),
            ("StatefulSet", 409, None),
            ("Service", 422, None),
            ("PersistentVolumeClaim", 422, Some(RejectionReason::ResizeRejected)),
        ] {
            let status = Status { code, message: "spec.affinity: not so".into(), ..Status::default() };
            let source = kube::Error::Api(status.boxed());
            let error = Error::Apply(ApplyError::Apply { kind: kind.into(), name: "orders".into(), source });
            let rejection = error.rejection();
            assert_eq!(rejection.as_ref().map(|r| r.reason), reason, "{kind} {code}");
            assert!(rejection.is_none_or(|r| r.message.contains("spec.affinity: not so")), "{kind} {code}");
        }
    }
}
