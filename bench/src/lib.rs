//! A load generator for `sqlited`, and for its peers under the same loads.
//!
//! Closed loop: each client has one connection and one request in flight, so that latency and throughput are
//! measured together. While it runs, the CPU time, the bytes written and the memory of the server processes are read
//! from `/proc`. Each measurement is one JSON line ([`Record`](record::Record)); [`report`] makes tables of them.

mod access;
pub mod cli;
pub mod compare;
mod dqlite;
mod error;
mod etcd;
mod failover;
mod http1;
mod load;
mod matrix;
mod plan;
mod protobuf;
pub mod random;
pub mod record;
pub mod report;
mod rqlite;
pub mod target;
mod usage;
pub mod work;

pub use error::BenchError;

use access::Access;
use cli::{Cli, Command, FailoverOptions, Kind, RunOptions, To};
use dqlite::Dqlite;
use etcd::Etcd;
use failover::Failover;
use matrix::Matrix;
use plan::Plan;
use record::Journal;
use rqlite::Rqlite;
use std::sync::Arc;
use target::Target;

/// Does what the command line asks for.
pub async fn run(cli: Cli) -> Result<(), BenchError> {
    let command = match cli.command {
        Command::Report { files } => {
            print!("{}", report::tables(&record::read(&files)?));
            return Ok(());
        }
        Command::Pending(options) => {
            println!(
                "{}",
                Plan::of(&options.plan, &options.tag).missing(&record::read_if_any(&options.out)?)
            );
            return Ok(());
        }
        Command::Compare(options) => return compare::write(&options),
        Command::Form { addrs } => return Dqlite::new(addrs).form().await,
        command @ (Command::Run(_) | Command::Failover(_)) => command,
    };
    let (Command::Run(RunOptions { common, .. }) | Command::Failover(FailoverOptions { common, .. })) =
        &command
    else {
        return Ok(());
    };
    match common.kind {
        Kind::Rqlite => measure(Rqlite::new(common.addrs.clone(), Access::read(common)?)?, &command).await,
        Kind::Dqlite => measure(Dqlite::new(common.addrs.clone()), &command).await,
        Kind::Etcd => measure(Etcd::new(common.addrs.clone()), &command).await,
    }
}

/// Measures a cluster: `bench run` and `bench failover`, for whoever brings a target of its own.
pub async fn measure<T: Target>(mut target: T, command: &Command) -> Result<(), BenchError> {
    match command {
        Command::Run(options) => {
            let leader = target::await_leader(&target).await?;
            target.start_at(first(options.plan.to, leader));
            let mut journal = Journal::open(options.common.out.as_deref())?;
            Matrix::new(Arc::new(target), options)?.run(&mut journal).await
        }
        Command::Failover(options) => {
            let leader = target::await_leader(&target).await?;
            target.start_at(first(To::Leader, leader));
            let mut journal = Journal::open(options.common.out.as_deref())?;
            Failover::new(Arc::new(target), leader, options)?.run(&mut journal).await
        }
        Command::Report { .. } | Command::Pending(_) | Command::Compare(_) | Command::Form { .. } => Ok(()),
    }
}

/// Which address clients start with: none spreads them over all.
fn first(to: To, leader: usize) -> Option<usize> {
    match to {
        To::Leader => Some(leader),
        To::Follower => Some(leader + 1),
        To::Spread => None,
    }
}
