//! Who was not let in on the peer port, counted by reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not talk as members do, or not by TLS where that is asked for.
    Preface,
    /// It means another member: addresses are used again by others.
    OtherMember,
    /// It is of another cluster.
    OtherCluster,
    /// It is of a later epoch of this cluster.
    OtherEpoch,
    /// It is of an earlier epoch of this cluster, which went on without it.
    Outlived,
    /// It is of no cluster, or this member is of none, and wants what only members get.
    Stranger,
    /// It was removed from the cluster.
    Removed,
    /// The leader knows no such member.
    Unknown,
    /// Its certificate is not in that member's name.
    Certificate,
    /// Its volume was put back to an earlier state, or copied.
    RolledBack,
    /// As many connections of members as there may be are open.
    TooMany,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Preface,
        Self::OtherMember,
        Self::OtherCluster,
        Self::OtherEpoch,
        Self::Outlived,
        Self::Stranger,
        Self::Removed,
        Self::Unknown,
        Self::Certificate,
        Self::RolledBack,
        Self::TooMany,
    ];

    /// As it is told in numbers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preface => "preface",
            Self::OtherMember => "other-member",
            Self::OtherCluster => "other-cluster",
            Self::OtherEpoch => "other-epoch",
            Self::Outlived => "outlived",
            Self::Stranger => "stranger",
            Self::Removed => "removed",
            Self::Unknown => "unknown",
            Self::Certificate => "certificate",
            Self::RolledBack => "rolled-back",
            Self::TooMany => "too-many",
        }
    }
}

/// Somebody was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPeer {
    /// For numbers.
    pub reason: Reason,
    /// For whoever was refused, and for the log.
    pub message: String,
}

impl RefusedPeer {
    /// For `reason`, in words.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// How many were not let in since the start.
#[derive(Debug, Default)]
pub struct RefusedPeers([AtomicU64; Reason::ALL.len()]);

impl RefusedPeers {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many, for each reason.
    pub fn counted(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_for_itself() {
        let refused = RefusedPeers::default();
        for (n, reason) in Reason::ALL.into_iter().enumerate() {
            (0..=n).for_each(|_| refused.count(reason));
        }
        let counted: Vec<(&str, u64)> =
            refused.counted().map(|(reason, count)| (reason.name(), count)).collect();
        let expected: Vec<(&str, u64)> = Reason::ALL.into_iter().map(Reason::name).zip(1..).collect();
        assert_eq!(counted, expected);
    }
}
