//! Whether a watch has told of everything that there is.
//!
//! [`Store::wait_until_ready`](kube::runtime::reflector::Store::wait_until_ready) of kube 5.0 wakes only who waited last:
//! all of them share the receiver of one channel. A reconcile that waited for it beside another task could wait for ever,
//! and all later ones of its object behind it. `clippy.toml` allows it only where one waits.

use kube::runtime::watcher::Event;
use tokio::sync::watch;

/// Any number may wait. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Listed(watch::Sender<bool>);

impl Default for Listed {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Listed {
    /// Takes in what the watch tells. A list that is made anew later changes nothing: what is known stays until it is complete.
    pub fn follow<K>(&self, event: &Event<K>) {
        if matches!(event, Event::InitDone) {
            self.0.send_replace(true);
        }
    }

    /// Resolves once it has told everything.
    pub async fn wait(&self) {
        // This clone has the sender: it is there.
        #[expect(clippy::disallowed_methods, reason = "the guard ends with the statement")]
        let _ = self.0.subscribe().wait_for(|listed| *listed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::time::Duration;

    #[tokio::test]
    async fn all_who_wait_are_woken() {
        let listed = Listed::default();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let listed = listed.clone();
                tokio::spawn(async move { listed.wait().await })
            })
            .collect();
        // Each of them has begun to wait.
        while listed.0.receiver_count() < waiting.len() {
            tokio::task::yield_now().await;
        }
        for event in [Event::Init, Event::InitApply(()), Event::Apply(()), Event::Delete(())] {
            listed.follow(&event);
        }
        assert!(waiting.iter().all(|task| !task.is_finished()));
        listed.follow(&Event::<()>::InitDone);
        let woken = tokio::time::timeout(Duration::from_secs(30), join_all(waiting)).await.unwrap();
        woken.into_iter().for_each(|task| task.unwrap());
        listed.wait().await;
    }
}
