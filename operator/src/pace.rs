//! How often is looked at what does not move. One cluster is looked at so often that what nobody told is soon found; many
//! are looked at so seldom that all of them together cost the API server, their members and this process no more than a
//! few hundred. What is told, by a watch or by a member, is acted on at once, however many there are.
//!
//! Each cluster has its own moment in a period, so that they neither start nor go on in step.

use crate::clock;
use crate::names::ClusterName;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The most that a period comes to.
const MOST: Duration = Duration::from_secs(24 * 3_600);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matter {
    /// A cluster and its members.
    Cluster,
    /// Secrets of the operator's making, which are not watched.
    OwnSecrets,
    /// Secrets that somebody else fills.
    GivenSecrets,
    /// Objects that were applied. What became of them is watched; this finds what a watch does not show.
    Applied,
}

impl Matter {
    /// The shortest period, and what each cluster adds to it beyond that.
    fn period(self, clusters: u32) -> Duration {
        let (shortest, each) = match self {
            Self::Cluster => (Duration::from_secs(10), Duration::from_millis(60)),
            Self::OwnSecrets => (Duration::from_secs(600), Duration::from_secs(6)),
            Self::GivenSecrets => (Duration::from_secs(30), Duration::from_secs(1)),
            Self::Applied => (Duration::from_secs(600), Duration::from_secs(20)),
        };
        shortest.max(each.saturating_mul(clusters)).min(MOST)
    }
}

/// The number of clusters that all go by. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<AtomicU32>);

impl Pace {
    /// So many there are.
    pub fn count(&self, clusters: usize) {
        self.0.store(u32::try_from(clusters).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// How long until the cluster's next turn.
    pub fn turn(&self, matter: Matter, cluster: &ClusterName) -> Duration {
        let period = matter.period(self.0.load(Ordering::Relaxed));
        until(period, cluster, clock::now().as_millisecond())
    }

    /// The same, but not at once: what was looked at just now can wait for half a period.
    pub fn rest(&self, matter: Matter, cluster: &ClusterName) -> Duration {
        let half = matter.period(self.0.load(Ordering::Relaxed)) / 2;
        let turn = self.turn(matter, cluster);
        if turn < half { turn + half } else { turn }
    }

    /// Until when is believed what is found now.
    pub fn belief(&self, matter: Matter, cluster: &ClusterName) -> Instant {
        Instant::now() + self.turn(matter, cluster)
    }
}

/// From `now`, in milliseconds since 1970, to the next of the cluster's moments. Never nothing.
fn until(period: Duration, cluster: &ClusterName, now: i64) -> Duration {
    let period = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut hasher = DefaultHasher::new();
    cluster.hash(&mut hasher);
    let moment = hasher.finish() % period;
    let passed = now.unsigned_abs() % period;
    let left = (moment + period - passed) % period;
    Duration::from_millis(if left == 0 { period } else { left })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clusters_cost_together_what_a_few_hundred_do() {
        for (clusters, look, own, applied) in
            [(0, 10, 600, 600), (1, 10, 600, 600), (100, 10, 600, 2_000), (1_000, 60, 6_000, 20_000)]
        {
            let seconds = |matter: Matter| matter.period(clusters).as_secs();
            let found = (seconds(Matter::Cluster), seconds(Matter::OwnSecrets), seconds(Matter::Applied));
            assert_eq!(found, (look, own, applied), "{clusters} clusters");
        }
        assert_eq!(Matter::Applied.period(u32::MAX), MOST);
    }

    #[test]
    fn turns_come_once_in_a_period_and_not_in_step() {
        let period = Duration::from_secs(10);
        let turns: Vec<_> = (0..100)
            .map(|i| {
                let cluster = ClusterName::new("shop", format!("c{i}"));
                let turn = until(period, &cluster, 1_234_567);
                let at = 1_234_567 + i64::try_from(turn.as_millis()).unwrap();
                assert!(turn > Duration::ZERO && turn <= period);
                assert_eq!(until(period, &cluster, at), period, "the next one is a period later");
                turn
            })
            .collect();
        let early = turns.iter().filter(|turn| **turn < period / 2).count();
        assert!((30..=70).contains(&early), "{early} of 100 in the first half");
    }

    #[test]
    fn what_was_looked_at_just_now_is_not_looked_at_again_at_once() {
        let pace = Pace::default();
        pace.count(1_000);
        for i in 0..100 {
            let rest = pace.rest(Matter::Cluster, &ClusterName::new("shop", format!("c{i}")));
            assert!(rest >= Duration::from_secs(30) && rest <= Duration::from_secs(60), "{rest:?}");
        }
    }
}
