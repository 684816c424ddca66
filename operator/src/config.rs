//! The command line.

use crate::lease::LeaseTiming;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::runtime::watcher;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Reconciles SqliteCluster resources.
#[derive(Debug, Parser)]
#[command(name = "sqlite-operator", version, about, max_term_width = 100)]
pub struct Config {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(RunConfig),
    /// Print the custom resource definitions, or write or check the files that are generated from them.
    Crds(CrdsConfig),
}

/// How to run the operator.
#[derive(Clone, Debug, Args)]
pub struct RunConfig {
    /// Namespaces to watch, separated by commas; none: all of them.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',', visible_aliases = ["namespace", "namespaces"])]
    pub watch_namespaces: Vec<String>,
    /// Which SqliteClusters to look after, as a label selector; none: all of them. Operators of which each has its own
    /// can share a namespace.
    #[arg(long, env = "CLUSTER_SELECTOR", value_name = "SELECTOR")]
    pub cluster_selector: Option<String>,
    /// Image of members whose spec names none.
    #[arg(long, env = "NODE_IMAGE")]
    pub node_image: String,
    /// Where to serve /healthz, /readyz and /metrics.
    #[arg(long, env = "METRICS_ADDR", default_value = "0.0.0.0:8080")]
    pub metrics_addr: SocketAddr,
    /// How to write the log; what to write is chosen by the variable RUST_LOG.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// Namespace of the lease by which one of several operators is chosen.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of that lease.
    #[arg(long, env = "LEASE_NAME", default_value = "sqlite-operator")]
    pub lease_name: String,
    /// Seconds after which a lease that is not renewed is free.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub lease_duration_seconds: u64,
    /// Milliseconds between renewals of the lease.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(100..=100_000))]
    pub lease_renew_milliseconds: u64,
    /// Name of this process in the lease and in events.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
}

impl RunConfig {
    /// Durations of the lease.
    pub fn lease_timing(&self) -> LeaseTiming {
        LeaseTiming {
            duration: Duration::from_secs(self.lease_duration_seconds),
            renew: Duration::from_millis(self.lease_renew_milliseconds),
        }
    }

    /// The watch of the clusters to look after.
    pub fn watched_clusters(&self) -> watcher::Config {
        match self.cluster_selector.as_deref().map(str::trim) {
            Some(selector) if !selector.is_empty() => watcher::Config::default().labels(selector),
            _ => watcher::Config::default(),
        }
    }

    /// Whether all clusters are to be looked after, and none is left to another operator.
    pub fn selects_all(&self) -> bool {
        self.cluster_selector.as_deref().is_none_or(|selector| selector.trim().is_empty())
    }

    /// Namespaces to watch; `None` stands for all.
    pub fn scopes(&self) -> Vec<Option<String>> {
        let named: Vec<_> =
            self.watch_namespaces.iter().map(|ns| ns.trim()).filter(|ns| !ns.is_empty()).collect();
        if named.is_empty() {
            return vec![None];
        }
        let mut scopes: Vec<_> = named.into_iter().map(|ns| Some(ns.to_owned())).collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }
}

/// How to write the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// What to do with the definitions.
#[derive(Clone, Debug, Args)]
pub struct CrdsConfig {
    /// Write the generated files (crds/, the chart's templates and docs/crds.md) below this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    pub dir: Option<PathBuf>,
    /// Fail if the generated files below this directory are not what this program would write.
    #[arg(long, value_name = "DIR")]
    pub check: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Config::command().debug_assert();
    }

    fn run(args: &[&str]) -> RunConfig {
        let all = ["sqlite-operator", "run", "--node-image=i"].into_iter().chain(args.iter().copied());
        let Command::Run(run) = Config::parse_from(all).command else { panic!("not run") };
        run
    }

    #[test]
    fn namespaces_are_a_set_and_none_is_all() {
        assert_eq!(run(&[]).scopes(), [None]);
        assert_eq!(
            run(&["--watch-namespaces=b,a", "--namespace", "b"]).scopes(),
            [Some("a".into()), Some("b".into())]
        );
    }

    #[test]
    fn a_selector_that_is_empty_selects_all() {
        let selector = |args: &[&str]| run(args).watched_clusters().label_selector;
        assert_eq!(selector(&[]), None);
        assert_eq!(selector(&["--cluster-selector="]), None);
        assert_eq!(selector(&["--cluster-selector", "team in (a, b)"]).as_deref(), Some("team in (a, b)"));
    }
}
