//! What can go wrong between a client and the SQL API.

use reqwest::StatusCode;

/// Why a request gave no answer of the kind that was asked for.
///
/// An SQL error is none of these: it is part of the [`Answer`](super::Answer).
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// No host was given.
    #[error("no host to send to was given")]
    NoHosts,
    /// A base URL makes no sense.
    #[error("`{host}` is not the address of a member: {reason}")]
    BadHost {
        /// What was given.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client")]
    Build(#[source] reqwest::Error),
    /// A certificate or key makes no sense.
    #[error("cannot use the certificate, key or authority")]
    Certificate(#[source] reqwest::Error),
    /// The file that is to be sent cannot be read.
    #[error("cannot read the file")]
    File(#[source] std::io::Error),
    /// A body ended early.
    #[error("{host} ended the answer early; this is not all of it")]
    CutShort {
        /// Who was asked.
        host: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing moved for minutes.
    #[error("nothing came from {host} for minutes; whether it was done is not known")]
    Stalled {
        /// Who was asked.
        host: String,
    },
    /// The statements are no JSON.
    #[error("cannot encode the request")]
    Encode(#[source] serde_json::Error),
    /// No host answered. A write was not sent.
    #[error("no answer from {tried}")]
    Unreachable {
        /// The hosts.
        tried: String,
        /// What the last one that was tried ran into.
        #[source]
        source: reqwest::Error,
    },
    /// A write was sent and its answer did not come. It may have been applied.
    #[error("{host} did not answer; whether the write took effect is not known")]
    OutcomeUnknown {
        /// Who was asked.
        host: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The member refused. Of 503 the cause is that there is no leader at this moment.
    #[error("{host} refused ({status}): {message}")]
    Refused {
        /// Who was asked.
        host: String,
        /// HTTP status.
        status: StatusCode,
        /// The member's words.
        message: String,
    },
    /// A redirect leads away from the hosts that were given.
    #[error("{host} redirects to {location}, which is none of the given hosts")]
    ForeignRedirect {
        /// Who redirected.
        host: String,
        /// Where to.
        location: String,
    },
    /// Hosts redirect to each other.
    #[error("{host} redirects, after too many redirects already")]
    TooManyRedirects {
        /// Who redirected last.
        host: String,
    },
    /// An answer that is not of this API.
    #[error("{host} answered with something that is not of this API: {excerpt}")]
    Unexpected {
        /// Who was asked.
        host: String,
        /// The start of the body.
        excerpt: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl SqlError {
    /// Whether a write may have been applied although there is no answer to it.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Unexpected { .. } | Self::Stalled { .. })
    }
}
