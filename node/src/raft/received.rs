//! Which forwarded requests this leader received: a copy that is sent again because a connection broke is not taken a
//! second time.

use super::command::RequestId;
use super::waiters::Leadership;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};

/// Requests remembered one by one. Of each member that forwards, what came before these is taken for known: whoever sends it
/// learns by applying what became of it.
const REMEMBERED: usize = 1 << 16;

/// The requests that this member received as one leader.
#[derive(Debug, Default)]
pub struct Received {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    leadership: Leadership,
    known: HashSet<RequestId>,
    order: VecDeque<RequestId>,
    /// The last of those that are no longer remembered one by one, of each process that forwards: node and boot.
    forgotten: HashMap<(u64, u64), u64>,
}

impl Received {
    /// Whether `id` comes for the first time for this lead. Copies for an earlier lead are refused where they are
    /// proposed, so only the latest is remembered.
    pub fn is_first(&self, leadership: Leadership, id: RequestId) -> bool {
        let mut inner = self.inner.lock();
        if inner.leadership != leadership {
            if leadership < inner.leadership {
                return true;
            }
            *inner = Inner { leadership, ..Inner::default() };
        }
        let is_old = inner.forgotten.get(&(id.node, id.boot)).is_some_and(|last| id.sequence <= *last);
        if is_old || !inner.known.insert(id) {
            return false;
        }
        inner.order.push_back(id);
        if inner.order.len() > REMEMBERED
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.known.remove(&oldest);
            let last = inner.forgotten.entry((oldest.node, oldest.boot)).or_default();
            *last = oldest.sequence.max(*last);
        }
        true
    }

    /// This leader did not append `id`: it may come again.
    pub fn forget(&self, leadership: Leadership, id: RequestId) {
        let mut inner = self.inner.lock();
        if inner.leadership == leadership && inner.known.remove(&id) {
            inner.order.retain(|known| *known != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_until_another_leads() {
        let received = Received::default();
        let id = |sequence| RequestId { node: 1, boot: 1, sequence };
        let lead = |term| Leadership { term, node: 7 };
        assert!(received.is_first(lead(1), id(1)));
        assert!(!received.is_first(lead(1), id(1)));
        assert!(received.is_first(lead(1), id(2)));
        received.forget(lead(1), id(2));
        assert!(received.is_first(lead(1), id(2)));
        // The same request, sent anew to the next leader.
        assert!(received.is_first(lead(2), id(1)));
        assert!(!received.is_first(lead(2), id(1)));
        for n in 0..=REMEMBERED as u64 {
            received.is_first(lead(3), id(n));
        }
        assert!(!received.is_first(lead(3), id(1)));
        assert_eq!(received.inner.lock().known.len(), REMEMBERED);
        // Too old to be remembered, and not new all the same; of another process it is.
        assert!(!received.is_first(lead(3), id(0)));
        assert!(received.is_first(lead(3), RequestId { node: 1, boot: 2, sequence: 0 }));
    }
}
