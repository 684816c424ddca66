//! Connections that have not said yet who they are.
//!
//! Members say it at once. Whoever opens connections and says nothing must not keep them out: when there are too many,
//! the one that has been silent for longest makes room for the next. Were they to wait for each other, a member would
//! have its turn when nobody at its end waits for an answer any more.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// How many there may be at once.
const STRANGERS: usize = 512;
/// How long each has to say who it is, however many come after it. This also bounds how many are taken in a second, by
/// the thread that consensus runs on.
const GRACE: Duration = Duration::from_millis(100);

/// Those that there are, oldest first. Their tasks end with them.
#[derive(Default)]
pub struct Strangers {
    waiting: VecDeque<(Instant, JoinHandle<()>)>,
}

impl Strangers {
    /// Makes room for one more: hangs up on the oldest if there are too many.
    pub async fn make_room(&mut self) {
        if self.waiting.len() < STRANGERS {
            return;
        }
        self.waiting.retain(|(_, task)| !task.is_finished());
        if self.waiting.len() < STRANGERS {
            return;
        }
        if let Some((since, task)) = self.waiting.pop_front() {
            sleep_until(since + GRACE).await;
            task.abort();
        }
    }

    /// Adds one, as the task that finds out who it is.
    pub fn add(&mut self, task: JoinHandle<()>) {
        self.waiting.push_back((Instant::now(), task));
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.waiting.iter().for_each(|(_, task)| task.abort());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn the_oldest_makes_room_once_it_had_its_time() {
        let mut strangers = Strangers::default();
        for n in 0..STRANGERS {
            strangers.make_room().await;
            // Every other one has said who it is.
            strangers.add(if n % 2 == 0 { tokio::spawn(async {}) } else { tokio::spawn(pending()) });
        }
        while strangers.waiting.iter().filter(|(_, task)| task.is_finished()).count() < STRANGERS / 2 {
            tokio::task::yield_now().await;
        }
        strangers.make_room().await;
        assert_eq!(strangers.waiting.len(), STRANGERS / 2);
        while strangers.waiting.len() < STRANGERS {
            strangers.add(tokio::spawn(pending()));
        }
        let oldest = strangers.waiting[0].0;
        strangers.make_room().await;
        assert!(oldest.elapsed() >= GRACE && strangers.waiting.len() == STRANGERS - 1);
    }
}
