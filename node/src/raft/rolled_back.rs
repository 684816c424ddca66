//! Members whose volume was put back to an earlier state, or copied: noticed, refused, and told to end.
//!
//! What such a member acknowledged it may not have any more, and whom it voted for it may not know: it would count for a
//! quorum that is none. It is told by two things that members say when they connect:
//!
//! - **Which start this is**: its number, kept on the volume, and one drawn for it, kept nowhere. Who answers at a member's
//!   address by an earlier start than the last one met there, or by another one of the same number, has another volume than
//!   that one had. What is met is remembered for as long as a process runs.
//! - **How far its log goes**, under which vote. A leader knows what a member has acknowledged to it. Entries go away only
//!   where a later leader, of a higher vote, says so.
//!
//! What nobody knows is not noticed: a leader that is gone took along what it knew.
//!
//! ```text
//! rolled back call = by u64 · leads u8 · start (boot u64 · nonce u64) · why        answer = nothing
//! ```

use super::types::Raft;
use super::wire::{WireError, get_u8, get_u64};
use crate::identity::Start;
use bytes::{BufMut as _, Bytes, BytesMut};
use client::admin::NodeId;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A vote, in the order in which one takes the place of another: term, and for whom.
pub type VoteRank = (u64, u64);

/// How far a member's log goes when it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The index after its last entry.
    pub end: u64,
    /// The vote that it had given after that was looked at.
    pub vote: VoteRank,
}

/// What a leader knows that a member has on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The index after the last of it.
    pub end: u64,
    /// The leader's own vote.
    pub vote: VoteRank,
}

/// What is said to a start of a member whose volume is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// Who says so.
    pub by: u64,
    /// Whether that one leads.
    pub leads: bool,
    /// Of which start.
    pub start: Start,
    /// What was found.
    pub why: String,
}

impl Accusation {
    /// Appends it.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.by);
        out.put_u8(self.leads.into());
        out.put_u64_le(self.start.boot);
        out.put_u64_le(self.start.nonce);
        out.put_slice(self.why.as_bytes());
    }

    /// Reads it.
    pub fn get(mut body: Bytes) -> Result<Self, WireError> {
        let (by, leads) = (get_u64(&mut body)?, get_u8(&mut body)? != 0);
        let start = Start { boot: get_u64(&mut body)?, nonce: get_u64(&mut body)? };
        let why = String::from_utf8(body.to_vec()).map_err(|_| WireError("text: not UTF-8"))?;
        Ok(Self { by, leads, start, why })
    }
}

/// What other members said of this one's volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// By the leader: why.
    pub by_leader: Option<String>,
    /// By others, whom it had called by their ids: why.
    pub by_others: BTreeMap<u64, String>,
}

impl Told {
    /// Why this member has to end: a leader said so, or as many voters as leave no quorum without them, of `voters`.
    pub fn verdict(&self, voters: &BTreeSet<u64>) -> Option<&str> {
        let by_voters = || self.by_others.iter().filter(|(id, _)| voters.contains(id));
        let by_most = by_voters().count() * 2 >= voters.len();
        let first = by_voters().next().filter(|_| by_most).map(|(_, why)| why.as_str());
        self.by_leader.as_deref().or(first)
    }
}

/// What this member knows of the volumes of others, and what others said of its own.
pub struct RolledBack {
    raft: OnceLock<Raft>,
    met: Mutex<BTreeMap<u64, Start>>,
    found: Mutex<BTreeMap<u64, (Start, String)>>,
    has_found: AtomicBool,
    /// Who was not let in, with why. Only to be told.
    refused: Mutex<BTreeMap<u64, String>>,
    told: watch::Sender<Told>,
}

/// Whether `shown` is not what comes after the start `met`, nor that one.
fn is_before(met: Start, shown: Start) -> bool {
    shown.boot < met.boot || (shown.boot == met.boot && shown.nonce != met.nonce)
}

/// Whether a member lacks what it had acknowledged, and no later leader took it away.
fn lacks(acknowledged: Acknowledged, held: Held) -> bool {
    held.vote <= acknowledged.vote && held.end < acknowledged.end
}

const REMEDY: &str = "its volume was put back to an earlier state, or copied; give it an empty disk: it comes back as a new member";

