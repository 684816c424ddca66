//! The table of flags: what there is, what it is called, what it is without being said.

/// One flag.
pub struct Flag {
    /// Its name: `-name` on the command line, `SQLITED_NAME` in the environment, `name` in the file.
    pub name: &'static str,
    /// What it is without being said.
    pub default: &'static str,
    /// Whether it is true by being there.
    pub boolean: bool,
    help: &'static str,
}

const fn flag(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, default, boolean: false, help }
}

const fn switch(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, default, boolean: true, help }
}

/// All of them, in the order of the usage.
pub const FLAGS: &[Flag] = &[
    switch("version", "false", "print the version and exit"),
    flag("config", "", "a file of YAML with these flags, without the dash; the command line stands over it"),
    switch("check-config", "false", "say whether flags and files make sense, and exit"),
    flag("node-id", "", "name of the member, unique in the cluster; default: its advertised peer address"),
    flag("http-addr", "localhost:4001", "where the client port listens"),
    flag("http-adv-addr", "", "where clients reach it; default: -http-addr"),
    flag("http-allow-origin", "", "value of Access-Control-Allow-Origin in answers"),
    flag("http-cert", "", "certificate of the client port, PEM: clients talk HTTPS"),
    flag("http-key", "", "its key"),
    flag("http-ca-cert", "", "whose certificates clients must show under -http-verify-client"),
    switch("http-verify-client", "false", "clients must show a certificate of -http-ca-cert"),
    flag("http-verify-common-name", "", "the common name that it must have"),
    switch("http-allow-plaintext", "false", "clients may talk HTTP beside HTTPS, while they move"),
    flag("auth", "", "users and what they may do: a JSON file, or a directory of them; changes are followed"),
    flag(
        "backup-config",
        "",
        "the store of backups, its keys and the continuous archive: a file of YAML; changes are followed",
    ),
    flag(
        "restore-config",
        "",
        "what a restore may read beside that: a file of the same kind, or one that names what to import from a URL",
    ),
    flag(
        "cdc-config",
        "",
        "where changes of rows are sent: a URL, stdout, or a JSON file, or its text, that says more (docs/changes.md); the same on all voters",
    ),
    flag(
        "auto-backup",
        "",
        "where the leader puts a copy of the database at an interval: a JSON file in rqlite's form",
    ),
    flag("auto-restore", "", "the copy that a new cluster begins with: a JSON file in rqlite's form"),
    flag(
        "otlp-endpoint",
        "",
        "where numbers and traces are pushed: host:port of an OpenTelemetry collector that takes gRPC; default: nowhere",
    ),
    flag("otlp-interval", "30s", "time between two pushes of the numbers"),
    switch("otlp-insecure", "false", "push without TLS"),
    switch(
        "otlp-no-verify",
        "false",
        "take any certificate of the collector: whoever is in between can read along",
    ),
    flag(
        "otlp-ca-cert",
        "",
        "whose certificate the collector must show; default: an authority that the system trusts",
    ),
    flag("otlp-cert", "", "certificate that is shown to the collector, PEM"),
    flag("otlp-key", "", "its key"),
    flag(
        "otlp-trace-ratio",
        "0",
        "how many of the requests without a traceparent header are traced: 0 none, 1 all; with one, it decides",
    ),
    flag(
        "otlp-trace-limit",
        "100",
        "how many requests are traced in a second, at most, whoever asks for it; 0: none",
    ),
    flag("raft-addr", "localhost:4002", "where the peer port listens"),
    flag("raft-adv-addr", "", "where peers reach it; default: -raft-addr"),
    flag(
        "health-addr",
        "",
        "where probes and /metrics are served, for example localhost:4003; default: nowhere",
    ),
    flag("node-cert", "", "certificate of the peer port, PEM: members talk TLS"),
    flag("node-key", "", "its key"),
    flag("node-ca-cert", "", "whose certificates members show each other"),
    switch("node-no-verify", "false", "take any certificate: whoever is in between can read and write along"),
    switch("node-verify-client", "true", "who calls must show a certificate too"),
    flag(
        "node-verify-server-name",
        "",
        "the name that members' certificates must be for; default: their host",
    ),
    flag("node-verify-common-name", "", "the common name that certificates of callers must have"),
    switch(
        "node-verify-member-name",
        "false",
        "certificates of callers must have a DNS name that begins with their -node-id and a dot",
    ),
    flag(
        "node-plaintext",
        "refuse",
        "what is done without TLS while a cluster moves to it: refuse; accept calls; or dial so too",
    ),
    flag("join", "", "peer addresses of members to join through, separated by commas"),
    flag(
        "disco-mode",
        "",
        "how other members are found instead of by -join: dns, dns-srv, consul-kv or etcd-kv",
    ),
    flag(
        "disco-key",
        "rqlite",
        "of consul-kv and etcd-kv: the leader is registered in the key DISCO-KEY/leader",
    ),
    flag(
        "disco-config",
        "",
        "its settings in JSON, or a file of them, which is where passwords belong: {\"name\", \"port\"} for dns, \
         {\"name\", \"service\"} for dns-srv, {\"address\", …} for consul-kv, {\"endpoints\", …} for etcd-kv",
    ),
    flag("join-as", "", "the user of -auth whose name and password are shown when joining"),
    flag("join-attempts", "5", "how often joining is tried"),
    flag("join-interval", "3s", "time between two attempts"),
    flag(
        "bootstrap-expect",
        "0",
        "how many members make a new cluster together; each names all of them in -join",
    ),
    flag("bootstrap-expect-timeout", "120s", "how long to wait for them"),
    switch("raft-non-voter", "false", "replicate without voting (a read replica)"),
    flag("raft-profile", "lan", "election and heartbeat times: lan or wan"),
    flag("raft-heartbeat-timeout", "", "time between two heartbeats of a leader; default: by profile"),
    flag("raft-election-timeout", "", "silence after which a voter asks for votes; default: by profile"),
    flag(
        "raft-apply-timeout",
        "10s",
        "how long a request waits for a leader and its quorum, unless it says so itself (timeout)",
    ),
    switch("raft-cluster-remove-shutdown", "false", "leave the cluster on shutdown"),
    switch("raft-shutdown-stepdown", "true", "hand over leadership on shutdown"),
    flag("raft-reap-node-timeout", "", "silence after which the leader removes a voter; default: never"),
    flag("raft-reap-read-only-node-timeout", "", "the same for read replicas"),
    switch("fk", "false", "enforce foreign keys"),
    flag(
        "auto-vacuum-int",
        "0",
        "how often the leader has the members VACUUM the database, which holds up writes meanwhile; 0: never",
    ),
    flag(
        "auto-optimize-int",
        "24h",
        "how often the leader looks for tables without statistics for the planner, and has the members gather them; 0: never",
    ),
    flag(
        "extensions-path",
        "",
        "extensions of SQLite, the same on all members (docs/extensions.md): files, directories, and archives (zip, tar.gz) \
         of them, separated by commas",
    ),
    flag(
        "extensions-former",
        "",
        "the same of extensions that the cluster still has, or had, and is not to have any more: of use to members with an \
         empty disk",
    ),
    flag(
        "extensions-modules",
        "",
        "modules of them whose virtual tables writes may use because they are the same everywhere, separated by commas",
    ),
    switch(
        "managed",
        "false",
        "with an empty disk wait for the operator instead of making or joining a cluster",
    ),
    flag(
        "log-segment-size",
        "64MiB",
        "size of the files of Raft's log; a new one begins with 4 MiB and doubles up to this",
    ),
    flag("log-retention", "256MiB", "how much of Raft's log is kept at most for followers that were away"),
    flag(
        "write-step-limit",
        "100000000",
        "steps of SQLite's virtual machine that the statements of one write may take together; 0: no limit",
    ),
    flag(
        "scrub-period",
        "24h",
        "how often every page of the database is compared with what was written there",
    ),
    flag("consistency-period", "10s", "how often the members compare the checksums of their databases"),
    flag("write-queue-capacity", "1024", "queued requests that wait at most"),
    flag("write-queue-batch-size", "128", "queued statements that are applied at once"),
    flag("write-queue-timeout", "50ms", "how long a queued request waits for others"),
    switch("write-queue-tx", "false", "apply queued statements that are applied at once whole or not at all"),
    flag(
        "wal-limit",
        "256MiB",
        "size of SQLite's WAL from which on long queries have to give way to checkpoints",
    ),
    flag(
        "query-memory-limit",
        "512MiB",
        "memory that SQLite may take for all queries together, and half of it for one; 0: no limit",
    ),
    flag(
        "disk-reserve",
        "128MiB",
        "free space below which no more writes are taken (at most an eighth of the disk)",
    ),
    flag("log-level", "info", "what is logged: error, warn, info, debug, trace, or a filter by module"),
    flag("log-format", "auto", "how it is logged: text, json, or auto (text on a terminal)"),
];

