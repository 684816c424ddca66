#![allow(clippy::unwrap_used)]
use super::super::catalogue::{Contents, time_text};
use super::super::full::{BackupFailure, Progress, make_backup};
use super::super::manifest::{Manifest, part_name};
use super::super::retention;
use super::super::seal::Keyring;
use super::super::segment::SegmentName;
use super::*;
use crate::identity::Identity;
use crate::raft::command::{EntryContext, Replacement, RequestEncoder, RequestFlags, encode_replace};
use crate::raft::{ConsensusConfig, LOG_FOR_ARCHIVE, PeerSecurity, Profile, Reap};
use crate::store::{LogId, Payload, Store};
use client::backup::{ArchiveReport, ArchiveState, BackupKind, RestoreTarget};
use object_store::memory::InMemory;
use tokio::sync::oneshot;

const TARGET: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(60);

/// The one member of a cluster, and its archive in memory, which goes on when it is told to.
pub struct Member {
    archiver: Archiver,
    pub consensus: Arc<Consensus>,
    pub objects: Objects,
    settings: ContinuousConfig,
    pub cluster: ClusterIdentity,
    reach: Reach,
    _directory: tempfile::TempDir,
}

impl Member {
    /// Of whose log at most `longest` bytes wait for the archive.
    pub async fn start(longest: u64) -> Self {
        Self::start_with(longest, Keyring::default()).await
    }

