//! What is to be measured, and what of it a file of records has already.

use crate::cli::PlanOptions;
use crate::record::Record;

/// Every work with every number of clients, some times each, of one target.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    options: &'a PlanOptions,
    tag: &'a str,
}

impl<'a> Plan<'a> {
    /// What the options ask for, of the target `tag`.
    pub fn of(options: &'a PlanOptions, tag: &'a str) -> Self {
        Self { options, tag }
    }

    /// How many noisy records a repetition may leave before one of them counts.
    pub fn spare(&self) -> usize {
        self.options.spare
    }

    /// Repetitions that have neither a quiet record nor more noisy ones than may be; with the number of those.
    pub fn unfinished(&self, known: &[Record], work: &str, clients: usize) -> Vec<(usize, usize)> {
        let of = |repetition| {
            known.iter().filter_map(move |record| match record {
                Record::Load(r)
                    if (r.tag.as_str(), r.work.as_str(), r.clients, r.repetition)
                        == (self.tag, work, clients, repetition) =>
                {
                    Some(r.noisy)
                }
                _ => None,
            })
        };
        (0..self.options.reps)
            .filter(|repetition| of(*repetition).all(|noisy| noisy))
            .map(|repetition| (repetition, of(repetition).count()))
            .filter(|(_, noisy)| *noisy <= self.options.spare)
            .collect()
    }

    /// How many repetitions are missing in all.
    pub fn missing(&self, known: &[Record]) -> usize {
        let works = self.options.work.iter().map(|work| work.name());
        works
            .flat_map(|work| self.options.clients.iter().map(move |clients| (work.clone(), *clients)))
            .map(|(work, clients)| self.unfinished(known, &work, clients).len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::To;
    use crate::record::LoadRecord;
    use crate::work::WorkName;

    #[test]
    fn what_is_missing_by_table() {
        let (work, clients) = (vec![WorkName::Insert], vec![1, 16]);
        let options = PlanOptions { work, clients, reps: 2, spare: 1, to: To::Leader };
        let record = |tag: &str, clients, repetition, noisy| {
            let (tag, work) = (tag.into(), "insert".into());
            Record::Load(LoadRecord { tag, work, clients, repetition, noisy, ..LoadRecord::default() })
        };
        let plan = Plan::of(&options, "ours");
        for (known, unfinished, missing) in [
            (vec![], vec![(0, 0), (1, 0)], 4),
            (vec![record("ours", 1, 0, false)], vec![(1, 0)], 3),
            (vec![record("other", 1, 0, false)], vec![(0, 0), (1, 0)], 4),
            // A noisy one is made anew, but not for ever.
            (vec![record("ours", 1, 1, true)], vec![(0, 0), (1, 1)], 4),
            (vec![record("ours", 1, 1, true), record("ours", 1, 1, true)], vec![(0, 0)], 3),
            (vec![record("ours", 1, 1, true), record("ours", 1, 1, false)], vec![(0, 0)], 3),
        ] {
            assert_eq!(plan.unfinished(&known, "insert", 1), unfinished, "{known:?}");
            assert_eq!(plan.missing(&known), missing, "{known:?}");
        }
    }
}
