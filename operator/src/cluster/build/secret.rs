//! Secrets: what users the operator made, and how the members know them.

use super::metadata_of;
use crate::names::{ANNOTATION_USERS, ClusterName, PORT_HTTP};
use client::sql::Credentials;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;
use std::collections::BTreeMap;

/// Name of the operator's user on the members.
pub const OPERATOR_USER: &str = "sqlite-operator";
/// Name of the applications' user.
pub const APPLICATION_USER: &str = "app";
/// Name of the users' file that the operator writes.
pub const USERS_FILE: &str = "sqlite-operator.json";
/// What applications may do.
const APPLICATION_PERMISSIONS: &[&str] = &["execute", "query", "backup", "status", "ready", "ui"];

const USERNAME: &str = "username";
const PASSWORD: &str = "password";

/// User and password that the operator shows to the members. Not mounted anywhere.
pub fn operator(name: &ClusterName, owner: OwnerReference, password: &str) -> Secret {
    let data = [(USERNAME, OPERATOR_USER.to_owned()), (PASSWORD, password.to_owned())];
    secret(name, owner, name.operator_secret(), &data)
}

/// User and password of the applications, in the form of the Service Binding specification (servicebinding.io, "Well-known
/// Secret Entries").
pub fn application(name: &ClusterName, owner: OwnerReference, service: &str, password: &str) -> Secret {
    let host = format!("{service}.{}.svc", name.namespace);
    let data = [
        ("type", "sqlite".to_owned()),
        ("provider", "sqlite-operator".to_owned()),
        ("host", host.clone()),
        ("port", PORT_HTTP.to_string()),
        (USERNAME, APPLICATION_USER.to_owned()),
        (PASSWORD, password.to_owned()),
        ("uri", format!("http://{APPLICATION_USER}:{password}@{host}:{PORT_HTTP}")),
    ];
    secret(name, owner, name.application_secret(), &data)
}

/// The file of users that the members read, with hashes of the two passwords. `fingerprint` says of which.
pub fn users(name: &ClusterName, owner: OwnerReference, hashes: &UserHashes, fingerprint: String) -> Secret {
    let users = json!([
        {"username": OPERATOR_USER, "password": hashes.operator, "perms": ["all"]},
        {"username": APPLICATION_USER, "password": hashes.application, "perms": APPLICATION_PERMISSIONS},
    ]);
    let mut secret = secret(name, owner, name.users_secret(), &[(USERS_FILE, users.to_string())]);
    secret.metadata.annotations = Some(BTreeMap::from([(ANNOTATION_USERS.to_owned(), fingerprint)]));
    secret
}

/// Hashes of the passwords of the users that the operator made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserHashes {
    /// Of its own.
    pub operator: String,
    /// Of the applications'.
    pub application: String,
}

/// The user in a Secret; none if it has none.
pub fn credentials(secret: &Secret) -> Option<Credentials> {
    let entry = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    let (user, password) = (entry(USERNAME)?, entry(PASSWORD)?);
    Some(Credentials { user, password }).filter(|c| !c.user.is_empty() && !c.password.is_empty())
}

fn secret(name: &ClusterName, owner: OwnerReference, called: String, data: &[(&str, String)]) -> Secret {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    of(name, owner, &called, "users", &data)
}

/// A Secret of a cluster with these entries.
pub fn of(
    name: &ClusterName,
    owner: OwnerReference,
    called: &str,
    component: &str,
    data: &BTreeMap<String, String>,
) -> Secret {
    let entry = |(key, value): (&String, &String)| (key.clone(), ByteString(value.clone().into_bytes()));
    Secret {
        metadata: metadata_of(name, owner, called.to_owned(), component),
        data: Some(data.iter().map(entry).collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_finds_what_it_needs() {
        let name = ClusterName::new("shop", "orders");
        let owner = OwnerReference::default();
        let secret = application(&name, owner, "orders-rw", "p4ss");
        let text = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
        assert_eq!(secret.metadata.name.as_deref(), Some("orders-app"));
        assert_eq!(text("type"), "sqlite");
        assert_eq!(text("host"), "orders-rw.shop.svc");
        assert_eq!(text("uri"), "http://app:p4ss@orders-rw.shop.svc:4001");
        let found = credentials(&secret).unwrap();
        assert_eq!((found.user.as_str(), found.password.as_str()), ("app", "p4ss"));
    }

    #[test]
    fn a_secret_without_a_user_has_no_credentials() {
        assert!(credentials(&Secret::default()).is_none());
        let empty = secret(
            &ClusterName::new("a", "b"),
            OwnerReference::default(),
            "c".into(),
            &[(USERNAME, "u".into()), (PASSWORD, String::new())],
        );
        assert!(credentials(&empty).is_none());
    }
}
