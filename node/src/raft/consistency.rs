//! Members compare the checksums of their databases.
//!
//! Each member asks all others, once every period, for the checksums of the states after the entries that they applied
//! last ([`Checksum`]), and judges for itself. One whose state is not the one that most voters have, or whose pages on
//! disk are not what was written there, takes another member's state ([`super::reinstall`]). Where no state has a
//! majority nobody can know which one is right: then everybody says so, and nobody changes anything.
//!
//! Members of different engines, as during an update to another SQLite, may differ by right: what is right then is what
//! most of those have that are of the leader's engine, and one of another engine takes that over without an alarm. An
//! engine that is not told, by an older version, is another one.
//!
//! ```text
//! checksums call = nothing        answer = damaged u8 · first entry not archived u64 · (index u64 · sum u64)*
//! ```

use super::Consensus;
use super::calls::Kind;
use super::membership::describe;
use super::wire::{WireError, get_u8, get_u64};
use crate::observe::Observe as _;
use crate::store::{Checksum, Damage};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use client::admin::{self, Member, NodeId, Phase};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long a member may take to say its checksums.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts of a member that has no database to find one.
const WITHOUT_STATE: Duration = Duration::from_secs(1);
/// Within what time a member knows the checksum of a database that it has just opened. A large one takes its time.
const KNOWN_WITHIN: Duration = Duration::from_secs(3600);

/// What a member says of its database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// A page on its disk is not what was written there.
    damaged: bool,
    /// The first entry that is not known to be archived: what all have to keep.
    next_to_archive: u64,
    /// Of the entries that it applied last, oldest first.
    checksums: Vec<Checksum>,
}

impl Said {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9 + 16 * self.checksums.len());
        out.put_u8(self.damaged.into());
        out.put_u64_le(self.next_to_archive);
        for checksum in &self.checksums {
            out.put_u64_le(checksum.index);
            out.put_u64_le(checksum.sum);
        }
        out.freeze()
    }

    pub fn decode(mut body: Bytes) -> Result<Self, WireError> {
        let damaged = get_u8(&mut body)? != 0;
        let mut said = Self { damaged, next_to_archive: get_u64(&mut body)?, checksums: Vec::new() };
        while body.has_remaining() {
            said.checksums.push(Checksum { index: get_u64(&mut body)?, sum: get_u64(&mut body)? });
        }
        Ok(said)
    }
}

/// What this member holds of its own database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// There was nothing to compare with yet.
    #[default]
    Unknown,
    /// All that know a checksum after entry `index` have the same.
    Consistent {
        /// The entry.
        index: u64,
    },
    /// Most voters have this member's state; these do not.
    OthersDiffer {
        /// After which entry.
        index: u64,
        /// They.
        members: Vec<NodeId>,
    },
    /// No state has a majority.
    Divided {
        /// After which entry.
        index: u64,
    },
    /// Most voters have another state.
    Minority {
        /// After which entry.
        index: u64,
    },
    /// This member is of another engine than the leader, whose side has another state.
    OtherEngine {
        /// After which entry.
        index: u64,
    },
    /// A page on disk is not what was written there.
    Damaged {
        /// The page.
        page: u32,
    },
}

