//! Whether foreign keys are enforced: what an entry does depends on it, so it is part of the state.

/// What is said of foreign keys, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForeignKeys {
    /// What the member was started with.
    pub configured: bool,
    /// What the state says. None until an entry says something: a cluster begins so, and one whose members were all of a
    /// version that left it to each of them.
    pub present: Option<bool>,
}

impl ForeignKeys {
    /// Whether the next entry is executed with them enforced.
    pub fn are_enforced(self) -> bool {
        self.present.unwrap_or(self.configured)
    }
}

/// What the state says, as a byte of it.
pub(super) fn encode(present: Option<bool>) -> u8 {
    present.map_or(0, |enforced| 1 + u8::from(enforced))
}

/// Reads what [`encode`] writes, and nothing else.
pub(super) fn decode(byte: u8) -> Option<Option<bool>> {
    [None, Some(false), Some(true)].get(usize::from(byte)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_counts_and_where_it_says_nothing_the_flag() {
        for (configured, present, enforced) in [
            (false, None, false),
            (true, None, true),
            (false, Some(true), true),
            (true, Some(false), false),
            (true, Some(true), true),
        ] {
            assert_eq!(
                ForeignKeys { configured, present }.are_enforced(),
                enforced,
                "{configured} {present:?}"
            );
            assert_eq!(decode(encode(present)), Some(present));
        }
        assert_eq!(decode(3), None);
    }
}
