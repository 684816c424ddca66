//! The status of an object that is not a cluster: what it says while the object waits, and how it is written.

use crate::cluster::conditions::Draft;
use crate::context::Context;
use crate::names::FIELD_MANAGER;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// How long something that an object needs may be missing before it takes a person.
const MISSING_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The conditions of an object that waits. What is missing is told by Accepted as well, whose time says since when; for long it
/// is Stalled instead of Reconciling, and goes on all the same when it is there. Pure.
pub(crate) fn waits(
    reason: &'static str,
    message: &str,
    is_missing: bool,
    before: &[Condition],
    now: Timestamp,
) -> Vec<Draft> {
    let draft = |kind, holds| Draft { kind, holds, reason, message: message.to_owned() };
    if !is_missing {
        return vec![draft("Succeeded", false), draft("Reconciling", true)];
    }
    let told = before.iter().find(|condition| condition.type_ == "Accepted" && condition.status == "False");
    let long = told.is_some_and(|told| now.duration_since(told.last_transition_time.0) >= MISSING_AFTER);
    let state = if long { "Stalled" } else { "Reconciling" };
    vec![draft("Succeeded", false), draft(state, true), draft("Accepted", false)]
}

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The server refused it.
    #[error("cannot write the status of {name}")]
    Write {
        /// Of which object.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

impl StatusError {
    /// Whether the object changed since it was seen.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Write { source: kube::Error::Api(status), .. } if status.is_conflict())
    }
}

/// Writes it; with `only_as_seen` only over `object` as it was seen. False if the object is gone, is another one of its name,
/// or has changed where it must not have.
pub async fn write<K>(
    object: &K,
    status: &impl Serialize,
    only_as_seen: bool,
    ctx: &Context,
) -> Result<bool, StatusError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "uid": object.uid()},
        "status": status,
    });
    if let Some(version) = object.resource_version().filter(|_| only_as_seen) {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    ctx.metrics.status_writes.inc();
    let api: Api<K> = Api::namespaced(ctx.client.clone(), &namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        // It went in between, and another one of its name is not meant.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(source) => Err(StatusError::Write { name, source }),
    }
}
