//! A file of users. What it says holds, and what is wrong with it is told without a password. After a NUL a header
//! `Authorization` may follow.

use node::auth::Permission;
use node::fuzzing::{Quick, Users, basic};
use serde_json::Value;
use std::path::PathBuf;

pub fn run(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (file, header) = input.split_at(end);
    let credentials = header.get(1..).and_then(|bytes| basic(&bytes.try_into().ok()?));
    let files = [(PathBuf::from("users.json"), file.to_vec())];
    let written: Value = serde_json::from_slice(file).unwrap_or_default();
    let entries = written.as_array().map_or(&[][..], Vec::as_slice);
    let text = |entry: &Value, key: &str| entry[key].as_str().map(str::to_owned);
    let users = match Users::parse(&files) {
        Ok(users) => users,
        Err(error) => {
            let said = error.to_string();
            // A short one may be in any text.
            let mut passwords = entries.iter().filter_map(|e| text(e, "password")).filter(|p| p.len() > 12);
            let is_told =
                |p: &String| said.contains(p.as_str()) && !names(entries).any(|n| n.contains(p.as_str()));
            assert!(!passwords.any(|p| is_told(&p)), "{said}");
            return;
        }
    };
    for entry in entries {
        let (Some(name), Some(password)) = (text(entry, "username"), text(entry, "password")) else {
            continue;
        };
        if name == "*" || ["$argon2", "$2a$", "$2b$", "$2y$"].iter().any(|hash| password.starts_with(hash)) {
            continue;
        }
        let Quick::Right(held) = users.quick(&name, &password) else { panic!("{name} is not let in") };
        let perms = entry["perms"].as_array().unwrap();
        let wanted = perms.iter().map(|p| Permission::from_name(p.as_str().unwrap()).unwrap());
        assert!(held.cover(&wanted.collect::<Vec<_>>()));
        assert_eq!(
            Users::plain_password(&files, &name).is_ok(),
            !password.starts_with('$') || has_plain(entries, &name)
        );
        assert!(
            !matches!(users.quick(&name, &(password + " and more")), Quick::Right(_))
                || has_two(entries, &name)
        );
    }
    if let Some((name, password)) = credentials
        && let Quick::Right(_) = users.quick(&name, &password)
    {
        let is_it = |e: &Value| {
            text(e, "username").as_ref() == Some(&name) && text(e, "password").as_ref() == Some(&password)
        };
        assert!(entries.iter().any(is_it), "{name} is let in");
    }
}

/// Texts that an error may quote.
fn names(entries: &[Value]) -> impl Iterator<Item = &str> {
    let perms = entries.iter().filter_map(|e| e["perms"].as_array()).flatten();
    entries.iter().map(|e| &e["username"]).chain(perms).filter_map(Value::as_str)
}

fn passwords<'a>(entries: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a str> {
    entries.iter().filter(move |e| e["username"] == name).filter_map(|e| e["password"].as_str())
}

fn has_plain(entries: &[Value], name: &str) -> bool {
    passwords(entries, name).any(|password| !password.starts_with('$'))
}

fn has_two(entries: &[Value], name: &str) -> bool {
    passwords(entries, name).count() > 1
}