    /// The same, whose backups are encrypted if there are `keys`.
    async fn start_with(longest: u64, keys: Keyring) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = ConsensusConfig {
            name: "one".into(),
            raft_address: address.clone(),
            api_address: address,
            directory: directory.path().to_owned(),
            profile: Profile::LAN,
            log_segment_bytes: 64 << 10,
            log_retention_bytes: 1 << 20,
            log_for_archive_bytes: longest,
            write_step_limit: 0,
            consistency_period: SOON,
            disk_reserve_bytes: 0,
            reap: Reap::default(),
            is_held_back: false,
            tracer: None,
        };
        let peers = PeerSecurity { tls: None, clients: None, auth: None, join_as: None };
        let identity = Arc::new(Identity::open(directory.path()).unwrap());
        let store = Store::open(directory.path(), false, Duration::MAX).unwrap();
        let here = tokio::runtime::Handle::current();
        let consensus = Consensus::start(config, identity, store, peers, listener, here).await.unwrap();
        consensus.initialise("cluster").await.unwrap();
        consensus.until_it_leads().await;
        consensus.keep_for_archive(true);
        let missing = |why| Err(super::super::repository::Missing { why, continuous: None });
        let none = || Err(io::Error::other("there is none"));
        let repository =
            Reloaded::follow_from("store", none, |_| Err("there is none".into()), missing).unwrap();
        let archiver = Archiver::new(consensus.clone(), repository, Arc::default(), Arc::default());
        let root = object_store::path::Path::from("cluster");
        let objects = Objects::new(Arc::new(InMemory::new()), root, Arc::new(keys), None);
        let settings = ContinuousConfig { enabled: true, rpo_target_seconds: 5, base_every_hours: 24 };
        let cluster = consensus.identity().cluster().unwrap();
        let reach = Reach::unknown();
        let member = Self { archiver, consensus, objects, settings, cluster, reach, _directory: directory };
        member.write("CREATE TABLE t(n)").await;
        member
    }

    async fn write(&self, sql: &str) -> u64 {
        let mut request = RequestEncoder::new(RequestFlags::default(), sql.len() + 16);
        request.statement(sql);
        let request = request.finish(self.consensus.proposer().next_request_id());
        self.consensus.execute(request, SOON).await.unwrap().index
    }

    /// Returns the last of `n` entries.
    pub async fn insert(&self, n: usize) -> u64 {
        let mut last = 0;
        for _ in 0..n {
            last = self.write("INSERT INTO t VALUES(1)").await;
        }
        last
    }

    /// One whose archive has begun, and where that goes on.
    async fn on_target(log_for_archive: u64) -> (Self, Position) {
        let mut member = Self::start(log_for_archive).await;
        let mut at = member.position().await;
        member.until(&mut at, ArchiveState::OnTarget).await;
        (member, at)
    }

    async fn find_position(&self) -> Result<Position, ArchiveError> {
        self.archiver.find_position(&self.objects, &self.cluster).await
    }

    /// Where the archive goes on.
    pub async fn position(&self) -> Position {
        self.find_position().await.unwrap()
    }

    /// As the next leader, which knows nothing, up to when it has looked through the store.
    async fn take_over(&mut self) -> Position {
        *self.archiver.standing.lock() = Standing::heard(Waiting::unknown());
        self.reach = Reach::unknown();
        let at = self.find_position().await.unwrap();
        self.look(&at).await;
        at
    }

    /// Until the store is looked through.
    async fn look(&mut self, at: &Position) {
        self.reach.look_at_all();
        let Self { archiver, objects, cluster, reach, .. } = self;
        reach.begin_look(objects, cluster.epoch, at.next);
        let looked = tokio::time::timeout(SOON, reach.looks.join_next()).await.unwrap().unwrap();
        archiver.take_look(looked.unwrap().unwrap(), cluster.epoch, reach);
    }

    pub async fn go_on(&mut self, at: &mut Position) {
        let Self { archiver, objects, settings, cluster, reach, .. } = self;
        archiver.go_on(objects, settings, cluster, at, reach).await.unwrap();
        self.check_window().await;
    }

    fn report(&self) -> ArchiveReport {
        self.archiver.standing.lock().report(TARGET, Duration::ZERO, Duration::ZERO, false)
    }

    pub async fn contents(&self) -> Contents {
        Contents::read(&self.objects, None).await.unwrap()
    }

    /// What is said of the archive is what can be restored.
    async fn check_window(&self) {
        let (report, contents) = (self.report(), self.contents().await);
        let reach =
            |target: RestoreTarget| contents.choose(&target).map(|choice| choice.manifest.backup.index);
        if let Some(earliest) = &report.earliest {
            reach(RestoreTarget::Time(earliest.clone())).unwrap();
            reach(RestoreTarget::Latest {}).unwrap();
            assert_eq!(
                contents.windows().last().map(|window| &window.earliest),
                Some(earliest),
                "{report:?}"
            );
        }
        if let (ArchiveState::Broken, Some(latest)) = (report.state, &report.latest) {
            let windows = contents.windows();
            assert!(windows.iter().any(|window| window.latest == *latest), "{report:?}: {windows:?}");
        }
    }

    /// Goes on until the archive is in that state.
    pub async fn until(&mut self, at: &mut Position, state: ArchiveState) -> ArchiveReport {
        let reached = async {
            while self.report().state != state {
                self.go_on(at).await;
                tokio::task::yield_now().await;
            }
            self.report()
        };
        tokio::time::timeout(SOON, reached).await.unwrap()
    }

    /// Makes a backup.
    pub async fn make(&self, name: &str, kind: BackupKind) -> Manifest {
        self.try_to_make(name, kind).await.unwrap()
    }

    async fn try_to_make(&self, name: &str, kind: BackupKind) -> Result<Manifest, BackupFailure> {
        make_backup(&self.archiver.source(), &self.objects, name, kind, Arc::default()).await
    }

    /// Begins a base backup; it is in the store when this returns, and ends when the answer is sent to.
    async fn begin_base(&mut self) -> (Manifest, oneshot::Sender<()>) {
        let (source, objects) = (self.archiver.source(), self.objects.clone());
        let (made, is_made) = oneshot::channel();
        let (end, ends) = oneshot::channel::<()>();
        self.reach.bases.spawn(async move {
            let outcome =
                make_backup(&source, &objects, "begun", BackupKind::Base, Arc::new(Progress::default()))
                    .await;
            made.send(outcome.as_ref().ok().cloned()).unwrap();
            ends.await.unwrap();
            outcome
        });
        (is_made.await.unwrap().unwrap(), end)
    }

    /// Purges the log up to the last entry, if the archive does not keep it.
    pub async fn purge(&self) -> bool {
        self.consensus.snapshot(Some(0)).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_begun_before_a_hole_does_not_close_it_and_one_begun_after_it_does() {
    let mut member = Member::start(0).await;
    let mut at = member.find_position().await.unwrap();
    assert_eq!(member.report().state, ArchiveState::Starting);
    let before = member.until(&mut at, ArchiveState::OnTarget).await;
    assert_eq!((before.latest, before.message), (None, None));
    // Another base is in the making while the log passes its bound.
    member.insert(3).await;
    member.go_on(&mut at).await;
    let (early, end) = member.begin_base().await;
    let archived = at.next;
    let last = member.insert(20).await;
    assert!(member.purge().await, "the archive kept the log beyond its bound");
    member.go_on(&mut at).await;
    let broken = member.report();
    assert_eq!((broken.state, broken.earliest), (ArchiveState::Broken, None));
    assert!(broken.latest.is_some(), "moments before the hole can be reached");
    let message = broken.message.unwrap();
    assert!(message.starts_with(&format!("entries {archived} to ")), "{message}");
    assert!(early.backup.index < archived && at.next == last + 1, "{} {}", early.backup.index, at.next);
    assert_eq!(member.consensus.archive_holes(), 1);

    end.send(()).unwrap();
    let after = member.until(&mut at, ArchiveState::OnTarget).await;
    assert!(after.earliest > before.earliest, "{after:?}");
    let choice = member.contents().await.choose(&RestoreTarget::Latest {}).unwrap();
    assert!(choice.manifest.backup.index > archived, "{:?}", choice.manifest.backup);
    // The next leader finds the same.
    let found = member.take_over().await;
    assert!(member.reach.base.is_some());
    assert_eq!((found.next, member.report().earliest), (at.next, after.earliest));
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_says_of_a_hole_what_the_last_one_said() {
    let (mut member, mut at) = Member::on_target(0).await;
    member.insert(20).await;
    member.purge().await;
    // Nobody makes a base backup.
    member.reach.bases.spawn(std::future::pending());
    member.go_on(&mut at).await;
    let said = member.report();
    member.take_over().await;
    let says = member.report();
    assert_eq!((says.state, &says.latest), (ArchiveState::Broken, &said.latest), "{says:?}");
    assert!(member.reach.base.is_none() && says.message.is_some());
    member.check_window().await;
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_bound_nothing_is_purged_that_is_not_archived() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    let archived = at.next;
    member.insert(20).await;
    member.purge().await;
    assert!(member.consensus.first_log_index() <= archived);
    member.go_on(&mut at).await;
    assert_eq!((member.report().state, member.consensus.archive_holes()), (ArchiveState::OnTarget, 0));
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_without_a_loaded_database_that_was_lost_does_not_close_the_hole() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    let (mut made, end) = member.begin_base().await;
    end.send(()).unwrap();
    // An entry that names a file which is nowhere.
    let index = at.next;
    let request = RequestEncoder::new(RequestFlags::default(), 16)
        .finish(member.consensus.proposer().next_request_id());
    let replacement = Replacement { sha256: [7; 32], size: 4096, epoch: 0 };
    let context = EntryContext { timestamp_us: 1, seed: 1, step_limit: 0 };
    let payload = Payload::Command(encode_replace(context, &replacement, &request));
    let log_id = LogId { term: 1, leader: 1, index };
    let entries = vec![Entry { log_id, payload, wants_reply: false }];
    let Member { archiver, objects, cluster, reach, .. } = &mut member;
    archiver.put(objects, cluster, &mut at, reach, entries).await.unwrap();
    assert_eq!((member.report().state, at.next), (ArchiveState::Broken, index + 1));
    for (base, state) in [(index - 1, ArchiveState::Broken), (index, ArchiveState::OnTarget)] {
        made.backup.index = base;
        member.archiver.take_base(Ok(made.clone()), &mut member.reach);
        let report = member.report();
        assert_eq!(report.state, state, "a base backup of entry {base}: {report:?}");
        assert_eq!(member.reach.base.is_some(), state == ArchiveState::OnTarget);
    }
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_a_longer_log_than_the_clusters_is_not_gone_on_with() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let last = member.consensus.report().last_log_index;
    let longer = SegmentName { epoch: 1, first: 1, last: last + 100, time_us: 1, of: None, stored_bytes: 0 };
    member.objects.put(&longer.object(), bytes::Bytes::from_static(b"of before")).await.unwrap();
    let error = member.find_position().await.err().unwrap();
    let expected = OtherHistory::Ahead { stored: last + 100, last };
    assert!(matches!(&error, ArchiveError::OtherHistory(other) if *other == expected), "{error}");
    assert_eq!(member.report().state, ArchiveState::Starting);
    // A survivor of a lost quorum goes on in another epoch: what was archived of the last one stays where it is.
    member.cluster.epoch = 2;
    let at = member.find_position().await.unwrap();
    assert!(at.next <= last + 1 && member.reach.base.is_none(), "{}", at.next);
    member.consensus.stop().await.unwrap();
}

/// The volumes were put back, and the cluster has written past the archive's end since.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_another_history_is_not_gone_on_with_however_far_the_cluster_gets() {
    let member = Member::start(LOG_FOR_ARCHIVE).await;
    let own = |member: &Member| member.consensus.entries_applied(0, 1 << 20).unwrap();
    let entries = own(&member);
    let last = entries.last().unwrap().clone();
    let put = async |member: &Member, entries: Vec<Entry>| {
        let segment = Segment::of(entries, &member.cluster, member.consensus.store());
        let name = segment.name(0, None);
        member.objects.put_sealed(&name.object(), segment.encode()).await.unwrap();
        name.object()
    };
    let other = |index, term, text: &'static [u8]| Entry {
        log_id: LogId { index, term, ..last.log_id },
        payload: Payload::Command(bytes::Bytes::from_static(text)),
        wants_reply: false,
    };
    let (index, term) = (last.log_id.index, last.log_id.term);
    for (entry, part) in [
        (other(index, term + 7, b"theirs"), format!("is of term {}", term + 7)),
        (other(index, term, b"theirs"), "holds something else".to_owned()),
    ] {
        let mut archived = entries.clone();
        *archived.last_mut().unwrap() = entry;
        let name = put(&member, archived).await;
        for _ in 0..2 {
            let error = member.find_position().await.err().unwrap().to_string();
            assert!(error.contains(&part) && error.contains("archive to another prefix"), "{error}");
            // Writing on does not heal it.
            member.insert(3).await;
        }
        assert_eq!(member.report().state, ArchiveState::Starting);
        assert_eq!(member.consensus.next_to_archive(), 0, "nothing counts as archived");
        member.objects.delete(vec![name]).await.unwrap();
    }
    // Not the last one, which is of a leader alone.
    let mut archived = entries.clone();
    *archived.last_mut().unwrap() = other(index, term, b"theirs");
    let name = put(&member, archived).await;
    let log_id = own(&member)[index as usize + 1].log_id;
    let blank = put(&member, vec![Entry { log_id, payload: Payload::Blank, wants_reply: false }]).await;
    let error = member.find_position().await.err().unwrap().to_string();
    assert!(error.contains("holds something else"), "{error}");
    member.objects.delete(vec![name, blank]).await.unwrap();
    // Its own entries it goes on from.
    put(&member, entries).await;
    assert_eq!(member.find_position().await.unwrap().next, index + 1);
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_history_is_not_gone_on_with() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let (made, end) = member.begin_base().await;
    end.send(()).unwrap();
    let of = |index, term| {
        let mut made = made.clone();
        (made.backup.index, made.backup.term) = (index, term);
        made.backup.path = super::super::full::path_of(1, index, "theirs");
        made.sealed(&Keyring::default()).unwrap()
    };
    let (index, term) = (made.backup.index, made.backup.term);
    for (theirs, part) in [
        (of(index + 100, term), format!("has entries up to {}", index + 100)),
        (of(index, term + 1), format!("entry {index} of this epoch in the store is of term {}", term + 1)),
    ] {
        member.objects.put(&theirs.object(), theirs.encode().unwrap()).await.unwrap();
        let error = member.find_position().await.err().unwrap().to_string();
        assert!(error.contains(&part), "{error}");
        member.objects.delete(vec![theirs.object()]).await.unwrap();
    }
    assert_eq!(member.find_position().await.unwrap().next, index + 1);
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_has_purged_is_compared_by_where_it_ended() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    member.insert(20).await;
    member.go_on(&mut at).await;
    assert!(member.purge().await, "all of it is archived");
    assert_eq!(member.consensus.purged().unwrap().map(|purged| purged.index), Some(at.next - 1));
    let found = member.take_over().await;
    assert_eq!((found.next, found.base_from, member.report().state), (at.next, 0, ArchiveState::OnTarget));
    member.consensus.stop().await.unwrap();
}

