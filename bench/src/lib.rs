//! A load generator for `sqlited`, and for its peers under the same loads.
//!
//! Closed loop: each client has one connection and one request in flight, so that latency and throughput are
//! measured together. While it runs, the CPU time, the bytes written and the memory of the server processes are read
//! from `/proc`. Each measurement is one JSON line ([`Record`](record::Record)); [`report`] makes tables of them.

pub mod cli;
mod error;
mod etcd;
mod failover;
mod http1;
mod load;
mod matrix;
mod protobuf;
mod random;
pub mod record;
pub mod report;
mod rqlite;
mod target;
mod usage;
mod work;

pub use error::BenchError;

use cli::{Cli, Command, Common, Kind, To};
use etcd::Etcd;
use failover::Failover;
use matrix::Matrix;
use record::Journal;
use rqlite::Rqlite;
use std::sync::Arc;

/// Does what the command line asks for.
pub async fn run(cli: Cli) -> Result<(), BenchError> {
    match cli.command {
        Command::Run(options) => {
            let mut journal = Journal::open(options.common.out.as_deref())?;
            match options.common.kind {
                Kind::Rqlite => {
                    let (target, _) = rqlite_target(&options.common, options.to).await?;
                    Matrix::new(target, &options)?.run(&mut journal).await
                }
                Kind::Etcd => {
                    let (target, _) = etcd_target(&options.common, options.to).await?;
                    Matrix::new(target, &options)?.run(&mut journal).await
                }
            }
        }
        Command::Failover(options) => {
            let mut journal = Journal::open(options.common.out.as_deref())?;
            match options.common.kind {
                Kind::Rqlite => {
                    let (target, leader) = rqlite_target(&options.common, To::Leader).await?;
                    Failover::new(target, leader, &options)?.run(&mut journal).await
                }
                Kind::Etcd => {
                    let (target, leader) = etcd_target(&options.common, To::Leader).await?;
                    Failover::new(target, leader, &options)?.run(&mut journal).await
                }
            }
        }
        Command::Report { files } => {
            print!("{}", report::tables(&record::read(&files)?));
            Ok(())
        }
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

async fn rqlite_target(common: &Common, to: To) -> Result<(Arc<Rqlite>, usize), BenchError> {
    let mut target = Rqlite::new(common.addrs.clone())?;
    let leader = target::await_leader(|| target.leader()).await?;
    target.first = first(to, leader);
    Ok((Arc::new(target), leader))
}

async fn etcd_target(common: &Common, to: To) -> Result<(Arc<Etcd>, usize), BenchError> {
    let mut target = Etcd::new(common.addrs.clone());
    let leader = target::await_leader(|| target.leader()).await?;
    target.first = first(to, leader);
    Ok((Arc::new(target), leader))
}
