//! Coming to be of a cluster by a registry ([`Registry`]), and keeping there who leads.

use super::{FormError, become_voter};
use crate::config::Config;
use crate::discovery::{Entry, Registered, Registry, RegistryError};
use crate::raft::Consensus;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the leader looks whether it is still registered.
const PERIOD: Duration = Duration::from_secs(30);
/// After that did not go well.
const RETRY: Duration = Duration::from_secs(3);
/// Between two looks whether this member leads.
const LOOK: Duration = Duration::from_secs(1);

/// How a registry was last met. What goes wrong is logged when it begins, changes and ends.
#[derive(Debug, Default)]
pub struct RegistryContact {
    last: Mutex<Option<jiff::Timestamp>>,
    trouble: Mutex<Option<String>>,
}

impl RegistryContact {
    /// When it last answered, and what is wrong now.
    pub fn report(&self) -> (Option<jiff::Timestamp>, Option<String>) {
        (*self.last.lock(), self.trouble.lock().clone())
    }

    fn answered(&self) {
        *self.last.lock() = Some(crate::clock::now());
    }

    fn is_well(&self) {
        if self.trouble.lock().take().is_some() {
            tracing::info!("the registry of -disco-mode is in order again");
        }
    }

    fn goes_wrong(&self, why: String, next: &'static str) {
        let mut trouble = self.trouble.lock();
        if trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "the registry of -disco-mode: {next}");
            *trouble = Some(why);
        }
    }
}

/// This member as it is registered.
fn registered(consensus: &Consensus, config: &Config) -> Registered {
    let scheme = if config.http_tls.is_some() { "https" } else { "http" };
    Registered {
        id: config.node_id.clone(),
        api_addr: format!("{scheme}://{}", config.http_adv_addr),
        addr: config.raft_adv_addr.clone(),
        node_id: Some(consensus.identity().node_id()),
    }
}

/// What a member with an empty disk does.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It registers itself, and makes the cluster if it is the first.
    Register,
    /// It makes the cluster: it registered itself and ended before it could.
    Found,
    /// It asks to be let in.
    Join(String),
    /// It waits.
    Wait(String),
}

fn step(own: &Registered, is_voter: bool, entry: &Entry) -> Step {
    match &entry.registered {
        None if is_voter => Step::Register,
        None => Step::Wait("nobody is registered yet, and a read replica makes no cluster".into()),
        Some(leader) if leader.node_id == own.node_id => Step::Found,
        // Founding another cluster would tear the members apart, if there are others.
        Some(leader) if leader.id == own.id || leader.addr == own.addr => Step::Wait(format!(
            "{} is registered as the leader, from another disk; waiting until another member leads (if this was the \
             only one, delete the key to begin anew)",
            leader.id
        )),
        Some(leader) => Step::Join(leader.addr.clone()),
    }
}

/// Makes the cluster or joins it, however long the registry or the leader takes.
pub async fn form(
    consensus: &Arc<Consensus>,
    config: &Config,
    registry: &Registry,
    contact: &RegistryContact,
) -> Result<(), FormError> {
    let own = registered(consensus, config);
    loop {
        match attempt(consensus, config, registry, contact, &own).await {
            Ok(Some(formed)) => return formed,
            Ok(None) => {}
            Err(error) if error.is_final() => return Err(FormError::Registry(error)),
            Err(error) => contact.goes_wrong(error.to_string(), "waiting for it to make or join a cluster"),
        }
        sleep(config.join_interval).await;
    }
}

/// None: not yet.
async fn attempt(
    consensus: &Arc<Consensus>,
    config: &Config,
    registry: &Registry,
    contact: &RegistryContact,
    own: &Registered,
) -> Result<Option<Result<(), FormError>>, RegistryError> {
    let entry = registry.read().await?;
    contact.answered();
    match step(own, !config.non_voter, &entry) {
        Step::Register if !registry.write(own, entry.revision).await? => {
            tracing::info!(key = registry.key(), "another member registered first");
            Ok(None)
        }
        Step::Register | Step::Found => {
            contact.is_well();
            tracing::info!(key = registry.key(), "registered as the first member");
            let cluster_id = uuid::Uuid::new_v4().to_string();
            Ok(Some(consensus.initialise(&cluster_id).await.map_err(FormError::Initialise)))
        }
        Step::Join(address) => match consensus.ask_to_join(&address, !config.non_voter).await {
            Ok(joined) => {
                contact.is_well();
                tracing::info!(cluster = joined.cluster_id, through = address, "joined");
                Ok(Some(become_voter(consensus, config, joined, address).await))
            }
            Err(error) => {
                let why = format!(
                    "{address} is registered in {}, and does not let this member in: {error}",
                    registry.key()
                );
                contact.goes_wrong(why, "asking again until it does, or another member leads");
                Ok(None)
            }
        },
        Step::Wait(why) => {
            contact.goes_wrong(why, "waiting");
            Ok(None)
        }
    }
}

/// Keeps this member registered whenever it leads, for good.
pub async fn stay_registered(
    consensus: Arc<Consensus>,
    config: Config,
    registry: Registry,
    contact: Arc<RegistryContact>,
) {
    let own = registered(&consensus, &config);
    let mut next = Instant::now();
    loop {
        if !consensus.is_leader() {
            next = Instant::now();
        } else if Instant::now() >= next {
            next = Instant::now() + PERIOD;
            match register(&consensus, &registry, &own).await {
                Ok(()) => {
                    contact.answered();
                    contact.is_well();
                }
                Err(error) => {
                    contact
                        .goes_wrong(error.to_string(), "new members do not find the leader until it is back");
                    next = Instant::now() + RETRY;
                }
            }
        }
        consensus.await_leader_change(LOOK).await;
    }
}

async fn register(consensus: &Consensus, registry: &Registry, own: &Registered) -> Result<(), RegistryError> {
    loop {
        let entry = registry.read().await?;
        // Asked after reading: a leader that came later wrote after that, and then this write is refused.
        if entry.registered.as_ref() == Some(own) || !consensus.leads_by_quorum().await {
            return Ok(());
        }
        if registry.write(own, entry.revision).await? {
            tracing::info!(key = registry.key(), "registered as the leader");
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::admin::NodeId;

    fn member(id: &str, node_id: Option<u64>) -> Registered {
        let node_id = node_id.map(NodeId);
        Registered { id: id.into(), api_addr: String::new(), addr: format!("{id}:4002"), node_id }
    }

    #[test]
    fn steps_by_table() {
        let own = member("a", Some(1));
        for (is_voter, there, expected) in [
            (true, None, Some(Step::Register)),
            (false, None, None),
            (true, Some(member("a", Some(1))), Some(Step::Found)),
            (true, Some(member("a", Some(2))), None),
            (true, Some(member("a", None)), None),
            (true, Some(member("b", Some(2))), Some(Step::Join("b:4002".into()))),
            (false, Some(member("b", None)), Some(Step::Join("b:4002".into()))),
        ] {
            let entry = Entry { registered: there.clone(), revision: 1 };
            match (step(&own, is_voter, &entry), expected) {
                (Step::Wait(_), None) => {}
                (step, expected) => assert_eq!(Some(step), expected, "{is_voter} {there:?}"),
            }
        }
    }
}
