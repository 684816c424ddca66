//! Every path of the client port, in one table: what it is called, which methods it has, what a user must be allowed to
//! do. A route without the last does not compile: one that everybody may ask says so, and why.

use crate::auth::Permission::{
    self, All, Backup, Execute, Join, LeaderOps, Load, Query, Ready, Remove, Snapshot, Status, Ui,
};
use axum::http::Method;

/// What is behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/db/execute`
    Execute,
    /// `/db/query`
    Query,
    /// `/db/request`
    Request,
    /// `/db/sql`
    Sql,
    /// `/db/changes`
    Changes,
    /// `/db/backup`
    Backup,
    /// `/db/load`
    Load,
    /// `/boot`
    Boot,
    /// `/status`
    Status,
    /// `/nodes`
    Nodes,
    /// `/readyz`
    Ready,
    /// `/remove`
    Remove,
    /// `/leader`
    Leader,
    /// `/snapshot`
    Snapshot,
    /// `/reap`
    Reap,
    /// `/debug/vars`
    Vars,
    /// `/licenses`
    Licenses,
    /// `/metrics`
    Metrics,
    /// `/`, `/console`, `/console/…`
    Console,
    /// `/console/session`
    ConsoleSession,
    /// `/cluster`
    Cluster,
    /// `/cluster/events`
    ClusterEvents,
    /// `/cluster/initialise`
    ClusterInitialise,
    /// `/cluster/learners`
    ClusterLearners,
    /// `/cluster/voters`
    ClusterVoters,
    /// `/cluster/transfer`
    ClusterTransfer,
    /// `/cluster/recover`
    ClusterRecover,
    /// `/cluster/skip`
    ClusterSkip,
    /// `/cluster/backups`
    ClusterBackups,
    /// `/cluster/backups/jobs`
    ClusterBackupJobs,
    /// `/cluster/backups/probe`
    ClusterBackupProbe,
    /// `/cluster/restore`
    ClusterRestore,
}

impl Endpoint {
    /// What rqlite calls it where the leader refuses to do it for a user of another member.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Execute => "Execute",
            Self::Query => "query",
            Self::Request => "Request",
            Self::Backup => "backup",
            Self::Load | Self::Boot => "load",
            Self::Remove => "remove node",
            Self::Leader => "stepdown",
            _ => "operation",
        }
    }
}

/// One path.
#[derive(Debug)]
pub struct Route {
    /// The path, or its beginning.
    pub path: &'static str,
    /// Whether longer paths belong to it too.
    pub prefix: bool,
    /// What is behind it.
    pub endpoint: Endpoint,
    /// Its methods.
    pub methods: &'static [Method],
    /// What a user must be allowed to do.
    pub needs: Access,
}

/// Who may ask a path.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Everybody, also without credentials, for this reason.
    Open(&'static str),
    /// Who is allowed to do all of these; never none.
    All(&'static [Permission]),
}

impl Access {
    /// What a user must be allowed to do, all of it.
    pub fn permissions(self) -> &'static [Permission] {
        match self {
            Self::Open(_) => &[],
            Self::All(permissions) => permissions,
        }
    }

    const fn is_said(&self) -> bool {
        match self {
            Self::Open(reason) => !reason.is_empty(),
            Self::All(permissions) => !permissions.is_empty(),
        }
    }
}

/// A path for who is allowed to do all of `needs`.
const fn route(
    path: &'static str,
    prefix: bool,
    endpoint: Endpoint,
    methods: &'static [Method],
    needs: &'static [Permission],
) -> Route {
    Route { path, prefix, endpoint, methods, needs: Access::All(needs) }
}

/// A path that everybody may read, because of `reason`.
const fn open(path: &'static str, prefix: bool, endpoint: Endpoint, reason: &'static str) -> Route {
    Route { path, prefix, endpoint, methods: GET_HEAD, needs: Access::Open(reason) }
}

