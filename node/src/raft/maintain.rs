//! What may be in the way of an entry that does something for the database itself.

use super::Consensus;
use super::membership::describe;
use client::admin::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long another member may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Consensus {
    /// How many bytes are missing here for a VACUUM; none if that cannot be told.
    pub(super) fn lacks_for_vacuum(&self) -> Option<u64> {
        let size = self.store().size();
        match size.and_then(|size| self.space.lacks_for_vacuum(size)) {
            Ok(lacks) => Some(lacks),
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether there is room for a VACUUM");
                None
            }
        }
    }

    /// Says what is in the way of an entry for the database itself: a member whose program does not know such entries would
    /// stop at it, and one without room for a VACUUM (if it `needs_room`) would stop writing. Members of `knowing` were asked
    /// before whether they know.
    pub async fn obstacle_to_maintenance(
        &self,
        needs_room: bool,
        knowing: &mut BTreeSet<NodeId>,
    ) -> Option<String> {
        for member in describe(&self.metrics()).members {
            let (id, name) = (member.node_id, &member.name);
            let described = match self.describe_member(&member, PATIENCE).await {
                Ok(described) => described,
                Err(_) if !needs_room && knowing.contains(&id) => continue,
                Err(_) => return Some(format!("member {name} does not answer")),
            };
            if !described.knows_maintenance {
                return Some(format!("the program of member {name} is of a version that cannot do it"));
            }
            knowing.insert(id);
            match described.lacks_for_vacuum {
                _ if !needs_room => {}
                Some(0) => {}
                Some(bytes) => {
                    return Some(format!(
                        "member {name} has no room for it: {bytes} bytes more have to be free on the disks of its data \
                         and of its temporary files"
                    ));
                }
                None => return Some(format!("member {name} cannot tell whether it has room for it")),
            }
        }
        None
    }
}