impl Verdict {
    /// Whether this member's database has to be replaced by another's.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Minority { .. } | Self::OtherEngine { .. } | Self::Damaged { .. })
    }

    /// The same of a member that did not know its own checksum for so long, if it does not.
    fn report_after(&self, unknown_for: Option<Duration>) -> admin::Consistency {
        let report = self.report();
        let for_long = unknown_for.is_some_and(|unknown| unknown >= KNOWN_WITHIN);
        let message = "its database cannot be compared: not all of its pages could be read for an hour";
        match *self == Self::Unknown && for_long {
            true => admin::Consistency { message: Some(message.into()), ..report },
            false => report,
        }
    }

    /// For reports.
    pub fn report(&self) -> admin::Consistency {
        use admin::ConsistencyState as S;
        let (state, index, message) = match self {
            Self::Unknown => (S::Unknown, None, None),
            Self::Consistent { index } => (S::Consistent, Some(*index), None),
            Self::OthersDiffer { index, members } => {
                let names: Vec<String> = members.iter().map(NodeId::to_string).collect();
                (S::OthersDiffer, Some(*index), Some(format!("members {} differ", names.join(", "))))
            }
            Self::Divided { index } => (
                S::Divided,
                Some(*index),
                Some(
                    "no state has a majority: nobody can know which one is right; compare the members' \
                     databases and give those that are wrong an empty disk"
                        .into(),
                ),
            ),
            Self::Minority { index } => {
                (S::Minority, Some(*index), Some("most voters have another state; it is taken over".into()))
            }
            Self::OtherEngine { index } => (
                S::Unknown,
                Some(*index),
                Some(
                    "this member's SQLite is another one than the leader's, and its state came out differently; the \
                     leader's is taken over"
                        .into(),
                ),
            ),
            Self::Damaged { page } => {
                (S::Damaged, None, Some(format!("page {page} on disk is not what was written there")))
            }
        };
        admin::Consistency { state, index, message }
    }
}

/// What the members have after one entry.
#[derive(Debug, PartialEq, Eq)]
struct Comparison {
    index: u64,
    sums: BTreeMap<NodeId, u64>,
    /// The sum that most voters have, if there is one.
    right: Option<u64>,
    /// Who is of the leader's engine, while others are not.
    kin: Option<BTreeSet<NodeId>>,
}

impl Comparison {
    /// Compares after the entry for which most members, and among those the newest for which this one, know a checksum.
    /// None if there is nothing to compare with.
    fn new(own: NodeId, voters: &BTreeSet<NodeId>, said: &BTreeMap<NodeId, Said>) -> Option<Self> {
        let mut known: BTreeMap<u64, BTreeMap<NodeId, u64>> =
            said.get(&own)?.checksums.iter().map(|checksum| (checksum.index, BTreeMap::new())).collect();
        for (member, said) in said {
            for checksum in &said.checksums {
                if let Some(sums) = known.get_mut(&checksum.index) {
                    sums.insert(*member, checksum.sum);
                }
            }
        }
        let (index, sums) = known.into_iter().max_by_key(|(index, sums)| (sums.len(), *index))?;
        let is_alone = voters.iter().all(|voter| *voter == own);
        if sums.len() < 2 && !is_alone {
            return None;
        }
        let right = majority(&sums, voters.len(), |member| voters.contains(member));
        Some(Self { index, sums, right, kin: None })
    }

    /// Whether all have the same.
    fn is_equal(&self) -> bool {
        let mut sums = self.sums.values();
        let first = sums.next();
        sums.all(|sum| Some(sum) == first)
    }

    /// The same by the `engines` of the members, which for some may not be known: while they are mixed, what most voters of
    /// the leader's engine have is right, if that is known of one whose pages are sound.
    fn by_engines(
        mut self,
        leader: Option<NodeId>,
        voters: &BTreeSet<NodeId>,
        said: &BTreeMap<NodeId, Said>,
        engines: &BTreeMap<NodeId, String>,
    ) -> Self {
        let of_leader = leader.and_then(|leader| engines.get(&leader));
        let is_kin = |id: &NodeId| {
            Some(*id) == leader || engines.get(id).is_some_and(|engine| Some(engine) == of_leader)
        };
        let first = self.sums.keys().find_map(|id| engines.get(id));
        if self.sums.keys().all(|id| first.is_some() && engines.get(id) == first) {
            return self;
        }
        let is_sound = |id: &NodeId| said.get(id).is_some_and(|said| !said.damaged);
        let kin: BTreeSet<NodeId> = self.sums.keys().filter(|id| is_kin(id)).copied().collect();
        let has_vote = |id: &NodeId| kin.contains(id) && voters.contains(id) && is_sound(id);
        let votes = self.sums.keys().filter(|id| has_vote(id)).count();
        self.right = majority(&self.sums, votes, has_vote);
        self.kin = Some(kin);
        self
    }

