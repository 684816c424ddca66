//! For whom a request is worked on. It is known to the task that works on it, so that whatever that asks of the leader says
//! so.

use super::permission::Permissions;
use std::future::Future;

tokio::task_local! {
    static PRESENT: Caller;
}

/// Who asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user, whose password was right; none: anybody, everybody may.
    pub user: Option<String>,
    /// What they must be allowed to do.
    pub needs: Permissions,
    /// What it is called where it is refused.
    pub operation: &'static str,
}

impl Caller {
    /// Does `work` for this caller.
    pub fn during<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        PRESENT.scope(self, work)
    }

    /// For whom the present task works; none: for the member itself, or users are not asked for.
    pub fn present() -> Option<Self> {
        PRESENT.try_with(Self::clone).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Permission;

    #[tokio::test]
    async fn a_caller_is_there_while_they_are_worked_for() {
        let caller = Caller {
            user: Some("a".into()),
            needs: Permissions::of(&[Permission::Execute]),
            operation: "Execute",
        };
        assert_eq!(Caller::present(), None);
        assert_eq!(caller.clone().during(async { Caller::present() }).await, Some(caller));
        assert_eq!(Caller::present(), None);
    }
}
