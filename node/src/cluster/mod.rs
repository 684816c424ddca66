//! How a member with an empty disk comes to be of a cluster: alone, with others that are new too, by joining, or by
//! waiting for the operator. What it once became is on disk and is never asked again.

mod by_registry;

pub use by_registry::{RegistryContact, stay_registered};

use crate::config::Config;
use crate::discovery::{Discovery, RegistryError};
use crate::observe::Observe as _;
use crate::raft::{Consensus, Joined, RequestError};
use client::admin::{AddLearner, NodeId, Refusal, RefusalReason};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two attempts to become a voter after having joined.
const PROMOTION_PAUSE: Duration = Duration::from_millis(200);
/// Between two rounds of asking around before a bootstrap.
const NOTIFY_PAUSE: Duration = Duration::from_millis(250);

/// The member did not come to be of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It could not be initialised.
    #[error("initialise a new cluster: {}", .0.message)]
    Initialise(Refusal),
    /// Nobody let it in.
    #[error("unable to join the cluster through any of {addresses} in {attempts} attempts: {last}")]
    Join {
        /// Who was asked.
        addresses: String,
        /// How often.
        attempts: u32,
        /// The last answer.
        last: String,
    },
    /// It is a cluster already.
    #[error(
        "this member is a cluster of its own ({own}), and {address} of -join is of another one ({theirs}): with an empty data \
         directory it joins that one, without -join it goes on as what it is"
    )]
    OtherCluster {
        /// Its cluster.
        own: String,
        /// Who was asked.
        address: String,
        /// Of which cluster they are.
        theirs: String,
    },
    /// The registry is not to be asked so.
    #[error(transparent)]
    Registry(RegistryError),
    /// The others did not appear.
    #[error("only {found} of {expected} expected members appeared within {within:?}")]
    Bootstrap {
        /// How many did, this one included.
        found: usize,
        /// How many were expected.
        expected: usize,
        /// How long it waited.
        within: Duration,
    },
}

/// Makes the member one of a cluster, as configured.
pub async fn form(
    consensus: &Arc<Consensus>,
    config: &Config,
    contact: &RegistryContact,
) -> Result<(), FormError> {
    if consensus.identity().cluster().is_some() {
        consensus.go_on_founding().await.map_err(FormError::Initialise)?;
        if !config.managed {
            stay(consensus, config).await?;
            correct_addresses(consensus, config).await;
        }
        return Ok(());
    }
    if config.managed {
        tracing::info!("empty disk; waiting to be initialised or added to a cluster");
        return Ok(());
    }
    if consensus.identity().former().is_some() {
        return come_back(consensus, config).await;
    }
    if let Some(registry) = config.join.registry() {
        return by_registry::form(consensus, config, registry, contact).await;
    }
    if config.bootstrap_expect > 0 {
        return bootstrap_with_others(consensus, config).await;
    }
    if !config.join.is_empty() {
        return join(consensus, config).await;
    }
    let cluster_id = uuid::Uuid::new_v4().to_string();
    consensus.initialise(&cluster_id).await.map_err(FormError::Initialise)
}

/// Ends a member that is a cluster of its own and is told to join another one, as in rqlite: it would seem to have joined.
/// Only where the others are named one by one, and say of which cluster they are. Names are used again by others.
async fn stay(consensus: &Consensus, config: &Config) -> Result<(), FormError> {
    let (Some(own), Discovery::Listed(addresses)) = (consensus.identity().cluster(), &config.join) else {
        return Ok(());
    };
    if !consensus.is_alone() {
        return Ok(());
    }
    let asked =
        addresses.iter().map(|address| async { (address.clone(), consensus.cluster_at(address).await) });
    for (address, answer) in join_all(asked).await {
        match answer {
            Ok(Some(theirs)) if theirs != own.cluster_id => {
                return Err(FormError::OtherCluster { own: own.cluster_id, address, theirs });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "this member is a cluster of its own and goes on as that: it does not join {address}");
            }
        }
    }
    Ok(())
}

/// Where other members are now; nowhere, if that cannot be found out at the moment.
async fn found(config: &Config) -> Vec<String> {
    match config.join.addresses().await {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::warn!(names = %config.join, %error, "cannot look up other members");
            Vec::new()
        }
    }
}

async fn join(consensus: &Consensus, config: &Config) -> Result<(), FormError> {
    let mut last = String::from("not tried");
    for attempt in 1..=config.join_attempts {
        for address in &found(config).await {
            match consensus.ask_to_join(address, !config.non_voter).await {
                Ok(joined) => {
                    tracing::info!(cluster = joined.cluster_id, through = address, "joined");
                    return become_voter(consensus, config, joined, address.clone()).await;
                }
                Err(error) => {
                    last = format!("{address}: {error}");
                    tracing::warn!(attempt, %address, %error, "not let in yet");
                }
            }
        }
        if attempt < config.join_attempts {
            tokio::time::sleep(config.join_interval).await;
        }
    }
    Err(FormError::Join { addresses: config.join.to_string(), attempts: config.join_attempts, last })
}

