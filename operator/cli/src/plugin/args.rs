//! Command line of `kubectl sqlite`.

use super::backups::Moment;
use super::logs::Lines;
use crate::render::Mode;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  kubectl sqlite status orders --watch
  kubectl sqlite plan orders -f orders.yaml          which pods the edited manifest would restart, in order
  kubectl sqlite sql orders 'SELECT count(*) FROM t'
  kubectl sqlite backup now orders
  kubectl sqlite restore orders --to 2026-01-02T03:04:05Z --confirm orders
  kubectl sqlite branch orders orders-test --to 2026-01-02T03:04:05Z
  kubectl sqlite restart orders --dry-run            prints the change instead of making it
  kubectl sqlite upgrade abort orders
  kubectl sqlite logs orders --follow --json";

/// SQLite clusters of a Kubernetes.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubectl-sqlite", bin_name = "kubectl sqlite", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct PluginArgs {
    /// Namespace [default: that of the kubeconfig]
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print the change as YAML instead of making it
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// A picture of a cluster
    Status {
        /// Name of the cluster
        name: String,
        /// Show each change
        #[arg(short, long)]
        watch: bool,
    },
    /// The members, one a line
    Members {
        /// Name of the cluster
        name: String,
    },
    /// A shell on the cluster, or the given statements
    #[command(visible_alias = "shell")]
    Sql {
        /// Name of the cluster
        name: String,
        /// Statements to run; none: a shell
        sql: Vec<String>,
        /// How rows are shown
        #[arg(short, long, value_enum)]
        mode: Option<Mode>,
    },
    /// Hands leadership to a member
    Promote {
        /// Name of the cluster
        name: String,
        /// Who shall lead
        member: String,
    },
    /// Restarts all members, one after the other
    Restart {
        /// Name of the cluster
        name: String,
    },
    /// Which pods would be restarted, in order
    Plan {
        /// Name of the cluster
        name: String,
        /// A manifest in the place of the object's spec
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
    /// An update of the members
    Upgrade {
        /// What to do
        #[command(subcommand)]
        verb: UpgradeVerb,
    },
    /// Takes traffic and leadership from a member
    Fence {
        /// Name of the cluster
        name: String,
        /// Which member
        member: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Gives traffic back to a member
    Unfence {
        /// Name of the cluster
        name: String,
        /// Which member
        member: String,
    },
    /// Takes all members away and keeps their volumes
    Hibernate {
        /// Name of the cluster
        name: String,
    },
    /// Brings a hibernated cluster back
    Wake {
        /// Name of the cluster
        name: String,
    },
    /// Stops reconciliation
    Pause {
        /// Name of the cluster
        name: String,
    },
    /// Starts reconciliation again
    Resume {
        /// Name of the cluster
        name: String,
    },
    /// What happened to a cluster
    Events {
        /// Name of the cluster
        name: String,
    },
    /// What the members log
    Logs {
        /// Name of the cluster
        name: String,
        /// Which member [default: all of them]
        member: Option<String>,
        /// Which lines
        #[command(flatten)]
        lines: Lines,
    },
    /// Everything that a bug report needs, without data and secrets
    Report {
        /// Name of the cluster
        name: String,
    },
    /// Whether a Kubernetes node can be drained, by the clusters of all namespaces or of the one that is named; exit code 1 if
    /// a cluster would stop serving
    DrainCheck {
        /// Name of the Kubernetes node
        node: String,
    },
    /// Deletes volumes that removed members left
    GcVolumes {
        /// Name of the cluster
        name: String,
        /// Really
        #[arg(long)]
        yes: bool,
    },
    /// Volumes of a cluster
    Volumes {
        /// What to do
        #[command(subcommand)]
        verb: VolumesVerb,
    },
    /// Backups of a cluster
    Backup {
        /// What to do
        #[command(subcommand)]
        verb: BackupVerb,
    },
    /// Brings a cluster to another moment, in place; what it holds now is kept as a backup first
    Restore {
        /// Name of the cluster
        name: String,
        /// latest, backup/NAME, the index of an entry, or a time as 2026-01-02T03:04:05Z
        #[arg(long, required_unless_present = "undo")]
        to: Option<Moment>,
        /// Undo this SqliteRestore
        #[arg(long, conflicts_with = "to", value_name = "RESTORE")]
        undo: Option<String>,
        /// The cluster's name once more; without it the restore waits for spec.approval.confirmClusterName
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
    /// Makes a new cluster that begins where another one was at a moment
    Branch {
        /// Name of the cluster
        name: String,
        /// Name of the new one
        new: String,
        /// latest, backup/NAME, the index of an entry, or a time as 2026-01-02T03:04:05Z
        #[arg(long, default_value = "latest")]
        to: Moment,
    },
    /// Consents to go on with what one survivor holds, after a quorum was lost for good
    RecoverQuorum {
        /// Name of the cluster
        name: String,
        /// Which member
        #[arg(long)]
        survivor: String,
    },
    /// Consents to pass over an entry of the log that ends every member, and to lose what only it would have written
    SkipEntry {
        /// Name of the cluster
        name: String,
        /// Its index, as status.fatalEntry tells it
        index: i64,
    },
}

/// What to do with an update.
#[derive(Clone, Debug, Subcommand)]
pub enum UpgradeVerb {
    /// Lets a supervised update begin
    Approve {
        /// Name of the cluster
        name: String,
    },
    /// Takes back the update that waits or is under way, by the edit of the spec that a person would make
    Abort {
        /// Name of the cluster
        name: String,
    },
}

/// What to do with volumes.
#[derive(Clone, Debug, Subcommand)]
pub enum VolumesVerb {
    /// Deletes those that removed members left, as gc-volumes does
    Gc {
        /// Name of the cluster
        name: String,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// What to do with backups.
#[derive(Clone, Debug, Subcommand)]
pub enum BackupVerb {
    /// Makes a backup at once
    Now {
        /// Name of the cluster
        name: String,
        /// Name of the SqliteBackup [default: the cluster's with the time]
        #[arg(long)]
        called: Option<String>,
    },
    /// Backups of a cluster, one a line
    List {
        /// Name of the cluster
        name: String,
        /// What is in the store, with or without a SqliteBackup, and which moments can be restored; a member is asked
        #[arg(long)]
        in_store: bool,
    },
    /// Deletes a backup, also from the store: one that undoes a restore, or whose schedule is gone, goes by nothing else
    Delete {
        /// Name of the SqliteBackup
        backup: String,
    },
    /// Has a backup restored for a test
    Verify {
        /// Name of the SqliteBackup
        backup: String,
    },
    /// Makes a SqliteBackup of what is in the store already
    Import {
        /// Name of the cluster
        name: String,
        /// Where it is, below the prefix and the cluster's id
        path: String,
        /// Name of the SqliteBackup [default: the cluster's with the time]
        #[arg(long)]
        called: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        PluginArgs::command().debug_assert();
    }
}
