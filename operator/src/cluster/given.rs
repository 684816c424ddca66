//! Secrets that the spec names and somebody else fills: whether they are there, with the keys that members need of them. A pod that
//! lacks one waits for it, or runs without what it would tell, and neither says whose fault it is.

use super::build::owner_of;
use super::observe::ObserveError;
use super::observed::Observed;
use super::plan::{Activity, ActivityReason, Obstacle, ObstacleReason};
use super::secrets::Secrets;
use crate::context::Context;
use crate::crd::{AuthenticationMode, SecretKeyRef, SecretRef, SqliteCluster, SqliteClusterSpec};
use crate::names::ClusterName;
use crate::pace::Matter;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is not there for this long needs a human.
const NOT_FOUND_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// How often is looked for what is missing.
const MISSING: Duration = Duration::from_secs(10);
/// Keys of a Secret of type kubernetes.io/tls.
const PAIR: [&str; 2] = ["tls.crt", "tls.key"];

/// A Secret that a field of the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    field: &'static str,
    secret: String,
    keys: Vec<String>,
}

/// What was found of them.
#[derive(Clone, Debug)]
pub struct Looked {
    named: Vec<Named>,
    missing: Option<String>,
    until: Instant,
}

/// The Secrets that members mount. Those of certificates and stores are looked at where they are used.
fn named(spec: &SqliteClusterSpec) -> Vec<Named> {
    let authentication = &spec.security.authentication;
    let users = authentication.users_secret_ref.as_ref();
    let users = users.filter(|_| authentication.mode == AuthenticationMode::Required);
    let whole = |field, of: Option<&SecretRef>, keys: &[&str]| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        of.map(|of| Named { field, secret: of.name.clone(), keys })
    };
    let key = |field, of: Option<&SecretKeyRef>| {
        of.map(|of| Named { field, secret: of.name.clone(), keys: vec![of.key.clone()] })
    };
    let changes = spec.database.change_capture.as_ref();
    let otlp = spec.observability.otlp.as_ref();
    [
        whole("security.authentication.usersSecretRef", users, &[]),
        key("database.changeCapture.endpointSecretRef", changes.and_then(|c| c.endpoint_secret_ref.as_ref())),
        key("database.changeCapture.caSecretRef", changes.and_then(|c| c.ca_secret_ref.as_ref())),
        whole(
            "database.changeCapture.certificateSecretRef",
            changes.and_then(|c| c.certificate_secret_ref.as_ref()),
            &PAIR,
        ),
        key("observability.otlp.caSecretRef", otlp.and_then(|o| o.ca_secret_ref.as_ref())),
        whole(
            "observability.otlp.certificateSecretRef",
            otlp.and_then(|o| o.certificate_secret_ref.as_ref()),
            &PAIR,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What of them is not there, as a sentence. Of each Secret are told the keys that it has; none: there is no such Secret.
fn missing(named: &[Named], found: &BTreeMap<String, Option<Vec<String>>>) -> Option<String> {
    let lack = |named: &Named| {
        let Named { field, secret, keys } = named;
        let Some(has) = found.get(secret)? else {
            return Some(format!("Secret {secret}, which spec.{field} names, is not there"));
        };
        let lacking: Vec<&str> = keys.iter().filter(|key| !has.contains(key)).map(String::as_str).collect();
        (!lacking.is_empty()).then(|| {
            format!("Secret {secret}, which spec.{field} names, has no {}", lacking.join(" and no "))
        })
    };
    let lacks: Vec<String> = named.iter().filter_map(lack).collect();
    (!lacks.is_empty()).then(|| lacks.join("; "))
}

/// Looks for them, at the cluster's turn, or soon where something was missing. Network.
pub async fn look(
    cluster: &SqliteCluster,
    name: &ClusterName,
    ctx: &Context,
) -> Result<Option<String>, ObserveError> {
    let named = named(&cluster.spec);
    if named.is_empty() {
        return Ok(None);
    }
    let uid = cluster.uid().unwrap_or_default();
    let known =
        ctx.given.get(name, &uid).filter(|known| known.named == named && Instant::now() < known.until);
    if let Some(known) = known {
        return Ok(known.missing);
    }
    let secrets = Secrets::new(&ctx.client, &name.namespace, owner_of(cluster));
    let mut found = BTreeMap::new();
    for named in &named {
        if found.contains_key(&named.secret) {
            continue;
        }
        let secret = secrets.any(&named.secret).await.map_err(ObserveError::Given)?;
        found.insert(named.secret.clone(), secret.as_ref().map(keys));
    }
    let missing = missing(&named, &found);
    let turn = Instant::now() + ctx.pace.rest(Matter::GivenSecrets, name);
    let until = if missing.is_some() { turn.min(Instant::now() + MISSING) } else { turn };
    ctx.given.set(name, &uid, Looked { named, missing: missing.clone(), until });
    Ok(missing)
}

fn keys(secret: &Secret) -> Vec<String> {
    secret.data.iter().flat_map(|data| data.keys().cloned()).collect()
}

/// What is under way while one of them is missing, and what needs a human once it is for long. Pure.
pub(super) fn plan(observed: &Observed) -> (Option<Activity>, Option<Obstacle>) {
    let Some(missing) = &observed.missing_secret else { return (None, None) };
    let activity = Activity::new(ActivityReason::AwaitingSecrets, missing.clone());
    let obstacle =
        is_unfound_for_long(observed).then(|| Obstacle::new(ObstacleReason::RefNotFound, missing.clone()));
    (Some(activity), obstacle)
}

/// Whether something that the spec names has been told as missing for so long that it needs a human.
pub(super) fn is_unfound_for_long(observed: &Observed) -> bool {
    let accepted = observed.status.conditions.iter().find(|condition| condition.type_ == "Accepted");
    let refused = accepted.filter(|accepted| accepted.status == "False" && accepted.reason == "RefNotFound");
    refused
        .is_some_and(|refused| observed.now.duration_since(refused.last_transition_time.0) >= NOT_FOUND_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec() -> SqliteClusterSpec {
        serde_json::from_value(json!({
            "storage": {"size": "1Gi"},
            "security": {"authentication": {"usersSecretRef": {"name": "people"}}},
            "database": {"changeCapture": {
                "endpointSecretRef": {"name": "sink", "key": "url"}, "caSecretRef": {"name": "sink", "key": "ca.crt"},
            }},
            "observability": {"otlp": {"endpoint": "https://otlp:4318", "certificateSecretRef": {"name": "pair"}}},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_missing_is_told_by_secret_key_and_field() {
        let all = named(&spec());
        let has = |keys: &[&str]| Some(keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        let (people, sink, pair) = (has(&["users.json"]), has(&["url", "ca.crt"]), has(&PAIR));
        for (what, found, wanted) in [
            ("all there", [people.clone(), sink.clone(), pair.clone()], None),
            (
                "no users",
                [None, sink.clone(), pair.clone()],
                Some("Secret people, which spec.security.authentication.usersSecretRef names, is not there"),
            ),
            (
                "no key",
                [people.clone(), has(&["url"]), pair],
                Some("Secret sink, which spec.database.changeCapture.caSecretRef names, has no ca.crt"),
            ),
            (
                "no pair",
                [people, sink, has(&[])],
                Some(
                    "Secret pair, which spec.observability.otlp.certificateSecretRef names, has no tls.crt and no tls.key",
                ),
            ),
        ] {
            let found = ["people", "sink", "pair"].map(str::to_owned).into_iter().zip(found).collect();
            assert_eq!(missing(&all, &found).as_deref(), wanted, "{what}");
        }
        let none = ["people", "sink", "pair"].map(|name| (name.to_owned(), None)).into();
        assert_eq!(missing(&all, &none).unwrap().matches("is not there").count(), 4);
    }

    #[test]
    fn users_do_not_count_where_nobody_has_to_say_who_they_are() {
        let mut open = spec();
        open.security.authentication.mode = AuthenticationMode::Disabled;
        let fields: Vec<_> = named(&open).into_iter().map(|named| named.field).collect();
        assert_eq!(fields.len(), 3);
        assert!(!fields.contains(&"security.authentication.usersSecretRef"));
    }
}
