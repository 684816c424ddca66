//! What is nobody's business who reads a report: values of environment variables, annotations of other programs, and of URLs
//! users, passwords and queries.

use serde_json::{Value, json};

/// Takes out what may be somebody's secret.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            if let Some(Value::Object(annotations)) = map.get_mut("annotations") {
                for (key, value) in annotations.iter_mut() {
                    if !key.starts_with("sqlite-operator.io/") {
                        *value = json!("(left out)");
                    }
                }
            }
            if let Some(Value::Array(env)) = map.get_mut("env") {
                for variable in env.iter_mut().filter(|variable| variable.get("value").is_some()) {
                    variable["value"] = json!("(left out)");
                }
            }
            map.values_mut().for_each(redact);
        }
        Value::Array(list) => list.iter_mut().for_each(redact),
        Value::String(text) if text.contains("://") => *text = without_credentials(text),
        _ => {}
    }
}

/// A text of which every URL has lost what could let somebody in: the user with the password, and the query. URLs also stand
/// in the middle of arguments and messages, and in JSON.
fn without_credentials(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find(|c: char| c.is_whitespace() || "\"'<>\\".contains(c)).unwrap_or(after.len());
        let (url, behind) = after.split_at(end);
        let (url, query) = url.split_at(url.find('?').unwrap_or(url.len()));
        let path = url.find(['/', '#']).unwrap_or(url.len());
        // A password may hold what should have been written as %2F.
        let host = url[..path].rfind('@').or_else(|| url.rfind('@')).map_or(0, |at| at + 1);
        let user = if host > 0 { "(left out)@" } else { "" };
        let asked = if query.is_empty() { "" } else { "?(left out)" };
        clean += &format!("{before}://{user}{}{asked}", &url[host..]);
        rest = behind;
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_in_a_report() {
        let mut object = json!({
            "metadata": {
                "managedFields": [{}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cret",
                    "sqlite-operator.io/cluster-id": "c1"},
            },
            "spec": {"containers": [{"env": [{"name": "TOKEN", "value": "s3cret"}, {"name": "POD_NAME"}]}]},
        });
        redact(&mut object);
        let text = object.to_string();
        assert!(!text.contains("s3cret") && !text.contains("managedFields"), "{text}");
        assert!(text.contains("c1") && text.contains("TOKEN"), "{text}");
    }

    #[test]
    fn a_url_tells_where_it_leads_and_not_how_to_get_in() {
        for (text, told) in [
            ("https://host:4001/db/backup", "https://host:4001/db/backup"),
            ("https://me:s3cret@host/a?X-Amz-Signature=s3cret", "https://(left out)@host/a?(left out)"),
            ("http://me:s3/cret@host", "http://(left out)@host"),
            ("-otlp-endpoint=https://s3cret@host:4318", "-otlp-endpoint=https://(left out)@host:4318"),
            (
                r#"-cdc-config={"endpoint":"https://a:s3cret@b/c?k=s3cret","service_id":"orders"}"#,
                r#"-cdc-config={"endpoint":"https://(left out)@b/c?(left out)","service_id":"orders"}"#,
            ),
            (
                "get http://a@b/?s3cret failed: see https://c",
                "get http://(left out)@b/?(left out) failed: see https://c",
            ),
            ("me@host, no URL?", "me@host, no URL?"),
        ] {
            let mut object = json!({"spec": {"bootstrap": {"import": {"url": text}}}});
            redact(&mut object);
            assert_eq!(object["spec"]["bootstrap"]["import"]["url"], told);
        }
    }
}