/// A member that may have forgotten what it promised comes back to its cluster as a new one, however long it takes until it
/// is let in: making a cluster would forget what that one has.
async fn come_back(consensus: &Consensus, config: &Config) -> Result<(), FormError> {
    let mut refused_by = BTreeSet::new();
    loop {
        for address in &found(config).await {
            match consensus.ask_to_join(address, !config.non_voter).await {
                Ok(joined) => {
                    tracing::info!(
                        cluster = joined.cluster_id,
                        through = address,
                        "came back as a new member"
                    );
                    return become_voter(consensus, config, joined, address.clone()).await;
                }
                Err(error @ RequestError::Refused(_)) if refused_by.insert(address.clone()) => {
                    tracing::warn!(%address, %error, "does not let this member in; asking again");
                }
                Err(error) => tracing::debug!(%address, %error, "not let in yet"),
            }
        }
        tokio::time::sleep(config.join_interval).await;
    }
}

/// Asks again until the leader has promoted this member, which it does once it has caught up: the member that let it in,
/// and as long as that does not answer, the others.
async fn become_voter(
    consensus: &Consensus,
    config: &Config,
    mut joined: Joined,
    mut through: String,
) -> Result<(), FormError> {
    while !joined.voter && !config.non_voter {
        tokio::time::sleep(PROMOTION_PAUSE).await;
        match consensus.ask_to_join(&through, true).await {
            Ok(again) => joined = again,
            Err(error) => {
                tracing::debug!(address = through, %error, "not promoted yet");
                for address in found(config).await {
                    match consensus.ask_to_join(&address, true).await {
                        Ok(again) => (joined, through) = (again, address),
                        Err(error) => tracing::debug!(%address, %error, "not promoted yet"),
                    }
                }
            }
        }
    }
    Ok(())
}

/// All expected members tell each other that they are there. Of those, the one with the lowest Raft id makes the
/// cluster; the others become members when it calls them. A cluster that exists already is joined instead.
async fn bootstrap_with_others(consensus: &Arc<Consensus>, config: &Config) -> Result<(), FormError> {
    let deadline = Instant::now() + config.bootstrap_expect_timeout;
    let own_id = consensus.identity().node_id();
    // Who is not there yet comes; a refusal lasts until somebody does something, and is said once.
    let mut refused_by = BTreeSet::new();
    while consensus.identity().cluster().is_none() {
        for address in &found(config).await {
            match consensus.ask_to_join(address, true).await {
                Ok(joined) => return become_voter(consensus, config, joined, address.clone()).await,
                Err(RequestError::Refused(refusal)) if refusal.reason == RefusalReason::NoLeader => {
                    if let Err(error) = consensus.notify(address).await {
                        tracing::debug!(%address, %error, "not notified");
                    }
                }
                Err(error @ RequestError::Refused(_)) if refused_by.insert(address.clone()) => {
                    tracing::warn!(%address, %error, "does not let this member in; asking again");
                }
                Err(error) => tracing::debug!(%address, %error, "not there yet"),
            }
        }
        let there: BTreeMap<NodeId, AddLearner> = consensus.notified().current();
        let first = there.keys().next().copied();
        if there.len() >= config.bootstrap_expect && first == Some(own_id) {
            let cluster_id = uuid::Uuid::new_v4().to_string();
            let voters = there.into_values().take(config.bootstrap_expect);
            return consensus.bootstrap(&cluster_id, voters).await.map_err(FormError::Initialise);
        }
        if Instant::now() >= deadline {
            let within = config.bootstrap_expect_timeout;
            return Err(FormError::Bootstrap {
                found: there.len(),
                expected: config.bootstrap_expect,
                within,
            });
        }
        tokio::time::sleep(NOTIFY_PAUSE).await;
    }
    Ok(())
}

/// A member that comes back under other addresses tells the leader.
async fn correct_addresses(consensus: &Consensus, config: &Config) {
    loop {
        let report = consensus.report();
        let own = report.membership.members.iter().find(|m| m.node_id == report.node_id);
        let known =
            own.is_some_and(|m| m.raft_address == report.raft_address && m.api_address == report.api_address);
        if known {
            return;
        }
        // The leader may be known only by an address that it does not have any more.
        let addresses =
            report.leading_member().map(|m| m.raft_address.clone()).into_iter().chain(found(config).await);
        for address in addresses {
            match consensus.ask_to_join(&address, false).await {
                Ok(_) => tracing::info!(through = address, "told the leader of the new addresses"),
                Err(error) => {
                    tracing::debug!(%address, %error, "the leader does not know the new addresses yet")
                }
            }
        }
        tokio::time::sleep(PROMOTION_PAUSE).await;
    }
}
