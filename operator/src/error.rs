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
        /// The API server refuses an object, or a change of one.
        Rejected => "Rejected",
        /// An object holds a name of ours.
        NameConflict => "NameConflict",
        /// A Secret of the operator's making does not hold what was put into it.
        SecretUnusable => "SecretUnusable",
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

impl Rejection {
    /// What needs a human of all that failed, with the reason of the first.
    pub fn of<'a>(failures: impl IntoIterator<Item = &'a Error>) -> Option<Self> {
        failures
            .into_iter()
            .filter_map(Error::rejection)
            .reduce(|all, next| Self { message: format!("{}; {}", all.message, next.message), ..all })
    }
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
        let reason = match self {
            Self::Access(error) => error.rejection(),
            Self::Certificates(error) => error.rejection(),
            Self::Observe(error) => error.rejection(),
            Self::Apply(error) => error.rejection(),
            Self::Execute(error) => {
                if let Some(message) = error.restore_refusal().map(str::to_owned) {
                    return Some(Rejection { reason: RejectionReason::RestoreRefused, message });
                }
                error.rejection()
            }
            Self::Backups(_) | Self::Status(_) => None,
        };
        Some(Rejection { reason: reason?, message: self.sentence() })
    }

    /// What failed and why, for people.
    pub fn sentence(&self) -> String {
        let cause = std::error::Error::source(self);
        cause.map_or_else(|| self.to_string(), sentence)
    }
}

/// An error with its causes, for people.
pub(crate) fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            // What it says beside its message is for programs.
            Some(kube::Error::Api(status)) => {
                parts.push(status.message.clone());
                break;
            }
            // It tells of its causes itself.
            Some(_) => {
                parts.push(error.to_string());
                break;
            }
            None => parts.push(error.to_string()),
        }
        cause = error.source();
    }
    parts.join(": ")
}

/// Whether the API server refuses for good what it was asked for. Anything else may be otherwise in a moment.
pub(crate) fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::observe::ObserveError;
    use crate::cluster::observed::Foreign;
    use crate::cluster::secrets::SecretError;
    use kube::core::Status;

    fn answer(code: u16) -> kube::Error {
        kube::Error::Api(
            Status { code, message: "spec.affinity: not so".into(), ..Status::default() }.boxed(),
        )
    }

    #[test]
    fn what_needs_a_human_by_table() {
        for (kind, code, reason) in [
            ("StatefulSet", 422, Some(RejectionReason::Rejected)),
            ("StatefulSet", 403, Some(RejectionReason::Rejected)),
            ("StatefulSet", 500, None),
            ("StatefulSet", 409, None),
            ("Service", 422, Some(RejectionReason::Rejected)),
            ("PodDisruptionBudget", 403, Some(RejectionReason::Rejected)),
            ("ConfigMap", 400, Some(RejectionReason::Rejected)),
            ("ConfigMap", 503, None),
            ("PersistentVolumeClaim", 422, Some(RejectionReason::ResizeRejected)),
        ] {
            let source = answer(code);
            let error = Error::Apply(ApplyError::Apply { kind: kind.into(), name: "orders".into(), source });
            let rejection = error.rejection();
            assert_eq!(rejection.as_ref().map(|r| r.reason), reason, "{kind} {code}");
            let told = format!("cannot apply {kind} orders: spec.affinity: not so");
            assert!(rejection.is_none_or(|r| r.message == told), "{kind} {code}");
        }
    }

    #[test]
    fn what_cannot_be_seen_or_done_needs_a_human_where_asking_again_changes_nothing() {
        let secret = |code| SecretError::Request { name: "s".into(), source: answer(code) };
        let foreign = || Foreign { object: "Secret s".into(), leftover: false };
        let damaged = || AccessError::Damaged { name: "s".into() };
        for (error, reason, part) in [
            (Error::Access(damaged()), Some(RejectionReason::SecretUnusable), "Secret s has no username"),
            (Error::Access(secret(403).into()), Some(RejectionReason::Rejected), "Secret s: spec.affinity"),
            (Error::Access(secret(500).into()), None, "Secret s: spec.affinity"),
            (
                Error::Access(SecretError::Taken(foreign()).into()),
                Some(RejectionReason::NameConflict),
                "Secret s exists",
            ),
            (
                Error::Observe(ObserveError::Given(secret(403))),
                Some(RejectionReason::Rejected),
                "cannot look for what the spec names: cannot read or write Secret s: spec.affinity",
            ),
            (Error::Certificates(secret(422).into()), Some(RejectionReason::Rejected), "Secret s: spec."),
            (
                Error::Execute(ExecuteError::Kube { step: "DressPod", source: answer(422) }),
                Some(RejectionReason::Rejected),
                "DressPod failed: spec.affinity: not so",
            ),
            (Error::Execute(ExecuteError::Kube { step: "DressPod", source: answer(504) }), None, "DressPod"),
        ] {
            assert_eq!(error.rejection().map(|rejection| rejection.reason), reason, "{error:?}");
            assert!(error.sentence().contains(part), "{}", error.sentence());
        }
    }

    #[test]
    fn all_that_is_refused_is_told() {
        let refused = |name: &str, code| {
            let source = answer(code);
            Error::Apply(ApplyError::Apply { kind: "Service".into(), name: name.into(), source })
        };
        let all = [refused("a", 500), refused("b", 422), refused("c", 403)];
        let told = Rejection::of(&all).unwrap();
        assert_eq!(told.reason, RejectionReason::Rejected);
        assert_eq!(
            told.message,
            "cannot apply Service b: spec.affinity: not so; cannot apply Service c: spec.affinity: not so"
        );
        assert_eq!(Rejection::of(&all[..1]), None);
    }
}
