//! Which forwarded requests this leader received: a copy that is sent again because a connection broke is not taken a
//! second time.

use super::command::RequestId;
use super::waiters::Leadership;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};

/// Requests remembered. A copy comes again within seconds; what is older than so many requests is not sent any more.
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
        if !inner.known.insert(id) {
            return false;
        }
        inner.order.push_back(id);
        if inner.order.len() > REMEMBERED
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.known.remove(&oldest);
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
    }
}
