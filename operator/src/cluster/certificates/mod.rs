//! Certificates of the members, for the port between them and for the one for clients.
//!
//! Pods mount Secrets of the cluster's own, one for each port, whoever makes what is in them: an authority of the cluster,
//! cert-manager, or the user. So a certificate that does not fit reaches nobody, another source restarts nobody, and one
//! authority follows another with an overlap, whichever they are. They are made before the pods that mount them, for some
//! members more than there are, and renewed while they are good for a month still; members read them anew by themselves.
//! The authorities' keys are in Secrets that no pod mounts.

pub mod exchange;
mod given;
pub mod health;
mod keep;
mod pki;
mod wanted;

pub use keep::{Kept, KeptPorts, keep};

use super::secrets::SecretError;
use crate::error::RejectionReason;

/// Key of a Secret with certificates: who is trusted.
pub const AUTHORITIES: &str = given::AUTHORITIES;

/// Why the members have no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A Secret is not there.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

impl CertificateError {
    /// Why it needs a human, for programs, if it does.
    pub fn rejection(&self) -> Option<RejectionReason> {
        match self {
            Self::Secret(error) => error.rejection(),
            Self::Make(_) => None,
        }
    }
}
