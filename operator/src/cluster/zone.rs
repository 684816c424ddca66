//! In which failure zone a pod is. Its Kubernetes node says so, by the label that the spec names. Where nodes may not be looked
//! at, because the operator watches some namespaces only, the pod's own label of that name counts: from 1.35 on Kubernetes
//! copies `topology.kubernetes.io/zone`, and no other key, from the node to the pod.

use std::collections::BTreeMap;

/// Labels of an object.
type Labels = BTreeMap<String, String>;

/// The zone by the label `key`, of a pod with these labels on a node with those; none: nobody tells.
pub fn zone(key: &str, pod: &Labels, node: Option<&Labels>) -> Option<String> {
    node.and_then(|node| node.get(key)).or_else(|| pod.get(key)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_tells_the_zone_and_the_pod_only_where_the_node_does_not() {
        let usual = "topology.kubernetes.io/zone";
        let labels = |all: &[(&str, &str)]| {
            all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Labels>()
        };
        for (what, key, pod, node, wanted) in [
            ("both", usual, labels(&[(usual, "a")]), Some(labels(&[(usual, "a")])), Some("a")),
            ("before 1.35", usual, labels(&[]), Some(labels(&[(usual, "b")])), Some("b")),
            (
                "the node's label was changed",
                usual,
                labels(&[(usual, "a")]),
                Some(labels(&[(usual, "b")])),
                Some("b"),
            ),
            (
                "another key",
                "rack",
                labels(&[(usual, "a")]),
                Some(labels(&[(usual, "a"), ("rack", "7")])),
                Some("7"),
            ),
            (
                "a key that the node lacks",
                "rack",
                labels(&[(usual, "a")]),
                Some(labels(&[(usual, "a")])),
                None,
            ),
            ("nodes are not seen", usual, labels(&[(usual, "a")]), None, Some("a")),
            ("nodes are not seen, before 1.35", usual, labels(&[]), None, None),
            ("nodes are not seen, another key", "rack", labels(&[(usual, "a")]), None, None),
        ] {
            assert_eq!(zone(key, &pod, node.as_ref()).as_deref(), wanted, "{what}");
        }
    }
}