    /// Whether a member is of the leader's engine, or all are of one.
    fn is_kin(&self, id: &NodeId) -> bool {
        self.kin.as_ref().is_none_or(|kin| kin.contains(id))
    }

    /// Who has the right state.
    fn equal(&self) -> BTreeSet<NodeId> {
        let is_right = |(_, sum): &(&NodeId, &u64)| Some(**sum) == self.right;
        self.sums.iter().filter(is_right).map(|(member, _)| *member).collect()
    }

    fn verdict(&self, own: NodeId) -> Verdict {
        let index = self.index;
        if self.is_equal() {
            return Verdict::Consistent { index };
        }
        let mine = self.sums.get(&own);
        match self.right {
            // Whose state counts is not known.
            None if self.kin.as_ref().is_some_and(BTreeSet::is_empty) => Verdict::Unknown,
            None => Verdict::Divided { index },
            Some(right) if mine != Some(&right) && self.is_kin(&own) => Verdict::Minority { index },
            Some(right) if mine != Some(&right) => Verdict::OtherEngine { index },
            Some(right) => {
                let differs = |(member, sum): &(&NodeId, &u64)| **sum != right && self.is_kin(member);
                let members: Vec<NodeId> =
                    self.sums.iter().filter(differs).map(|(member, _)| *member).collect();
                // Those of another engine see to it themselves.
                if members.is_empty() {
                    Verdict::Consistent { index }
                } else {
                    Verdict::OthersDiffer { index, members }
                }
            }
        }
    }
}

/// The sum that more than half of `votes` have, among those that `has_vote`.
fn majority(sums: &BTreeMap<NodeId, u64>, votes: usize, has_vote: impl Fn(&NodeId) -> bool) -> Option<u64> {
    let mut of: BTreeMap<u64, usize> = BTreeMap::new();
    for (member, sum) in sums {
        *of.entry(*sum).or_default() += usize::from(has_vote(member));
    }
    of.into_iter().find(|(_, for_it)| for_it * 2 > votes).map(|(sum, _)| sum)
}

impl Consensus {
    /// What the last comparison came to, now and from now on.
    pub fn consistency(&self) -> tokio::sync::watch::Receiver<Verdict> {
        self.consistency.subscribe()
    }

    /// What comparing came to, for reports.
    pub(super) fn consistency_report(&self) -> admin::Consistency {
        let unknown_for =
            self.store.last_checksum().is_none().then(|| self.uncompared_since.lock().elapsed());
        self.consistency.observe(|verdict| verdict.report_after(unknown_for))
    }

    /// Compares for as long as this member runs, and has its database replaced when it is wrong.
    pub(super) async fn watch_consistency(self: Arc<Self>) {
        let mut damage = self.store.damage();
        let mut attempts = 0;
        loop {
            let pause = match self.store.lacks_state() {
                true => self.config.consistency_period.min(WITHOUT_STATE),
                false => self.config.consistency_period,
            };
            tokio::select! {
                () = sleep(pause) => {}
                // The thread that reads the pages has found something. The channel ends with the store.
                changed = damage.changed() => if changed.is_err() { return },
                index = self.staged.nowhere() => {
                    self.take_over_state(index).await;
                    continue;
                }
                () = self.entry_gate.asked() => {
                    self.judge_entry().await;
                    continue;
                }
            }
            if !matches!(self.phase.current(), Phase::Serving | Phase::Fenced) {
                continue;
            }
            damage.mark_unchanged();
            let found = damage.current();
            let (verdict, sources) = self.compare(found).await;
            // What was found holds until something else is found.
            if verdict == Verdict::Unknown {
                continue;
            }
            self.note(&verdict);
            if !verdict.is_wrong() {
                self.lift_fence();
                continue;
            }
            // Another one each time: what was found may be wrong there too.
            let source = sources.get(attempts % sources.len().max(1));
            attempts += 1;
            match source {
                Some(source) => match self.reinstall(source, 0).await {
                    Ok(()) => {
                        *self.uncompared_since.lock() = Instant::now();
                        self.consistency.send_replace(Verdict::Unknown);
                    }
                    Err(error) => tracing::warn!(%error, from = %source.name, "could not take over a state"),
                },
                None => tracing::error!("no other member is known to have the right state"),
            }
        }
    }