/// What the value of a flag without effect has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A number that is not negative.
    Number,
    /// A duration.
    Duration,
    /// True or false; true by being there.
    Switch,
}

/// A flag of rqlite that may go on being set: what it is about is done otherwise here, or not at all.
#[derive(Debug)]
pub struct WithoutEffect {
    /// Its name, in rqlite and in all three places here.
    pub name: &'static str,
    /// What its value has to be.
    pub kind: Kind,
    /// Why it has no effect.
    pub reason: &'static str,
}

const fn without_effect(name: &'static str, kind: Kind, reason: &'static str) -> WithoutEffect {
    WithoutEffect { name, kind, reason }
}

const NO_SNAPSHOTS: &str =
    "the database file is the snapshot, and Raft's log is cut by -log-retention once that is synced";
const NO_PROFILES: &str = "the process does not profile itself; perf does that from without";

/// All of them.
pub const WITHOUT_EFFECT: &[WithoutEffect] = &[
    without_effect("raft-log-level", Kind::Text, "Raft's events are in the log of -log-level, by module"),
    without_effect(
        "cluster-connect-timeout",
        Kind::Duration,
        "members give each other 1.5 s to connect, and try again",
    ),
    without_effect("raft-snap", Kind::Number, NO_SNAPSHOTS),
    without_effect("raft-snap-wal-size", Kind::Number, NO_SNAPSHOTS),
    without_effect("raft-snap-int", Kind::Duration, NO_SNAPSHOTS),
    without_effect(
        "raft-leader-lease-timeout",
        Kind::Duration,
        "the lease follows from -raft-election-timeout",
    ),
    without_effect("raft-commit-timeout", Kind::Duration, "followers learn at once what is committed"),
    without_effect(
        "raft-remove-shutdown",
        Kind::Switch,
        "Raft goes on until the process ends; -raft-cluster-remove-shutdown leaves the cluster",
    ),
    without_effect("compress-snap-transport", Kind::Switch, "a snapshot goes to a member as it is on disk"),
    without_effect("db-max-ro-conns", Kind::Number, "connections for reading are kept by need"),
    without_effect("cpu-profile", Kind::Text, NO_PROFILES),
    without_effect("mem-profile", Kind::Text, NO_PROFILES),
    without_effect("trace-profile", Kind::Text, NO_PROFILES),
];

