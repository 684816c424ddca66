//! Labels and annotations of the spec that the API server would refuse: it does so each time that an object with them is applied, and
//! says nothing of where they come from. Pure.

use crate::crd::SqliteClusterSpec;
use std::collections::BTreeMap;

/// The most characters of a name, and of a value of a label.
const NAME: usize = 63;
/// The most characters of what comes before the slash of a key.
const PREFIX: usize = 253;
/// The most bytes that the annotations of an object come to.
const ANNOTATIONS: usize = 256 << 10;

type Map = BTreeMap<String, String>;

/// What is wrong with them, each with its field.
pub(super) fn mistakes(spec: &SqliteClusterSpec) -> Vec<String> {
    let (pods, selector) = (&spec.pod_template.metadata, &spec.placement.node_selector);
    let account = &spec.pod_template.service_account_annotations;
    let mut wrong = Vec::new();
    wrong.extend(of_labels("spec.podTemplate.metadata.labels", &pods.labels));
    wrong.extend(of_annotations("spec.podTemplate.metadata.annotations", &pods.annotations));
    wrong.extend(of_annotations("spec.podTemplate.serviceAccountAnnotations", account));
    wrong.extend(of_labels("spec.placement.nodeSelector", selector));
    for service in &spec.services {
        let field = format!("spec.services[{}].annotations", service.name);
        wrong.extend(of_annotations(&field, &service.annotations));
    }
    wrong
}

fn of_labels(field: &str, labels: &Map) -> Vec<String> {
    let keys = labels.keys().filter(|key| !is_key(key)).map(|key| no_key(field, key));
    let values = labels.iter().filter(|(_, value)| !value.is_empty() && !is_name(value)).map(|(key, value)| {
        format!(
            "{field}[{key}] is `{value}`: a value of a label is empty, or at most {NAME} letters, digits, `-`, `_` and `.`, the \
             first and the last a letter or a digit"
        )
    });
    keys.chain(values).collect()
}

fn of_annotations(field: &str, annotations: &Map) -> Vec<String> {
    // Other than of labels, their prefixes may have capitals.
    let keys = annotations.keys().filter(|key| !is_key(&key.to_lowercase())).map(|key| no_key(field, key));
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    let large =
        (bytes > ANNOTATIONS).then(|| format!("{field} holds {bytes} bytes: at most {ANNOTATIONS} fit"));
    keys.chain(large).collect()
}

fn no_key(field: &str, key: &str) -> String {
    format!(
        "{field} has `{key}`: a key is at most {NAME} letters, digits, `-`, `_` and `.`, the first and the last a letter or a \
         digit, after a domain and a slash or without"
    )
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_domain(prefix) && is_name(name),
        None => is_name(key),
    }
}

fn is_name(name: &str) -> bool {
    let ends_well = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let mut bytes = name.bytes();
    name.len() <= NAME
        && ends_well(name.bytes().next())
        && ends_well(name.bytes().last())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(fits)
    };
    domain.len() <= PREFIX && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wrong(spec: &Value) -> Vec<String> {
        let mut whole = json!({"storage": {"size": "1Gi"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        mistakes(&serde_json::from_value(whole).unwrap())
    }

    fn of_pods(metadata: Value) -> Value {
        json!({"podTemplate": {"metadata": metadata}})
    }

    #[test]
    fn what_the_api_server_would_refuse_is_named_by_its_field() {
        let long = |count: usize| "a".repeat(count);
        for (spec, field) in [
            (
                of_pods(json!({"labels": {"team": "A team"}})),
                "spec.podTemplate.metadata.labels[team] is `A team`",
            ),
            (of_pods(json!({"labels": {"team": "-a"}})), "spec.podTemplate.metadata.labels[team]"),
            (of_pods(json!({"labels": {"team": long(64)}})), "spec.podTemplate.metadata.labels[team]"),
            (of_pods(json!({"labels": {"a team": "a"}})), "spec.podTemplate.metadata.labels has `a team`"),
            (of_pods(json!({"labels": {"Example.com/team": "a"}})), "spec.podTemplate.metadata.labels has"),
            (of_pods(json!({"labels": {"/team": "a"}})), "spec.podTemplate.metadata.labels has"),
            (of_pods(json!({"labels": {"a/b/c": "a"}})), "spec.podTemplate.metadata.labels has"),
            (of_pods(json!({"labels": {(long(64)): "a"}})), "spec.podTemplate.metadata.labels has"),
            (of_pods(json!({"annotations": {"a b": ""}})), "spec.podTemplate.metadata.annotations has `a b`"),
            (of_pods(json!({"annotations": {"": ""}})), "spec.podTemplate.metadata.annotations has ``"),
            (
                of_pods(json!({"annotations": {"a": long(ANNOTATIONS)}})),
                "spec.podTemplate.metadata.annotations holds",
            ),
            (
                json!({"podTemplate": {"serviceAccountAnnotations": {"-a": ""}}}),
                "spec.podTemplate.serviceAccountAnnotations has `-a`",
            ),
            (json!({"placement": {"nodeSelector": {"disk": "a b"}}}), "spec.placement.nodeSelector[disk]"),
            (
                json!({"services": [{"name": "rw", "target": "Voters", "annotations": {"a..b/c": ""}}]}),
                "spec.services[rw].annotations has `a..b/c`",
            ),
        ] {
            let wrong = wrong(&spec);
            assert!(wrong.len() == 1 && wrong[0].starts_with(field), "{spec}: {wrong:?}");
        }
    }

    #[test]
    fn what_it_takes_is_taken() {
        for metadata in [
            json!({"labels": {"team": "", "example.com/Team_1.b": "A-team.1", "a": "b".repeat(63)}}),
            json!({"annotations": {"Example.com/note": "anything: at all\n", "a": "b c"}}),
        ] {
            assert_eq!(wrong(&of_pods(metadata.clone())), Vec::<String>::new(), "{metadata}");
        }
    }
}
