#![allow(clippy::unwrap_used)]
use super::super::catalogue::time_text;
use super::super::seal::Keyring;
use super::super::segment::SegmentName;
use super::*;
use crate::identity::Identity;
use crate::raft::command::{EntryContext, Replacement, RequestEncoder, RequestFlags, encode_replace};
use crate::raft::{ConsensusConfig, LOG_FOR_ARCHIVE, PeerSecurity, Profile, Reap};
use crate::store::{LogId, Payload, Store};
use client::backup::{ArchiveReport, ArchiveState, RestoreTarget};
use object_store::memory::InMemory;
use tokio::sync::oneshot;

const TARGET: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(60);

/// The one member of a cluster, and its archive in memory, which goes on when it is told to.
struct Member {
    archiver: Archiver,
    consensus: Arc<Consensus>,
    objects: Objects,
    settings: ContinuousConfig,
    cluster: ClusterIdentity,
    bases: Bases,
    _directory: tempfile::TempDir,
}

impl Member {
    /// Of whose log at most `longest` bytes wait for the archive.
    async fn start(longest: u64) -> Self {
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
        let objects = Objects::new(Arc::new(InMemory::new()), root, Arc::new(Keyring::default()), None);
        let settings = ContinuousConfig { enabled: true, rpo_target_seconds: 5, base_every_hours: 24 };
        let cluster = consensus.identity().cluster().unwrap();
        let bases = Bases::new();
        let member = Self { archiver, consensus, objects, settings, cluster, bases, _directory: directory };
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
    async fn insert(&self, n: usize) -> u64 {
        let mut last = 0;
        for _ in 0..n {
            last = self.write("INSERT INTO t VALUES(1)").await;
        }
        last
    }

    async fn find_position(&self) -> Result<Position, ArchiveError> {
        self.archiver.find_position(&self.objects, self.cluster.epoch).await
    }

    async fn go_on(&mut self, at: &mut Position) {
        let Self { archiver, objects, settings, cluster, bases, .. } = self;
        archiver.go_on(objects, settings, cluster, at, bases).await.unwrap();
        self.check_window().await;
    }

    fn report(&self) -> ArchiveReport {
        self.archiver.standing.lock().report(TARGET, Duration::ZERO, Duration::ZERO, false)
    }

    async fn contents(&self) -> Contents {
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
    async fn until(&mut self, at: &mut Position, state: ArchiveState) -> ArchiveReport {
        let reached = async {
            while self.report().state != state {
                self.go_on(at).await;
                tokio::task::yield_now().await;
            }
            self.report()
        };
        tokio::time::timeout(SOON, reached).await.unwrap()
    }

    /// Begins a base backup; it is in the store when this returns, and ends when the answer is sent to.
    async fn begin_base(&mut self) -> (Manifest, oneshot::Sender<()>) {
        let (source, objects) = (self.archiver.source(), self.objects.clone());
        let (made, is_made) = oneshot::channel();
        let (end, ends) = oneshot::channel::<()>();
        self.bases.spawn(async move {
            let outcome =
                make_backup(&source, &objects, BASE, BackupKind::Base, Arc::new(Progress::default())).await;
            made.send(outcome.as_ref().ok().cloned()).unwrap();
            ends.await.unwrap();
            outcome
        });
        (is_made.await.unwrap().unwrap(), end)
    }

    /// Purges the log up to the last entry, if the archive does not keep it.
    async fn purge(&self) -> bool {
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
    *member.archiver.standing.lock() = Standing::heard(Waiting::unknown());
    let found = member.find_position().await.unwrap();
    assert!(found.base_at.is_some());
    assert_eq!((found.next, member.report().earliest), (at.next, after.earliest));
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_says_of_a_hole_what_the_last_one_said() {
    let mut member = Member::start(0).await;
    let mut at = member.find_position().await.unwrap();
    member.until(&mut at, ArchiveState::OnTarget).await;
    member.insert(20).await;
    member.purge().await;
    // Nobody makes a base backup.
    member.bases.spawn(std::future::pending());
    member.go_on(&mut at).await;
    let said = member.report();
    *member.archiver.standing.lock() = Standing::heard(Waiting::unknown());
    let found = member.find_position().await.unwrap();
    let says = member.report();
    assert_eq!((says.state, &says.latest), (ArchiveState::Broken, &said.latest), "{says:?}");
    assert!(found.base_at.is_none() && says.message.is_some());
    member.check_window().await;
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_bound_nothing_is_purged_that_is_not_archived() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let mut at = member.find_position().await.unwrap();
    member.until(&mut at, ArchiveState::OnTarget).await;
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
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let mut at = member.find_position().await.unwrap();
    member.until(&mut at, ArchiveState::OnTarget).await;
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
    member.archiver.put(&member.objects, &member.cluster, &mut at, entries).await.unwrap();
    assert_eq!((member.report().state, at.next), (ArchiveState::Broken, index + 1));
    for (base, state) in [(index - 1, ArchiveState::Broken), (index, ArchiveState::OnTarget)] {
        made.backup.index = base;
        member.archiver.take_base(Ok(made.clone()), &mut at);
        let report = member.report();
        assert_eq!(report.state, state, "a base backup of entry {base}: {report:?}");
        assert_eq!(at.base_at.is_some(), state == ArchiveState::OnTarget);
    }
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_a_longer_log_than_the_clusters_is_not_gone_on_with() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let last = member.consensus.report().last_log_index;
    let longer = SegmentName { epoch: 1, first: 1, last: last + 100, time_us: 1, of: None };
    member.objects.put(&longer.object(), bytes::Bytes::from_static(b"of before")).await.unwrap();
    let error = member.find_position().await.err().unwrap();
    assert!(matches!(error, ArchiveError::Ahead { archived, .. } if archived == last + 100), "{error}");
    assert_eq!(member.report().state, ArchiveState::Starting);
    // A survivor of a lost quorum goes on in another epoch: what was archived of the last one stays where it is.
    member.cluster.epoch = 2;
    let at = member.find_position().await.unwrap();
    assert!(at.next <= last + 1 && at.base_at.is_none(), "{}", at.next);
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_from_what_it_heard_and_does_not_say_that_there_is_no_base() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let mut at = member.find_position().await.unwrap();
    member.until(&mut at, ArchiveState::OnTarget).await;
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
    let found = member.report();
    assert_eq!((found.state, found.taking_over), (ArchiveState::OnTarget, false));
    member.go_on(&mut at).await;
    member.consensus.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_is_written_it_is_noted_up_to_when_everything_is_archived() {
    let mut member = Member::start(LOG_FOR_ARCHIVE).await;
    let mut at = member.find_position().await.unwrap();
    member.until(&mut at, ArchiveState::OnTarget).await;
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