fn by_its_start(id: u64, met: Start, shown: Start) -> String {
    let (id, boot) = (NodeId(id), shown.boot);
    let met = if met.boot == boot {
        "another one of that number".to_owned()
    } else {
        format!("start {}", met.boot)
    };
    format!("{id} comes by start {boot} of its volume, and was met by {met}: {REMEDY}")
}

impl Default for RolledBack {
    fn default() -> Self {
        Self {
            raft: OnceLock::new(),
            met: Mutex::default(),
            found: Mutex::default(),
            has_found: AtomicBool::new(false),
            refused: Mutex::default(),
            told: watch::Sender::default(),
        }
    }
}

impl RolledBack {
    /// From now on what `raft`'s followers acknowledge counts.
    pub fn follow(&self, raft: Raft) {
        // Said once, when consensus starts.
        drop(self.raft.set(raft));
    }

    /// What member `id` has acknowledged to this one, if it leads. To be asked before the member is.
    pub fn acknowledged(&self, id: u64) -> Option<Acknowledged> {
        let metrics = self.raft.get()?.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?;
        let leader = &metrics.vote.leader_id;
        Some(Acknowledged { end: matched.index + 1, vote: (leader.term, leader.node_id) })
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        let Some(raft) = self.raft.get() else { return false };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.current_leader == Some(metrics.id)
    }

    /// Takes up what was met at the address of member `id`; an error says why that is not to be talked to, and whether this
    /// was not known before.
    pub fn meet(
        &self,
        id: u64,
        start: Option<Start>,
        acknowledged: Option<Acknowledged>,
        held: Option<Held>,
    ) -> Result<(), (String, bool)> {
        // One of an older version does not say which it is.
        let Some(start) = start else { return Ok(()) };
        if let Some(why) = self.found_of(id, start) {
            return Err((why, false));
        }
        let why = {
            let mut met = self.met.lock();
            match met.get(&id).filter(|met| is_before(**met, start)) {
                Some(met) => Some(by_its_start(id, *met, start)),
                None => {
                    met.insert(id, start);
                    None
                }
            }
        };
        let short = acknowledged.zip(held).filter(|(acknowledged, held)| lacks(*acknowledged, *held));
        let why = why.or_else(|| {
            let (acknowledged, held) = short?;
            let (id, had, has) = (NodeId(id), acknowledged.end, held.end);
            Some(format!("{id} had acknowledged {had} entries of the log and has {has} of them: {REMEDY}"))
        });
        let Some(why) = why else { return Ok(()) };
        self.found.lock().insert(id, (start, why.clone()));
        self.has_found.store(true, Ordering::Release);
        Err((why, true))
    }

    /// Why a member that comes by `start` is not let in. Nothing follows from it for the member, as a copy may come from
    /// anywhere.
    pub fn check(&self, id: u64, start: Option<Start>) -> Result<(), String> {
        let Some(start) = start else { return Ok(()) };
        if let Some(why) = self.found_of(id, start) {
            return Err(why);
        }
        let met = self.met.lock().get(&id).copied();
        match met.filter(|met| is_before(*met, start)) {
            Some(met) => {
                let why = by_its_start(id, met, start);
                self.refused.lock().insert(id, why.clone());
                Err(why)
            }
            None => Ok(()),
        }
    }

    /// Whether a member that was let in as `start` has been found to be wrong since: asked with each call.
    pub fn was_found(&self, id: u64, start: Option<Start>) -> bool {
        self.has_found.load(Ordering::Acquire)
            && start.is_some_and(|start| self.found_of(id, start).is_some())
    }

    fn found_of(&self, id: u64, start: Start) -> Option<String> {
        let found = self.found.lock();
        found.get(&id).filter(|(found, _)| *found == start).map(|(_, why)| why.clone())
    }

    /// Members that were found at their addresses, or that came here, with why.
    pub fn known(&self) -> Vec<(NodeId, String)> {
        let mut known = self.refused.lock().clone();
        known.extend(self.found.lock().iter().map(|(id, (_, why))| (*id, why.clone())));
        known.into_iter().map(|(id, why)| (NodeId(id), why)).collect()
    }

    /// Member `by` (0: whoever it is) said that this one's volume is not what it was.
    pub fn note(&self, by: u64, is_leader: bool, why: &str) {
        self.told.send_if_modified(|told| {
            let before = told.clone();
            if is_leader {
                told.by_leader = Some(why.to_owned());
            } else if by != 0 {
                told.by_others.insert(by, why.to_owned());
            }
            *told != before
        });
    }

