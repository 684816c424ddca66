//! How many requests may be traced.

/// At most so many a second. A second begins with the first request after the one before it, so no second of the clock has
/// more than twice as many.
#[derive(Debug)]
pub struct Budget {
    limit: u32,
    left: u32,
    /// Until when `left` counts, in microseconds since 1970.
    until_us: i64,
}

impl Budget {
    const SECOND_US: i64 = 1_000_000;

    /// `limit` for each second.
    pub fn new(limit: u32, now_us: i64) -> Self {
        Self { limit, left: limit, until_us: now_us.saturating_add(Self::SECOND_US) }
    }

    /// Whether one more may be. The clock may be set back: then a second begins anew.
    pub fn take(&mut self, now_us: i64) -> bool {
        let is_within = (self.until_us.saturating_sub(Self::SECOND_US)..self.until_us).contains(&now_us);
        if !is_within {
            *self = Self::new(self.limit, now_us);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second() {
        let mut budget = Budget::new(2, 0);
        for (now_us, may) in [
            (0, true),
            (1, true),
            (2, false),
            (999_999, false),
            (1_000_000, true),
            (1_500_000, true),
            (1_999_999, false),
            (9_000_000, true),
            (9_000_001, true),
            (9_000_002, false),
            // Set back.
            (5, true),
            (6, true),
            (7, false),
        ] {
            assert_eq!(budget.take(now_us), may, "{now_us}");
        }
        assert!(!Budget::new(0, 0).take(1));
    }
}
