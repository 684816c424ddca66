//! Leader election among operator processes by a `coordination.k8s.io` Lease.
//!
//! Clocks of different machines are never compared: a lease has run out when its record has not changed for its
//! duration *as this process saw it*. The holder counts from before it sent its last renewal and gives up a margin
//! earlier, so that it has stopped before anyone else can begin.

use crate::clock;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Why the lease is not held any more.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds it.
    #[error("the lease {name} was taken over by {holder}")]
    TakenOver {
        /// Which lease.
        name: String,
        /// By whom.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error("the lease {name} could not be renewed in time")]
    Expired {
        /// Which lease.
        name: String,
    },
}

/// Durations of a lease.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTiming {
    /// How long a record counts.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew: Duration,
}

impl LeaseTiming {
    /// How long after its last renewal a holder still acts.
    fn trust(self) -> Duration {
        self.duration.saturating_sub(self.duration / 5)
    }
}

/// A lease that this process wants to hold.
pub struct LeaderLease {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: LeaseTiming,
    seen: Option<Seen>,
    /// The lease as this process wrote it last: a holder need not read it to renew it.
    written: Option<Lease>,
}

/// A record as it was last seen, and since when.
struct Seen {
    record: (Option<String>, Option<Timestamp>, Option<i32>),
    at: Instant,
}

/// What an attempt came to.
enum Attempt {
    Held,
    Other(String),
}

impl LeaderLease {
    /// The lease `name` in `namespace`, for the process called `identity`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: LeaseTiming) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), identity: identity.to_owned(), timing, seen: None, written: None }
    }

    /// Waits until this process holds the lease.
    pub async fn acquire(mut self) -> HeldLease {
        loop {
            let before = Instant::now();
            match timeout(self.timing.renew, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => return HeldLease { lease: self, renewed: before },
                Ok(Ok(Attempt::Other(holder))) => {
                    tracing::debug!(holder, "standing by");
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the lease could not be taken");
                }
                Err(_) => tracing::debug!("no answer about the lease in time"),
            }
            // Well below the duration, so that a released or expired lease is taken quickly.
            sleep(self.timing.renew / 2).await;
        }
    }

    /// Takes or renews the lease if it is free, run out, or ours. The resource version makes the update fail if
    /// anyone else was quicker.
    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let now = clock::now();
        if let Some(written) = self.written.take() {
            match self.write(written, now).await {
                Ok(true) => return Ok(Attempt::Held),
                // It is not as it was written, or is gone: what it is by now has to be looked at.
                Ok(false) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(None, now)) };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(written) => {
                    self.written = Some(written);
                    Ok(Attempt::Held)
                }
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                    Ok(Attempt::Other("another process".into()))
                }
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        if let Some(holder) = holder.filter(|holder| *holder != self.identity)
            && !self.has_run_out(&spec)
        {
            return Ok(Attempt::Other(holder));
        }
        match self.write(lease, now).await? {
            true => Ok(Attempt::Held),
            // Whether that was a rival, the next attempt will see.
            false => Ok(Attempt::Other("another process".into())),
        }
    }

    /// Writes this process into the lease; false if somebody else wrote since it was read.
    async fn write(&mut self, mut lease: Lease, now: Timestamp) -> Result<bool, kube::Error> {
        lease.spec = Some(self.record(lease.spec.take(), now));
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(written) => {
                self.written = Some(written);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn has_run_out(&mut self, spec: &LeaseSpec) -> bool {
        let record = (
            spec.holder_identity.clone(),
            spec.renew_time.as_ref().map(|time| time.0),
            spec.lease_transitions,
        );
        if let Some(seen) = &self.seen
            && seen.record == record
        {
            let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
            return seen.at.elapsed() >= Duration::from_secs(seconds).max(self.timing.renew);
        }
        self.seen = Some(Seen { record, at: Instant::now() });
        false
    }

    fn record(&self, before: Option<LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            acquire_time: before.acquire_time.filter(|_| ours).or(Some(MicroTime(now))),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            lease_transitions: Some(if ours { transitions } else { transitions + 1 }),
            renew_time: Some(MicroTime(renewal(before.renew_time.map(|time| time.0), now))),
            preferred_holder: None,
            strategy: None,
        }
    }
}

/// The time of a renewal at `now`: always later than that of the one `before`. By it the others see that the record is another
/// one, also where the clock of the holder has stopped or was set back.
fn renewal(before: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let later = before.and_then(|before| before.checked_add(SignedDuration::from_micros(1)).ok());
    later.map_or(now, |later| later.max(now))
}

/// How long a renewal may take of what is `left`: an API server that has too much to do answers late rather than never, and
/// yet another attempt shall be possible.
fn patience(left: Duration, renew: Duration) -> Duration {
    (left / 2).max(renew).min(left)
}

/// A lease that this process holds.
pub struct HeldLease {
    lease: LeaderLease,
    /// When the last successful renewal was begun.
    renewed: Instant,
}

impl HeldLease {
    /// Renews the lease for as long as possible; resolves once it is lost.
    pub async fn lost(&mut self) -> LeaseError {
        loop {
            let deadline = self.renewed + self.lease.timing.trust();
            let name = self.lease.name.clone();
            // Before anything is waited for as well: this process may have stood still, and somebody else leads by now.
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return LeaseError::Expired { name };
            }
            sleep(self.lease.timing.renew.min(left)).await;
            let before = Instant::now();
            let left = deadline.saturating_duration_since(before);
            if left.is_zero() {
                return LeaseError::Expired { name };
            }
            match timeout(patience(left, self.lease.timing.renew), self.lease.attempt()).await {
                Ok(Ok(Attempt::Held)) => self.renewed = before,
                Ok(Ok(Attempt::Other(holder))) => return LeaseError::TakenOver { name, holder },
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the lease could not be renewed"
                    );
                    sleep(Duration::from_millis(100)).await;
                }
                Err(_) => tracing::warn!("no answer about the lease in time"),
            }
        }
    }

    /// Gives the lease up, so that another process takes over at once.
    pub async fn release(self) {
        let lease = self.lease;
        let release = async {
            let Some(mut found) = lease.api.get_opt(&lease.name).await? else { return Ok(()) };
            let ours =
                found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&lease.identity);
            if !ours {
                return Ok(());
            }
            if let Some(spec) = &mut found.spec {
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(clock::now()));
            }
            lease.api.replace(&lease.name, &PostParams::default(), &found).await.map(drop)
        };
        match timeout(Duration::from_secs(2), release).await {
            Ok(Ok(())) => tracing::info!("released the lease"),
            Ok(Err(error)) => {
                let error: kube::Error = error;
                tracing::warn!(error = &error as &dyn std::error::Error, "the lease could not be released");
            }
            Err(_) => tracing::warn!("the lease could not be released in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_another_record_whatever_the_clock_says() {
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        for (what, before, now, expected) in [
            ("the first", None, 5, 5),
            ("the clock runs", Some(5), 7, 7),
            ("it stopped", Some(7), 7, 8),
            ("it was set back", Some(1_000), 7, 1_001),
        ] {
            assert_eq!(renewal(before.map(at), at(now)), at(expected), "{what}");
        }
        assert_eq!(renewal(Some(Timestamp::MAX), at(7)), at(7), "there is nothing later");
    }

    #[test]
    fn a_renewal_is_given_half_of_what_is_left() {
        let renew = Duration::from_millis(1_500);
        for (left, expected) in [(12_000, 6_000), (2_500, 1_500), (1_000, 1_000)] {
            let found = patience(Duration::from_millis(left), renew);
            assert_eq!(found, Duration::from_millis(expected), "{left} ms left");
        }
    }
}
