//! Looking at the value that a watch channel holds.
//!
//! A guard of [`watch::Receiver::borrow`] lives to the end of its statement, which may be a whole struct literal. Whoever
//! looks at the same channel again meanwhile, by whatever it calls, waits for ever if somebody publishes in between: the
//! publisher waits for the first guard, the second look for the publisher, which has the right of way. So no guard is
//! held outside [`Observe::observe`]; `clippy.toml` allows `borrow` only here.

use tokio::sync::watch;

/// Somebody who can look at a value that others publish.
pub trait Observe<T> {
    /// What `look` makes of the present value. It does nothing but read that: publishers wait for it.
    fn observe<R>(&self, look: impl FnOnce(&T) -> R) -> R;

    /// A copy of the present value.
    fn current(&self) -> T
    where
        T: Clone,
    {
        self.observe(T::clone)
    }
}

#[expect(clippy::disallowed_methods, reason = "the guard ends here")]
impl<T> Observe<T> for watch::Receiver<T> {
    fn observe<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.borrow())
    }
}

#[expect(clippy::disallowed_methods, reason = "the guard ends here")]
impl<T> Observe<T> for watch::Sender<T> {
    fn observe<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.borrow())
    }
}

/// Somebody who can wait for a value that others publish.
pub trait Until<T> {
    /// Resolves once `is_reached` says so of the present value; fails when nobody can publish any more.
    fn until(
        &mut self,
        is_reached: impl FnMut(&T) -> bool + Send,
    ) -> impl Future<Output = Result<(), watch::error::RecvError>> + Send;
}

#[expect(clippy::disallowed_methods, reason = "the guard ends here")]
impl<T: Send + Sync> Until<T> for watch::Receiver<T> {
    async fn until(
        &mut self,
        is_reached: impl FnMut(&T) -> bool + Send,
    ) -> Result<(), watch::error::RecvError> {
        self.wait_for(is_reached).await.map(drop)
    }
}