/// What is at the end cannot be read: a base backup of what comes after it is needed.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_segment_that_cannot_be_read_there_is_a_base_backup() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    member.insert(3).await;
    member.go_on(&mut at).await;
    let segments = member.contents().await.segments;
    let torn = bytes::Bytes::from_static(b"torn");
    member.objects.put(&segments.last().unwrap().object(), torn).await.unwrap();
    let before = member.reach.base.unwrap().index;
    at = member.take_over().await;
    assert!(at.base_from == at.next - 1 && at.base_from > before, "{} {before}", at.base_from);
    let bases = |contents: Contents| contents.manifests.len();
    let made = async {
        while bases(member.contents().await) < 2 {
            member.go_on(&mut at).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, made).await.unwrap();
    assert!(member.contents().await.manifests[1].backup.index >= at.base_from);
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_end_of_a_long_archive_is_looked_for_and_all_of_it_looked_through_beside() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    let begun = at.next;
    for _ in 0..30 {
        member.insert(1).await;
        member.go_on(&mut at).await;
    }
    let names = member.contents().await.segments;
    assert!(names.len() >= 30);
    let last = at.next - 1;
    // However far its end is from where it is looked for.
    for near in [last, last + 5, last + 2_000, last + 2_000_000, 0] {
        let tail = position::list_tail(&member.objects, 1, near).await.unwrap();
        assert_eq!(tail.last(), names.last(), "near {near}");
        assert!(tail.segments().count() <= 8);
    }
    let after = segment::before(1, last - 3);
    let take = |all: &mut Vec<String>, name: &str, _: &object_store::ObjectMeta| all.push(name.into());
    let listed: Vec<String> =
        member.objects.gather(&segment::directory(1), Some(&after), take).await.unwrap();
    assert_eq!(listed.len(), 4, "{listed:?}");
    let ranges = Contents::read_ranges(&member.objects, Some(1)).await.unwrap();
    assert_eq!(ranges.segments.len(), 1, "{:?}", ranges.segments);
    assert!(ranges.segments[0].first <= begun && ranges.segments[0].last == last);
    assert_eq!(ranges.catalogue(), member.contents().await.catalogue());
    // A long one begins early and ends last, and the log has nothing of it any more.
    let first = names[0].first;
    let long = SegmentName { first, last: last + 1, ..names.last().unwrap().clone() };
    let bytes = member.objects.fetch(&names.last().unwrap().object()).await.unwrap();
    member.write("INSERT INTO t VALUES(1)").await;
    member.consensus.archived_before(last + 2);
    member.objects.put(&long.object(), bytes).await.unwrap();
    assert!(member.purge().await);
    let found = member.find_position().await.unwrap();
    assert_eq!(found.next, last + 2);
    member.consensus.stop().await.unwrap();
}

