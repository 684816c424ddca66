//! E9–E11, E13, S7: members and what an administrator does with them.

use super::member;
use super::support::cluster;
use reqwest::Method;
use serde_json::{Value, json};

#[test]
fn snapshots_and_reaping() {
    let c = member();
    // E9
    assert_eq!(c.post(0, "/reap", "").0, 200);
    c.execute(0, &json!(["INSERT INTO foo(name) VALUES('x')"]));
    assert_eq!(c.post(0, "/reap", ""), (200, "{\"snapshots_reaped\":0,\"wals_checkpointed\":1}\n".into()));
    assert_eq!(c.post(0, "/reap", ""), (200, "{\"snapshots_reaped\":0,\"wals_checkpointed\":0}\n".into()));
    assert_eq!(c.post(0, "/snapshot?trailing_logs=1", ""), (200, String::new()));
    assert_eq!(c.post(0, "/snapshot", ""), (204, String::new()));
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(1));
}

#[test]
fn nodes_leaders_and_removal() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    // E13
    let (status, body) = c.get(0, "/nodes");
    let nodes: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, nodes.as_object().unwrap().len()), (200, 3));
    for (i, member) in c.members.iter().enumerate() {
        let node = &nodes[&member.name];
        assert_eq!(node["id"], json!(member.name));
        assert_eq!(node["api_addr"], json!(format!("http://127.0.0.1:{}", member.http)));
        assert_eq!(node["addr"], json!(format!("127.0.0.1:{}", member.raft)));
        assert_eq!(
            (&node["voter"], &node["reachable"], &node["leader"]),
            (&json!(true), &json!(true), &json!(i == leader))
        );
        assert!(node["time"].is_number() && node["version"].is_string() && node["error"].is_null());
    }
    let (_, body) = c.get(1, "/nodes?ver=2&nonvoters&pretty&timeout=5s");
    let list: Value = serde_json::from_str(&body).unwrap();
    let ids: Vec<&str> =
        list["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["n1", "n2", "n3"]);
    assert_eq!(c.get(0, "/nodes?timeout=1"), (400, "timeout is not a valid duration\n".into()));
    // How far each is, which rqlite does not tell, for who asks for it.
    let (_, body) = c.get((leader + 1) % 3, "/nodes?ver=2&progress");
    let list: Value = serde_json::from_str(&body).unwrap();
    for node in list["nodes"].as_array().unwrap() {
        assert!(node["applied_index"].as_u64() > Some(0) && node["term"].as_u64() > Some(0), "{node}");
        assert!(
            node["checksum"].is_null() || node["checksum"]["sum"].as_str().unwrap().len() == 16,
            "{node}"
        );
    }
    assert!(nodes["n1"].get("applied_index").is_none());
    // E11
    let (status, body) = c.get(0, "/leader");
    let node: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &node["id"], &node["leader"]), (200, &json!(c.members[leader].name), &json!(true)));
    let json_type = [("content-type", "application/json")];
    let step_down = |c: &super::Cluster, body: &str| {
        let answer = c.send(Method::POST, 0, "/leader?wait", &json_type, body.as_bytes());
        (answer.status, answer.text())
    };
    let (status, message) = step_down(&c, "{");
    assert!(status == 400 && message.starts_with("invalid JSON: "), "{message}");
    assert_eq!(step_down(&c, r#"{"id":"nobody"}"#), (500, "stepdown: node not found in cluster\n".into()));
    let own = format!(r#"{{"id":"{}"}}"#, c.members[leader].name);
    assert_eq!(step_down(&c, &own), (500, "stepdown: cannot step down to the current Leader\n".into()));
    let next = (leader + 1) % 3;
    let wish = format!(r#"{{"id":"{}"}}"#, c.members[next].name);
    assert_eq!(step_down(&c, &wish), (200, String::new()));
    assert_eq!(c.await_leader(next), next);

    // E13: a member that does not answer is no error.
    let gone = (next + 1) % 3;
    c.kill(gone);
    let (status, body) = c.get(next, "/nodes?timeout=2s");
    let nodes: Value = serde_json::from_str(&body).unwrap();
    let node = &nodes[&c.members[gone].name];
    assert_eq!((status, &node["reachable"]), (200, &json!(false)));
    assert!(node["error"].is_string(), "{node}");
    // E10
    for body in ["", "{}", "{\"id\":1}", "{\"id\":\"n1\",\"x\":1}", "[]"] {
        assert_eq!(c.delete(next, "/remove", body), (400, String::new()), "{body}");
    }
    let name = c.members[gone].name.clone();
    let other = (0..3).find(|i| *i != gone && *i != next).unwrap();
    c.until("the removal", |c| {
        (c.delete(other, "/remove", &json!({ "id": name }).to_string()).0 == 200).then_some(())
    });
    let (_, body) = c.get(next, "/nodes?nonvoters");
    assert!(!body.contains(&format!("\"{name}\"")), "{body}");
    assert_eq!(c.delete(next, "/remove", r#"{"id":"nobody"}"#), (200, String::new()));
}

#[test]
fn nobody_is_removed_without_a_leader() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let left = (leader + 1) % 3;
    c.kill(leader);
    c.kill((leader + 2) % 3);
    c.await_no_leader(left);
    let body = json!({ "id": c.members[leader].name }).to_string();
    // C8, E10
    for path in ["/remove", "/remove?redirect"] {
        assert_eq!(c.delete(left, path, &body), (503, "leader not found\n".into()), "{path}");
    }
    let members = c.report(left)["membership"]["members"].as_array().unwrap().len();
    assert_eq!(members, 3);
}

#[test]
fn who_names_nobody_sends_leadership_to_anybody() {
    let mut c = cluster(3);
    // E11
    for (content_type, body) in [
        ("application/json", r#"{"id":null}"#),
        ("application/json", r#"{"id":""}"#),
        ("application/json", ""),
        // What is not said to be JSON is not looked at.
        ("text/plain", r#"{"id":"nobody"}"#),
        ("text/plain", "{"),
    ] {
        let leader = c.await_leader(0);
        let headers = [("content-type", content_type)];
        let answer = c.send(Method::POST, leader, "/leader?wait", &headers, body.as_bytes());
        assert_eq!((answer.status, answer.text().as_str()), (200, ""), "{content_type} {body}");
        c.until("all follow another one", |c| {
            let next = c.await_leader(0);
            (next != leader && (1..3).all(|i| c.await_leader(i) == next)).then_some(())
        });
    }
}

#[test]
fn replicas_are_listed_if_asked_for_and_forward_what_an_administrator_wants() {
    let mut c = cluster(1);
    let replica = c.add_read_replica();
    let names = |c: &super::Cluster, i: usize, path: &str| -> Vec<(String, bool)> {
        let nodes: Value = serde_json::from_str(&c.get(i, path).1).unwrap();
        let nodes = nodes.as_object().unwrap();
        nodes.iter().map(|(name, node)| (name.clone(), node["voter"].as_bool().unwrap())).collect()
    };
    // E13
    for i in [0, replica] {
        assert_eq!(names(&c, i, "/nodes"), [("n1".to_owned(), true)]);
        let all = [("n1".to_owned(), true), ("replica".to_owned(), false)];
        assert_eq!(names(&c, i, "/nodes?nonvoters"), all);
    }
    // E11: there is nobody to step down for.
    let (status, message) = c.post(replica, "/leader", "");
    assert!(status == 500 && message.starts_with("stepdown: "), "{status} {message}");
    // E10, C7: of itself, through the leader.
    assert_eq!(c.delete(replica, "/remove", r#"{"id":"replica"}"#), (200, String::new()));
    assert_eq!(names(&c, 0, "/nodes?nonvoters"), [("n1".to_owned(), true)]);
}