    /// What was said of this one's volume, now and from now on.
    pub fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(boot: u64, nonce: u64) -> Start {
        Start { boot, nonce }
    }

    #[test]
    fn a_start_comes_after_those_before_it() {
        for (met, shown, expected) in [
            (start(3, 7), start(3, 7), false),
            (start(3, 7), start(4, 8), false),
            (start(3, 7), start(9, 7), false),
            (start(3, 7), start(2, 7), true),
            (start(3, 7), start(3, 8), true),
        ] {
            assert_eq!(is_before(met, shown), expected, "{met:?} {shown:?}");
        }
    }

    #[test]
    fn entries_that_no_later_leader_took_away_are_missing() {
        let leads = Acknowledged { end: 10, vote: (5, 2) };
        for (end, vote, expected) in [
            (10, (5, 2), false),
            (99, (5, 2), false),
            (9, (5, 2), true),
            (0, (0, 0), true),
            (9, (4, 9), true),
            (9, (5, 1), true),
            // Another leader, of the same term or of a later one, had it cut.
            (9, (5, 3), false),
            (9, (6, 1), false),
        ] {
            assert_eq!(lacks(leads, Held { end, vote }), expected, "{end} {vote:?}");
        }
    }

    #[test]
    fn who_was_found_is_refused_until_it_starts_anew() {
        let known = RolledBack::default();
        assert_eq!(known.meet(1, Some(start(3, 7)), None, None), Ok(()));
        assert_eq!(known.meet(1, None, None, None), Ok(()));
        // A copy that comes from elsewhere changes nothing of what is known.
        assert_eq!(known.check(1, Some(start(8, 1))), Ok(()));
        assert_eq!(known.check(1, Some(start(3, 7))), Ok(()));
        let refused = known.check(1, Some(start(3, 8))).unwrap_err();
        assert!(!known.was_found(1, Some(start(3, 8))));
        assert_eq!(known.known(), [(NodeId(1), refused)]);
        let (why, is_new) = known.meet(1, Some(start(3, 8)), None, None).unwrap_err();
        assert!(is_new && why.contains("empty disk"), "{why}");
        assert!(known.was_found(1, Some(start(3, 8))) && !known.was_found(1, Some(start(3, 7))));
        assert!(!known.meet(1, Some(start(3, 8)), None, None).unwrap_err().1);
        // Its log tells more than its start.
        let acknowledged = Some(Acknowledged { end: 10, vote: (1, 1) });
        let held = Some(Held { end: 9, vote: (1, 1) });
        let (why, is_new) = known.meet(1, Some(start(4, 1)), acknowledged, held).unwrap_err();
        assert!(is_new && why.contains("had acknowledged 10 entries of the log and has 9"), "{why}");
        assert!(known.check(1, Some(start(4, 1))).is_err());
        assert_eq!(known.check(2, Some(start(1, 1))), Ok(()));
        assert_eq!(known.known(), [(NodeId(1), why)]);
    }

    #[test]
    fn what_is_said_to_it_crosses_the_wire() {
        let said = Accusation { by: 1, leads: true, start: start(2, 3), why: "why".into() };
        let mut out = BytesMut::new();
        said.put(&mut out);
        let out = out.freeze();
        assert_eq!(Accusation::get(out.clone()), Ok(said));
        assert!(Accusation::get(out.slice(..24)).is_err());
    }

    #[test]
    fn a_member_ends_when_its_leader_or_no_quorum_without_them_says_so() {
        for (voters, by_leader, by_others, expected) in [
            (3, true, &[][..], true),
            (3, false, &[2], false),
            (3, false, &[2, 3], true),
            // Who does not vote has no say.
            (3, false, &[2, 9], false),
            (5, false, &[2, 3], false),
            (5, false, &[2, 3, 4], true),
            (2, false, &[2], true),
            (1, false, &[], false),
        ] {
            let voters: BTreeSet<u64> = (1..=voters).collect();
            let by_others = by_others.iter().map(|id| (*id, String::from("why"))).collect();
            let told = Told { by_leader: by_leader.then(|| "why".into()), by_others };
            assert_eq!(told.verdict(&voters).is_some(), expected, "{voters:?} {told:?}");
        }
        assert_eq!(Told::default().verdict(&BTreeSet::new()), None);
    }
}