    /// Compares once; returns who has the right state, as far as that is known, but for this member.
    async fn compare(&self, damage: Option<Damage>) -> (Verdict, Vec<Member>) {
        let own = self.identity.node_id();
        let members = describe(&self.metrics()).members;
        let voters: BTreeSet<NodeId> = members.iter().filter(|m| m.voter).map(|m| m.node_id).collect();
        let others = members.iter().filter(|m| m.node_id != own);
        let asked = others.map(|member| async {
            let call =
                self.peers.call(member.node_id.0, &member.raft_address, Kind::Checksums, &[], PATIENCE);
            match call.await.map(Said::decode) {
                Ok(Ok(said)) => {
                    self.archived.reach(said.next_to_archive);
                    Some((member.node_id, said))
                }
                // Raft has its own ways to notice that; without it there is less to compare.
                Ok(Err(_)) | Err(_) => None,
            }
        });
        let mut said: BTreeMap<NodeId, Said> =
            futures::future::join_all(asked).await.into_iter().flatten().collect();
        match self.own_checksums().await {
            Ok(own_said) => drop(said.insert(own, own_said)),
            Err(error) => tracing::warn!(error, "cannot tell the own checksums"),
        }
        let mut comparison = Comparison::new(own, &voters, &said);
        if let Some(differing) = comparison.take_if(|comparison| !comparison.is_equal()) {
            let leader = self.metrics().current_leader.map(NodeId);
            let engines = self.engines(&members).await;
            comparison = Some(differing.by_engines(leader, &voters, &said, &engines));
        }
        if let Some(comparison) = &comparison {
            *self.equal.lock() = comparison.equal();
        }
        let has_right_state = |member: &&Member| {
            let sound = said.get(&member.node_id).is_some_and(|said| !said.damaged);
            let right = comparison.as_ref().and_then(|c| Some((c.right?, c.sums.get(&member.node_id))));
            let is_kin = comparison.as_ref().is_none_or(|c| c.is_kin(&member.node_id));
            member.node_id != own && sound && is_kin && right.is_none_or(|(right, sum)| sum == Some(&right))
        };
        let sources = members.iter().filter(has_right_state).cloned().collect();
        let verdict = match damage {
            Some(Damage { page }) => Verdict::Damaged { page },
            None => comparison.as_ref().map_or(Verdict::Unknown, |c| c.verdict(own)),
        };
        (verdict, sources)
    }