const GET: &[Method] = &[Method::GET];
const GET_HEAD: &[Method] = &[Method::GET, Method::HEAD];
/// As rqlite, which does not look at it there. OPTIONS is answered before.
const ANY: &[Method] = &[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
const POST: &[Method] = &[Method::POST];
const GET_POST: &[Method] = &[Method::GET, Method::POST];
const DELETE: &[Method] = &[Method::DELETE];
const GET_POST_DELETE: &[Method] = &[Method::GET, Method::POST, Method::DELETE];
const POST_DELETE: &[Method] = &[Method::POST, Method::DELETE];

const PAGE: &str = "the page holds no data, and asks for a user itself: console.rs";

/// The table. Exact paths come before prefixes that would also match them.
pub const ROUTES: &[Route] = &[
    route("/db/execute", true, Endpoint::Execute, POST, &[Execute]),
    route("/db/query", true, Endpoint::Query, GET_POST, &[Query]),
    route("/db/request", true, Endpoint::Request, POST, &[Query, Execute]),
    route("/db/sql", true, Endpoint::Sql, GET_POST, &[Query]),
    route("/db/changes", true, Endpoint::Changes, GET, &[Query]),
    route("/db/backup", true, Endpoint::Backup, GET, &[Backup]),
    route("/db/load", true, Endpoint::Load, POST, &[Load]),
    route("/boot", false, Endpoint::Boot, POST, &[Load]),
    route("/status", true, Endpoint::Status, GET, &[Status]),
    route("/nodes", true, Endpoint::Nodes, GET, &[Status]),
    route("/readyz", true, Endpoint::Ready, GET, &[Ready]),
    route("/remove", true, Endpoint::Remove, DELETE, &[Remove]),
    route("/leader", false, Endpoint::Leader, GET_POST, &[LeaderOps]),
    route("/snapshot", false, Endpoint::Snapshot, POST, &[Snapshot]),
    route("/reap", false, Endpoint::Reap, POST, &[Snapshot]),
    route("/debug/vars", false, Endpoint::Vars, ANY, &[Status]),
    route("/licenses", false, Endpoint::Licenses, GET, &[Status]),
    route("/metrics", false, Endpoint::Metrics, GET, &[Status]),
    Route { methods: ANY, ..open("/", false, Endpoint::Console, PAGE) },
    open("/console", false, Endpoint::Console, PAGE),
    route("/console/session", false, Endpoint::ConsoleSession, GET, &[Ui]),
    open("/console/", true, Endpoint::Console, PAGE),
    route("/cluster", false, Endpoint::Cluster, GET, &[LeaderOps]),
    route("/cluster/events", false, Endpoint::ClusterEvents, GET, &[LeaderOps]),
    route("/cluster/initialise", false, Endpoint::ClusterInitialise, POST, &[All]),
    route("/cluster/learners", false, Endpoint::ClusterLearners, POST_DELETE, &[LeaderOps, Join, Remove]),
    route("/cluster/voters", false, Endpoint::ClusterVoters, POST, &[LeaderOps, Join, Remove]),
    route("/cluster/transfer", false, Endpoint::ClusterTransfer, POST, &[LeaderOps]),
    route("/cluster/recover", false, Endpoint::ClusterRecover, POST, &[All]),
    route("/cluster/skip", false, Endpoint::ClusterSkip, POST, &[All]),
    route("/cluster/backups", false, Endpoint::ClusterBackups, GET_POST_DELETE, &[Backup, LeaderOps]),
    route("/cluster/backups/jobs", false, Endpoint::ClusterBackupJobs, GET, &[Backup]),
    route("/cluster/backups/probe", false, Endpoint::ClusterBackupProbe, POST, &[Backup, LeaderOps]),
    route("/cluster/restore", false, Endpoint::ClusterRestore, GET_POST, &[All]),
];

/// A route without a permission, and without a reason for having none, fails the build here.
const _: () = {
    let mut i = 0;
    while i < ROUTES.len() {
        assert!(ROUTES[i].needs.is_said(), "a route has to say what its users must be allowed to do");
        i += 1;
    }
};

/// What a path leads to.
#[derive(Debug)]
pub enum Match {
    /// This.
    Found(&'static Route),
    /// There is such a path, with other methods.
    WrongMethod(&'static Route),
    /// There is no such path.
    Unknown,
}

/// Looks a path up.
pub fn find(method: &Method, path: &str) -> Match {
    let route = ROUTES.iter().find(|r| if r.prefix { path.starts_with(r.path) } else { path == r.path });
    match route {
        None => Match::Unknown,
        Some(route) if route.methods.contains(method) => Match::Found(route),
        Some(route) => Match::WrongMethod(route),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_table() {
        for (method, path, expected) in [
            (Method::POST, "/db/execute", Some(Some(Endpoint::Execute))),
            (Method::POST, "/db/execute/", Some(Some(Endpoint::Execute))),
            (Method::GET, "/db/execute", Some(None)),
            (Method::GET, "/db/query", Some(Some(Endpoint::Query))),
            (Method::GET, "/leader/x", None),
            (Method::GET, "/cluster/events", Some(Some(Endpoint::ClusterEvents))),
            (Method::GET, "/", Some(Some(Endpoint::Console))),
            (Method::PUT, "/", Some(Some(Endpoint::Console))),
            (Method::DELETE, "/debug/vars", Some(Some(Endpoint::Vars))),
            (Method::GET, "/console/", Some(Some(Endpoint::Console))),
            (Method::HEAD, "/console/main.js", Some(Some(Endpoint::Console))),
            (Method::GET, "/console/session", Some(Some(Endpoint::ConsoleSession))),
            (Method::POST, "/console", Some(None)),
            (Method::GET, "/boot", Some(None)),
            (Method::GET, "/db/backup/", Some(Some(Endpoint::Backup))),
            (Method::GET, "/unknown", None),
        ] {
            let found = match find(&method, path) {
                Match::Found(route) => Some(Some(route.endpoint)),
                Match::WrongMethod(_) => Some(None),
                Match::Unknown => None,
            };
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