/// A name that may be set, as the table has it, and whether it is true by being there: of a flag, or of one without
/// effect.
pub fn settable(name: &str) -> Option<(&'static str, bool)> {
    let without_effect = || WITHOUT_EFFECT.iter().find(|flag| flag.name == name);
    find(name)
        .map(|flag| (flag.name, flag.boolean))
        .or_else(|| without_effect().map(|flag| (flag.name, flag.kind == Kind::Switch)))
}

/// All names that may be set.
pub fn settable_names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|flag| flag.name).chain(WITHOUT_EFFECT.iter().map(|flag| flag.name))
}

/// Looks a flag up; returns it with its name in the table.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Its name in the environment.
pub fn environment_name(flag: &str) -> String {
    format!("SQLITED_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// The usage, from the table of flags.
pub fn usage() -> String {
    let mut out = String::from(
        "sqlited is one member of a replicated SQLite cluster.\n\n\
         Usage: sqlited [flags] DATA_DIR\n       \
         sqlited drain [DATA_DIR]   hand over leadership and stop the member of DATA_DIR\n       \
         sqlited hash-password      read a password and print its hash, for the file of -auth\n       \
         sqlited restore | verify   bring back what is in a store of backups (-h says how)\n\n\
         Without flags it is a cluster of its own with the client port on localhost:4001.\n\
         Each flag may also be said by a variable (-http-addr by SQLITED_HTTP_ADDR, DATA_DIR by SQLITED_DATA_DIR)\n\
         or in the file of -config.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let shown = if flag.boolean { format!("-{}", flag.name) } else { format!("-{} VALUE", flag.name) };
        let default = if flag.default.is_empty() || flag.boolean {
            String::new()
        } else {
            format!(" (default {})", flag.default)
        };
        out.push_str(&format!("  {shown:<34} {}{default}\n", flag.help));
    }
    let names: Vec<String> = WITHOUT_EFFECT.iter().map(|flag| format!("-{}", flag.name)).collect();
    out.push_str(&format!(
        "\nKnown from rqlite, and without effect (the log says why): {}\n",
        names.join(" ")
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_names_every_flag() {
        let usage = usage();
        assert!(FLAGS.iter().all(|flag| usage.contains(&format!("-{} ", flag.name))));
    }
}