/// Whether all parts are those that the manifest names.
async fn is_whole(member: &Member, made: &Manifest) -> bool {
    let mut whole = true;
    for (n, sum) in made.parts.sums.iter().enumerate() {
        let name = part_name(&format!("backups/{}", made.backup.path), n);
        whole &= member.objects.get_sealed(&name, 1 << 30, Some(sum)).await.is_ok();
    }
    whole
}

fn keys() -> Keyring {
    Keyring::parse(&format!("{}=\n", "A".repeat(43))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_is_never_written_over_another_one_of_the_same_entry() {
    let mut member = Member::start_with(LOG_FOR_ARCHIVE, keys()).await;
    let mut at = member.find_position().await.unwrap();
    member.until(&mut at, ArchiveState::OnTarget).await;
    let first = member.contents().await.manifests;
    // It is old, and nothing came after it.
    member.reach.base_due = Instant::now();
    let base = member.reach.base.as_mut().unwrap();
    (base.made_us, base.seen_us) = (0, 0);
    let looked = async {
        while member.reach.base.unwrap().seen_us == 0 {
            member.go_on(&mut at).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, looked).await.unwrap();
    assert!(member.reach.bases.is_empty());
    assert_eq!(member.contents().await.manifests, first);
    assert_eq!(member.report().state, ArchiveState::OnTarget);
    // Somebody took it away, without a word: then it is made again.
    let written = member.objects.list(&format!("backups/{}", first[0].backup.path)).await.unwrap();
    for _ in 0..2 {
        member.reach.base = None;
        member.reach.base_due = Instant::now();
        while member.reach.base.is_none() {
            member.go_on(&mut at).await;
            tokio::task::yield_now().await;
        }
    }
    let made = member.contents().await.manifests;
    assert_eq!(made.len(), 3);
    assert!(made.iter().all(|made| made.backup.index == first[0].backup.index));
    for made in &made {
        assert!(is_whole(&member, made).await, "{}", made.backup.path);
    }
    assert_eq!(member.objects.list(&format!("backups/{}", first[0].backup.path)).await.unwrap(), written);
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_there_is_the_one_that_is_asked_for_again() {
    let member = Member::start_with(LOG_FOR_ARCHIVE, keys()).await;
    let first = member.make("one", BackupKind::Full).await;
    let written = member.objects.written("backups").await.unwrap();
    assert_eq!(member.make("one", BackupKind::Full).await, first);
    let other = member.try_to_make("one", BackupKind::Pin).await.unwrap_err().to_string();
    assert!(other.contains("nothing is written over it"), "{other}");
    assert_eq!(member.objects.written("backups").await.unwrap(), written);
    assert!(is_whole(&member, &first).await);
    // Nor over one that cannot be read.
    member.objects.put(&first.object(), bytes::Bytes::from_static(b"torn")).await.unwrap();
    let torn = member.objects.written("backups").await.unwrap();
    member.try_to_make("one", BackupKind::Full).await.unwrap_err();
    assert_eq!(member.objects.written("backups").await.unwrap(), torn);
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hears_of_what_another_member_deleted() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let mut at = member.find_position().await.unwrap();
    let first = member.until(&mut at, ArchiveState::OnTarget).await;
    member.insert(3).await;
    member.go_on(&mut at).await;
    let base = member.contents().await.manifests[0].backup.path.clone();
    let (later, end) = member.begin_base().await;
    end.send(()).unwrap();
    let hears = async |member: &mut Member, at: &mut Position| {
        member.reach.look_due = Instant::now();
        while member.reach.looks.is_empty() {
            member
                .archiver
                .go_on(&member.objects, &member.settings, &member.cluster, at, &mut member.reach)
                .await
                .unwrap();
        }
        while !member.reach.looks.is_empty() {
            member
                .archiver
                .go_on(&member.objects, &member.settings, &member.cluster, at, &mut member.reach)
                .await
                .unwrap();
            tokio::task::yield_now().await;
        }
        member.report()
    };
    hears(&mut member, &mut at).await;
    retention::delete(&member.objects, vec![base], None, true).await.unwrap();
    let second = hears(&mut member, &mut at).await;
    assert_eq!(second.earliest, Some(time_text(later.moment_us())), "{second:?}");
    assert!(second.earliest > first.earliest, "{first:?}");
    // All that is left goes: another one is made.
    member.insert(1).await;
    retention::delete(&member.objects, vec![later.backup.path], None, true).await.unwrap();
    assert_eq!(hears(&mut member, &mut at).await.earliest, None);
    let third = member.until(&mut at, ArchiveState::OnTarget).await;
    assert!(third.earliest > second.earliest, "{third:?}");
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn between_segments_that_are_far_apart_the_archive_gets_on_target() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    member.settings.rpo_target_seconds = 3600;
    let Member { archiver, objects, settings, cluster, reach, .. } = &mut member;
    let on_target = async {
        let report = || archiver.standing.lock().report(TARGET, Duration::ZERO, Duration::ZERO, false);
        while report().state != ArchiveState::OnTarget {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = archiver.archive(objects, settings, cluster, &|| true, reach) => unreachable!("{ended:?}"),
        reached = tokio::time::timeout(SOON, on_target) => reached.unwrap(),
    }
    member.consensus.stop().await.unwrap();
}

#[test]
fn after_failures_it_is_waited_longer_and_longer() {
    let mut pause = Duration::ZERO;
    let mut seconds = Vec::new();
    for _ in 0..7 {
        pause = longer(pause);
        seconds.push(pause.as_secs());
    }
    assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_from_what_it_heard_and_does_not_say_that_there_is_no_base() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    member.insert(3).await;
    member.go_on(&mut at).await;
    let archived_us = member.archiver.standing.lock().archived_us;
    let now = member.archiver.heard().await;
    assert_eq!(now.archived_us, archived_us, "nothing waits");
    let oldest = Instant::now();
    member.insert(3).await;
    let heard = member.archiver.heard().await;
    assert!(heard.archived_us >= archived_us && heard.since <= Instant::now(), "{heard:?}");
    // What waits is of that moment or later; clocks are read one after the other.
    assert!(heard.since + Duration::from_secs(1) > oldest, "{heard:?}");

    *member.archiver.standing.lock() = Standing::heard(heard);
    let says = member.report();
    assert_eq!((says.state, says.taking_over, &says.earliest), (ArchiveState::Starting, true, &None));
    let latest = RestoreTarget::Time(says.latest.unwrap());
    assert!(member.contents().await.choose(&latest).is_ok(), "{latest:?}");
    at = member.find_position().await.unwrap();
    let finds = member.report();
    assert_eq!((finds.state, finds.taking_over, finds.earliest), (ArchiveState::Starting, true, None));
    member.look(&at).await;
    let found = member.report();
    assert_eq!((found.state, found.taking_over), (ArchiveState::OnTarget, false));
    member.go_on(&mut at).await;
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_is_written_it_is_noted_up_to_when_everything_is_archived() {
    let (mut member, mut at) = Member::on_target(LOG_FOR_ARCHIVE).await;
    member.insert(3).await;
    // What waits is no quiet time.
    at.note_due = Instant::now();
    member.archiver.note_until(&member.objects, member.cluster.epoch, &mut at).await.unwrap();
    let begun = crate::clock::now_us();
    let noted = |said: Option<ArchivedUntil>| said.filter(|said| said.time_us >= begun);
    assert_eq!(noted(ArchivedUntil::read(&member.objects, 1).await.unwrap()), None);
    member.go_on(&mut at).await;
    assert_eq!(noted(ArchivedUntil::read(&member.objects, 1).await.unwrap()), None, "it has just archived");
    member.go_on(&mut at).await;
    let said = noted(ArchivedUntil::read(&member.objects, 1).await.unwrap()).unwrap();
    assert_eq!(said.index, at.next - 1);
    member.go_on(&mut at).await;
    let again = ArchivedUntil::read(&member.objects, 1).await.unwrap().unwrap();
    assert_eq!(again, said, "not more than once a minute");

    let contents = Contents::read_for_times(&member.objects).await.unwrap();
    let choose = |us| contents.choose(&RestoreTarget::Time(time_text(us)));
    assert_eq!(choose(said.time_us).unwrap().segments.last().unwrap().last, said.index);
    let late = choose(said.time_us + 1).unwrap_err().to_string();
    let latest = time_text(said.time_us);
    assert!(late.contains(&format!("the latest time is {latest}")), "{late}");
    // What cannot be read says nothing.
    let text = bytes::Bytes::from_static(b"something else");
    member.objects.put("archived/00000001", text).await.unwrap();
    let contents = Contents::read_for_times(&member.objects).await.unwrap();
    let choice = contents.choose(&RestoreTarget::Time(time_text(said.time_us + 1)));
    assert!(choice.unwrap().warning.is_some());
    member.consensus.stop().await.unwrap();
}