    /// What executes SQL on each of `members`, of those that say it.
    async fn engines(&self, members: &[Member]) -> BTreeMap<NodeId, String> {
        let asked = members.iter().map(async |member| {
            let described = self.describe_member(member, PATIENCE).await.ok()?;
            Some((member.node_id, described.engine?))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    fn note(&self, verdict: &Verdict) {
        let before = self.consistency.send_replace(verdict.clone());
        if std::mem::discriminant(&before) == std::mem::discriminant(verdict) {
            return;
        }
        match verdict {
            Verdict::Unknown | Verdict::Consistent { .. } => tracing::info!(?verdict, "compared databases"),
            Verdict::OtherEngine { .. } => {
                tracing::warn!(?verdict, "the leader's SQLite is another one, and so is what came out");
            }
            Verdict::OthersDiffer { .. }
            | Verdict::Divided { .. }
            | Verdict::Minority { .. }
            | Verdict::Damaged { .. } => tracing::error!(?verdict, "the members' databases differ"),
        }
    }

    /// Answers another member's question for the checksums.
    pub(super) async fn answer_checksums(&self) -> Result<Bytes, String> {
        Ok(self.own_checksums().await?.encode())
    }

    async fn own_checksums(&self) -> Result<Said, String> {
        // Notes the one of the present state, too.
        self.store.checksum().await.map_err(|error| error.to_string())?;
        let damaged = self.store.damage().observe(Option::is_some);
        let next_to_archive = self.archived.next();
        Ok(Said { damaged, next_to_archive, checksums: self.store.checksums() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Members 1, 2, … and what they know as `(index, sum)`; those after `voters` do not vote.
    fn judged(own: u64, voters: u64, known: &[&[(u64, u64)]]) -> Verdict {
        let voters = (1..=voters).map(NodeId).collect();
        let said = known.iter().zip(1..).map(|(known, id)| {
            let checksums = known.iter().map(|(index, sum)| Checksum { index: *index, sum: *sum }).collect();
            (NodeId(id), Said { checksums, ..Said::default() })
        });
        let said = said.collect();
        Comparison::new(NodeId(own), &voters, &said).map_or(Verdict::Unknown, |c| c.verdict(NodeId(own)))
    }

    #[test]
    fn who_differs_from_what_most_voters_have_is_wrong() {
        let same: &[(u64, u64)] = &[(1, 10), (2, 20)];
        let other: &[(u64, u64)] = &[(1, 10), (2, 21)];
        let third: &[(u64, u64)] = &[(2, 22)];
        let none: &[(u64, u64)] = &[];
        let others_differ = |id| Verdict::OthersDiffer { index: 2, members: vec![NodeId(id)] };
        for (own, voters, known, wanted) in [
            (1, 3, vec![same, same, same], Verdict::Consistent { index: 2 }),
            (1, 3, vec![same, same, other], others_differ(3)),
            (3, 3, vec![same, same, other], Verdict::Minority { index: 2 }),
            // Two that differ, and the third one does not know.
            (1, 3, vec![same, other, none], Verdict::Divided { index: 2 }),
            (1, 3, vec![same, other, third], Verdict::Divided { index: 2 }),
            (1, 2, vec![same, other], Verdict::Divided { index: 2 }),
            // Read replicas have no say, and are judged.
            (3, 2, vec![same, same, other], Verdict::Minority { index: 2 }),
            (
                1,
                1,
                vec![same, other, other],
                Verdict::OthersDiffer { index: 2, members: vec![NodeId(2), NodeId(3)] },
            ),
            // The newest entry that most know.
            (1, 3, vec![same, &[(1, 10)], &[(1, 10), (3, 30)]], Verdict::Consistent { index: 1 }),
            (1, 3, vec![same, none, none], Verdict::Unknown),
            (1, 3, vec![none, same, same], Verdict::Unknown),
            (1, 1, vec![same], Verdict::Consistent { index: 2 }),
        ] {
            assert_eq!(judged(own, voters, &known), wanted, "{own} of {voters}: {known:?}");
        }
    }

    #[test]
    fn while_engines_are_mixed_the_leaders_side_is_right() {
        let (consistent, divided) = (Verdict::Consistent { index: 1 }, Verdict::Divided { index: 1 });
        let (minority, other) = (Verdict::Minority { index: 1 }, Verdict::OtherEngine { index: 1 });
        let differ = |id| Verdict::OthersDiffer { index: 1, members: vec![NodeId(id)] };
        // Engines and sums of members 1, 2, …, of whom 1 to 3 vote; a dot is an engine that is not told, a star a page that is
        // damaged. What each of them holds.
        for (leader, engines, sums, verdicts) in [
            // A member that was updated first, and differs.
            (Some(1), "aab", "112", vec![&consistent, &consistent, &other]),
            // The leader goes last, and is not fenced by the others.
            (Some(1), "abb", "122", vec![&consistent, &other, &other]),
            (Some(2), "abb", "122", vec![&other, &consistent, &consistent]),
            // What is equal is well, by whatever it was executed.
            (Some(1), "abb", "111", vec![&consistent; 3]),
            (Some(1), "abc", "121", vec![&consistent, &other, &consistent]),
            // Not the engine: members of one that differ are wrong as ever.
            (Some(1), "aaa", "112", vec![&differ(3), &differ(3), &minority]),
            (Some(1), "aaa", "122", vec![&minority, &differ(1), &differ(1)]),
            (Some(1), "aaab", "1123", vec![&differ(3), &differ(3), &minority, &other]),
            (Some(1), "aab", "121", vec![&divided; 3]),
            // Whoever does not tell is of another engine, but the leader is of its own.
            (Some(1), "a..", "122", vec![&consistent, &other, &other]),
            (Some(1), "...", "122", vec![&consistent, &other, &other]),
            (Some(1), "aa.", "112", vec![&consistent, &consistent, &other]),
            // Nobody leads: nobody's side is right, and one engine is judged as ever.
            (None, "abb", "122", vec![&Verdict::Unknown; 3]),
            (None, "aaa", "122", vec![&minority, &differ(1), &differ(1)]),
            // Read replicas have no say, and are judged.
            (Some(1), "aaab", "1112", vec![&consistent, &consistent, &consistent, &other]),
            (Some(1), "aaaa", "1112", vec![&differ(4), &differ(4), &differ(4), &minority]),
            // A leader whose pages are damaged is nobody's measure.
            (Some(1), "abb", "*22", vec![&divided; 3]),
            (Some(1), "aabb", "*122", vec![&minority, &differ(1), &other, &other]),
        ] {
            let ids = || (1..).map(NodeId);
            let voters: BTreeSet<NodeId> = ids().take(3).collect();
            let told = engines.chars().zip(ids()).filter(|(engine, _)| *engine != '.');
            let told = told.map(|(engine, id)| (id, engine.to_string())).collect();
            let said: BTreeMap<NodeId, Said> = sums
                .chars()
                .zip(ids())
                .map(|(sum, id)| {
                    let checksums = vec![Checksum { index: 1, sum: u64::from(u32::from(sum)) }];
                    (id, Said { damaged: sum == '*', checksums, ..Said::default() })
                })
                .collect();
            for (own, verdict) in ids().zip(verdicts) {
                let comparison = Comparison::new(own, &voters, &said).unwrap();
                let comparison = comparison.by_engines(leader.map(NodeId), &voters, &said, &told);
                assert_eq!(comparison.verdict(own), *verdict, "{own} {leader:?} {engines} {sums}");
            }
        }
    }

    #[test]
    fn who_does_not_know_its_checksum_for_long_says_so() {
        let (short, long) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(3601)));
        let consistent = Verdict::Consistent { index: 7 };
        for (verdict, unknown_for, told) in [
            (Verdict::Unknown, None, false),
            (Verdict::Unknown, short, false),
            (Verdict::Unknown, long, true),
            (consistent.clone(), None, false),
            (consistent, long, false),
        ] {
            let report = verdict.report_after(unknown_for);
            assert_eq!(
                (report.state, report.message.is_some()),
                (verdict.report().state, told),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn checksums_cross_the_wire() {
        for damaged in [false, true] {
            let said = Said {
                damaged,
                next_to_archive: 17,
                checksums: vec![Checksum { index: 1, sum: u64::MAX }, Checksum { index: 7, sum: 0 }],
            };
            assert_eq!(Said::decode(said.encode()).unwrap(), said);
        }
        assert!(Said::decode(Bytes::from_static(&[0, 1])).is_err());
        assert!(Said::decode(Bytes::new()).is_err());
    }
}
