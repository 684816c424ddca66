//! A member that answers as nodes do, and the Raft that three of them share.

use super::*;

/// What the members share: who is a member, who leads, how often a promotion was refused.
#[derive(Default)]
pub struct Raft {
    pub cluster_id: Option<String>,
    pub members: Vec<Member>,
    pub leader: Option<NodeId>,
    pub refusals: u32,
    /// Who was asked for which backup.
    pub backups: Vec<(NodeId, String)>,
    /// Why backups fail.
    pub outage: Option<String>,
    /// Whether a backup takes long.
    pub is_slow: bool,
    /// Backups that failed.
    pub failed: Vec<(NodeId, String)>,
    /// Paths that were to be deleted.
    pub deleted: Vec<String>,
    /// What members loaded of certificates.
    pub certificates: BTreeMap<String, Certificates>,
    /// What none of them gets over.
    pub fatal_entry: Option<FatalEntry>,
    /// What they were told to pass over.
    pub skipped: Vec<u64>,
    /// Whether they accept whatever password there is.
    pub lets_in: bool,
    /// How full the volume of each of them is.
    pub storage: Option<VolumeUsage>,
}

#[derive(Clone)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub raft: Arc<Mutex<Raft>>,
}

pub fn body(value: impl Serialize) -> axum::response::Response {
    (StatusCode::OK, serde_json::to_string(&value).unwrap()).into_response()
}

pub fn refuse(reason: RefusalReason) -> axum::response::Response {
    let refusal = Refusal { reason, message: "no".into() };
    (StatusCode::CONFLICT, serde_json::to_string(&refusal).unwrap()).into_response()
}

impl Node {
    pub fn report(&self) -> MemberReport {
        let raft = self.raft.lock().unwrap();
        let joined = raft.members.iter().any(|member| member.node_id == self.id);
        let leads = raft.leader == Some(self.id);
        let leader = raft.members.iter().find(|member| Some(member.node_id) == raft.leader);
        MemberReport {
            cluster_id: raft.cluster_id.clone().filter(|_| joined),
            epoch: 0,
            node_id: self.id,
            name: self.name.clone(),
            raft_address: format!("{}:4002", self.name),
            api_address: format!("{}:4001", self.name),
            version: "1.0.0".into(),
            engine: None,
            phase: match (joined, raft.fatal_entry) {
                (true, None) => Phase::Serving,
                (true, Some(_)) => Phase::CatchingUp,
                (false, _) => Phase::Uninitialised,
            },
            role: if leads { Role::Leader } else { Role::Learner },
            term: 1,
            leader: leader.map(|leader| MemberRef { node_id: leader.node_id, name: leader.name.clone() }),
            last_log_index: 9,
            last_log_term: Some(1),
            committed_index: 9,
            applied_index: raft.fatal_entry.map_or(9, |entry| entry.index - 1),
            quorum_silent_milliseconds: leads.then_some(5),
            membership: Membership {
                log_index: 5,
                committed: true,
                joint: false,
                members: if joined { raft.members.clone() } else { vec![] },
            },
            consistency: None,
            storage: raft.storage,
            archive: None,
            certificates: raft.certificates.get(&self.name).cloned().unwrap_or_default(),
            fatal_entry: raft.fatal_entry,
            message: None,
        }
    }

    pub fn changed(&self) -> axum::response::Response {
        body(Changed { membership: self.report().membership })
    }

    pub async fn initialise(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: Initialise = serde_json::from_str(&text).unwrap();
        {
            let mut raft = node.raft.lock().unwrap();
            assert!(raft.cluster_id.is_none(), "initialised twice");
            raft.cluster_id = Some(asked.cluster_id);
            raft.leader = Some(node.id);
            raft.members.push(member(node.id, &node.name, true));
        }
        body(node.report())
    }

    pub async fn learners(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: AddLearner = serde_json::from_str(&text).unwrap();
        node.raft.lock().unwrap().members.push(member(asked.node_id, &asked.name, false));
        node.changed()
    }

    pub async fn voters(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: ChangeVoters = serde_json::from_str(&text).unwrap();
        {
            let mut raft = node.raft.lock().unwrap();
            if raft.refusals == 0 {
                raft.refusals = 1;
                return refuse(RefusalReason::NotCaughtUp);
            }
            raft.members.retain(|member| !asked.remove.contains(&member.node_id));
            for member in raft.members.iter_mut().filter(|member| asked.add.contains(&member.node_id)) {
                member.voter = true;
            }
        }
        node.changed()
    }

    pub async fn transfer(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: Transfer = serde_json::from_str(&text).unwrap();
        let to = asked.to.unwrap();
        let mut raft = node.raft.lock().unwrap();
        raft.leader = Some(to);
        let Some(leader) = raft.members.iter().find(|member| member.node_id == to) else {
            return refuse(RefusalReason::NoSuchMember);
        };
        body(Transferred { leader: MemberRef { node_id: to, name: leader.name.clone() }, term: 2 })
    }

