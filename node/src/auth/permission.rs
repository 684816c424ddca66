//! What a user may do.

/// One thing that a user may do. Names are rqlite's. Members tell each other the numbers: new ones come at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Permission {
    /// Everything; also what has no name of its own.
    All,
    /// Write.
    Execute,
    /// Read.
    Query,
    /// Replace the database.
    Load,
    /// Read all of it at once.
    Backup,
    /// Become a voter.
    Join,
    /// Become a read replica.
    JoinReadOnly,
    /// Remove a member.
    Remove,
    /// See the state of the cluster.
    Status,
    /// See whether a member is in service.
    Ready,
    /// Snapshots.
    Snapshot,
    /// Lead and follow.
    LeaderOps,
    /// The console.
    Ui,
}

impl Permission {
    /// Each with the names that it has in a file.
    const NAMES: &[(&str, Self)] = &[
        ("all", Self::All),
        ("execute", Self::Execute),
        ("query", Self::Query),
        ("load", Self::Load),
        ("backup", Self::Backup),
        ("join", Self::Join),
        ("join-read-only", Self::JoinReadOnly),
        ("join-read-replica", Self::JoinReadOnly),
        ("remove", Self::Remove),
        ("status", Self::Status),
        ("ready", Self::Ready),
        ("snapshot", Self::Snapshot),
        ("leader-ops", Self::LeaderOps),
        ("ui", Self::Ui),
    ];

    /// By its name in a file.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, permission)| *permission)
    }

    /// The names that a file may have, for messages.
    pub fn names() -> String {
        Self::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u16);

impl Permissions {
    /// All of these.
    pub fn of(permissions: &[Permission]) -> Self {
        permissions.iter().fold(Self::default(), |all, permission| all.with(*permission))
    }

    /// As members tell each other.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// As another member told. What is not known here nobody has, but who has all.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// With one more.
    #[must_use]
    pub fn with(self, permission: Permission) -> Self {
        Self(self.0 | 1 << permission as u8)
    }

    /// Of either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Their names, each once.
    pub fn names(self) -> Vec<&'static str> {
        let mut held: Vec<(&str, Permission)> = Vec::new();
        for (name, permission) in Permission::NAMES {
            let is_new = held.last().is_none_or(|(_, last)| last != permission);
            if is_new && self.0 & 1 << *permission as u8 != 0 {
                held.push((name, *permission));
            }
        }
        held.into_iter().map(|(name, _)| name).collect()
    }

    /// Whether all of `needed` are in it.
    pub fn cover(self, needed: &[Permission]) -> bool {
        self.covers(Self::of(needed))
    }

    /// Whether all of `needed` are in it.
    pub fn covers(self, needed: Self) -> bool {
        self.0 & 1 << Permission::All as u8 != 0 || self.0 & needed.0 == needed.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{All, Execute, Query, Remove};

    #[test]
    fn covering_by_table() {
        let none = Permissions::default();
        let both = none.with(Execute).with(Query);
        for (held, needed, expected) in [
            (none, &[][..], true),
            (none, &[Query], false),
            (both, &[Query], true),
            (both, &[Query, Execute], true),
            (both, &[Query, Remove], false),
            (none.with(Query), &[Query, Execute], false),
            (none.with(Query).or(none.with(Execute)), &[Query, Execute], true),
            (none.with(All), &[Query, Execute, Remove], true),
            // What has no permission of its own needs all.
            (both, &[All], false),
            (none.with(All), &[All], true),
        ] {
            assert_eq!(held.cover(needed), expected, "{held:?} {needed:?}");
            let told = Permissions::from_bits(Permissions::of(needed).bits());
            assert_eq!(held.covers(told), expected, "{held:?} {needed:?}");
        }
    }
}