    pub async fn skip(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: SkipEntry = serde_json::from_str(&text).unwrap();
        let mut raft = node.raft.lock().unwrap();
        assert_eq!(
            (raft.leader, raft.fatal_entry.map(|entry| entry.index)),
            (Some(node.id), Some(asked.index))
        );
        raft.fatal_entry = None;
        raft.skipped.push(asked.index);
        body(Skipped { index: 10 })
    }

    pub async fn start_backup(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: StartBackup = serde_json::from_str(&text).unwrap();
        {
            let mut raft = node.raft.lock().unwrap();
            let asked = (node.id, asked.name.clone());
            raft.failed.retain(|failed| *failed != asked);
            if raft.outage.is_some() {
                raft.failed.push(asked.clone());
            }
            raft.backups.push(asked);
        }
        let job = BackupJob {
            name: asked.name,
            state: JobState::Running,
            progress_percent: 1,
            backup: None,
            message: None,
        };
        body(job)
    }

    /// What it was asked for has ended by the time that somebody looks, unless it takes long.
    pub async fn backup_jobs(State(node): State<Self>) -> axum::response::Response {
        let raft = node.raft.lock().unwrap();
        let state = |job: &(NodeId, String)| match (raft.failed.contains(job), raft.is_slow) {
            (true, _) => JobState::Failed,
            (false, true) => JobState::Running,
            (false, false) => JobState::Succeeded,
        };
        let mine = raft.backups.iter().filter(|(id, _)| *id == node.id);
        let mine = mine.map(|job| (job.1.clone(), state(job)));
        let jobs = mine.map(|(name, state)| BackupJob {
            backup: (state == JobState::Succeeded).then(|| Backup {
                name: name.clone(),
                kind: BackupKind::Full,
                path: format!("full/{name}"),
                cluster_id: CLUSTER_ID.into(),
                epoch: 1,
                index: 9,
                term: 1,
                time: "2026-01-01T00:00:00Z".into(),
                size_bytes: 8192,
                stored_bytes: 100,
                sha256: "ab".into(),
                page_checksum: None,
                sqlite_version: "3".into(),
                member: node.name.clone(),
                encrypted: false,
            }),
            name,
            state,
            progress_percent: 100,
            message: raft.outage.clone().filter(|_| state == JobState::Failed),
        });
        body(BackupJobs { jobs: jobs.collect() })
    }

    pub async fn delete_backups(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: DeleteBackups = serde_json::from_str(&text).unwrap();
        node.raft.lock().unwrap().deleted.extend(asked.paths);
        body(Deleted { objects: 3 })
    }

    pub async fn let_in(State(node): State<Self>) -> StatusCode {
        let lets_in = node.raft.lock().unwrap().lets_in;
        if lets_in { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::UNAUTHORIZED }
    }

    pub async fn probe() -> axum::response::Response {
        body(Probe { writable: true, readable: true, deletable: true, message: None })
    }

    pub async fn events(State(node): State<Self>) -> axum::response::Response {
        let line = format!("\n{}\n\n", serde_json::to_string(&node.report()).unwrap());
        let chunks = line.into_bytes().chunks(50).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let stream = futures::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>));
        axum::body::Body::from_stream(stream).into_response()
    }

    pub async fn serve(self, ip: Ipv4Addr) {
        let router = Router::new()
            .route("/cluster", get(|State(node): State<Self>| async move { body(node.report()) }))
            .route("/cluster/initialise", post(Self::initialise))
            .route("/cluster/learners", post(Self::learners))
            .route("/cluster/voters", post(Self::voters))
            .route("/cluster/transfer", post(Self::transfer))
            .route("/cluster/skip", post(Self::skip))
            .route("/cluster/events", get(Self::events))
            .route("/cluster/backups", post(Self::start_backup).delete(Self::delete_backups))
            .route("/cluster/backups/jobs", get(Self::backup_jobs))
            .route("/cluster/backups/probe", post(Self::probe))
            .route("/db/request", get(Self::let_in))
            .with_state(self);
        let listener = tokio::net::TcpListener::bind((ip, 4001)).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
}

pub fn member(node_id: NodeId, name: &str, voter: bool) -> Member {
    Member {
        node_id,
        name: name.into(),
        raft_address: format!("{name}:4002"),
        api_address: format!("{name}:4001"),
        voter,
        matched_index: Some(9),
        silent_milliseconds: Some(1),
    }
}

/// An address that no other test of this process has, nor another process.
pub fn ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

pub async fn members() -> (Vec<Ipv4Addr>, Arc<Mutex<Raft>>) {
    let raft = Arc::new(Mutex::new(Raft::default()));
    let ips: Vec<_> = (0..3).map(|_| ip()).collect();
    for (i, ip) in ips.iter().enumerate() {
        let node = Node { id: NodeId(100 + i as u64), name: format!("orders-{i}"), raft: raft.clone() };
        node.serve(*ip).await;
    }
    (ips, raft)
}
