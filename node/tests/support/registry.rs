//! Key-value stores, as far as members use them: one that answers as Consul does, one as etcd does.

use super::acceptor::Acceptor;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Consul,
    Etcd,
}

struct Entry {
    value: Vec<u8>,
    created: u64,
    modified: u64,
    version: u64,
}

#[derive(Default)]
struct Keys {
    entries: BTreeMap<String, Entry>,
    revision: u64,
}

impl Keys {
    fn put(&mut self, key: &str, value: Vec<u8>) {
        self.revision += 1;
        let now = self.revision;
        let entry = self.entries.entry(key.to_owned()).or_insert(Entry {
            value: vec![],
            created: now,
            modified: 0,
            version: 0,
        });
        *entry = Entry { value, created: entry.created, modified: now, version: entry.version + 1 };
    }

    fn revision_of(&self, key: &str) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.modified)
    }
}

struct Shared {
    kind: Kind,
    /// The token of Consul, the password of user `me` of etcd.
    secret: Option<&'static str>,
    keys: Mutex<Keys>,
}

/// A store; it goes away with the value, unless another one goes on with its keys.
pub struct Store {
    pub port: u16,
    shared: Arc<Shared>,
    /// None while it is away.
    acceptor: Option<Acceptor>,
}

impl Store {
    /// Listens on `port`.
    pub fn start(kind: Kind, port: u16, secret: Option<&'static str>) -> Self {
        Self::serve(port, Arc::new(Shared { kind, secret, keys: Mutex::default() }))
    }

    fn serve(port: u16, shared: Arc<Shared>) -> Self {
        let serving = shared.clone();
        let acceptor = Acceptor::start(port, move |caller| answer(&caller, &serving));
        Self { port, shared, acceptor: Some(acceptor) }
    }

    /// Goes away; [`Store::come_back`] has its keys.
    pub fn go_away(&mut self) {
        self.acceptor = None;
    }

    pub fn come_back(&mut self) {
        *self = Self::serve(self.port, self.shared.clone());
    }

    /// What a key holds.
    pub fn get(&self, key: &str) -> Option<Value> {
        let keys = self.shared.keys.lock().unwrap();
        keys.entries.get(key).map(|entry| serde_json::from_slice(&entry.value).unwrap())
    }

    /// How often a key was written.
    pub fn version(&self, key: &str) -> u64 {
        self.shared.keys.lock().unwrap().entries.get(key).map_or(0, |entry| entry.version)
    }

    pub fn delete(&self, key: &str) {
        self.shared.keys.lock().unwrap().entries.remove(key);
    }
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn read(caller: &mut impl Read) -> io::Result<Request> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        match caller.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    };
    let mut body = bytes.split_off(end + 4);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: u64 = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    caller.take(length.saturating_sub(body.len() as u64)).read_to_end(&mut body)?;
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    Ok(Request { method, path, query, headers, body })
}

/// One request for each connection: every answer closes it.
fn answer(mut caller: &TcpStream, shared: &Shared) -> io::Result<()> {
    let request = read(&mut caller)?;
    let (status, body) = match shared.kind {
        Kind::Consul => consul(&request, shared),
        Kind::Etcd => etcd(&request, shared),
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    caller.write_all(&[head.as_bytes(), &body].concat())
}

fn consul(request: &Request, shared: &Shared) -> (u16, Vec<u8>) {
    let Some(key) = request.path.strip_prefix("/v1/kv/") else { return (404, vec![]) };
    if shared
        .secret
        .is_some_and(|token| request.headers.get("x-consul-token").is_none_or(|said| said != token))
    {
        return (403, b"Permission denied: token lacks permission 'key:read'".to_vec());
    }
    let mut keys = shared.keys.lock().unwrap();
    match request.method.as_str() {
        "GET" => match keys.entries.get(key) {
            None => (404, vec![]),
            Some(entry) => {
                let pair = json!([{
                    "LockIndex": 0, "Key": key, "Flags": 0, "Value": STANDARD.encode(&entry.value),
                    "CreateIndex": entry.created, "ModifyIndex": entry.modified,
                }]);
                (200, pair.to_string().into_bytes())
            }
        },
        "PUT" => {
            let cas = request.query.split('&').find_map(|part| part.strip_prefix("cas="));
            if cas.is_some_and(|cas| cas.parse() != Ok(keys.revision_of(key))) {
                return (200, b"false\n".to_vec());
            }
            keys.put(key, request.body.clone());
            (200, b"true\n".to_vec())
        }
        _ => (405, vec![]),
    }
}

fn etcd(request: &Request, shared: &Shared) -> (u16, Vec<u8>) {
    let refused = |status, code: u32, message: &str| {
        (status, json!({"error": message, "code": code, "message": message}).to_string().into_bytes())
    };
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return refused(400, 3, "not JSON");
    };
    let token = |secret: &str| format!("token-of-{}", secret.len());
    if request.path == "/v3/auth/authenticate" {
        return match shared.secret {
            None => refused(400, 9, "etcdserver: authentication is not enabled"),
            Some(secret) if body["name"] == "me" && body["password"] == secret => {
                (200, json!({"header": {}, "token": token(secret)}).to_string().into_bytes())
            }
            Some(_) => refused(400, 3, "etcdserver: authentication failed, invalid user ID or password"),
        };
    }
    match (shared.secret, request.headers.get("authorization")) {
        (Some(_), None) => return refused(400, 3, "etcdserver: user name is empty"),
        (Some(secret), Some(said)) if *said != token(secret) => {
            return refused(401, 16, "etcdserver: invalid auth token");
        }
        _ => {}
    }
    let text = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
    let mut keys = shared.keys.lock().unwrap();
    let header = json!({"revision": keys.revision.to_string()});
    let answer = match request.path.as_str() {
        "/v3/kv/range" => match keys.entries.get(&text(&body["key"])) {
            None => json!({ "header": header }),
            Some(entry) => json!({"header": header, "count": "1", "kvs": [{
                "key": body["key"], "value": STANDARD.encode(&entry.value), "version": entry.version.to_string(),
                "create_revision": entry.created.to_string(), "mod_revision": entry.modified.to_string(),
            }]}),
        },
        "/v3/kv/txn" => {
            let compare = &body["compare"][0];
            assert_eq!((&compare["target"], &compare["result"]), (&json!("MOD"), &json!("EQUAL")));
            let revision = keys.revision_of(&text(&compare["key"])).to_string();
            if compare["mod_revision"] == json!(revision) {
                let put = &body["success"][0]["request_put"];
                keys.put(&text(&put["key"]), text(&put["value"]).into_bytes());
                json!({"header": header, "succeeded": true, "responses": [{"response_put": {}}]})
            } else {
                // What is false is left out.
                json!({ "header": header })
            }
        }
        _ => return refused(404, 5, "Not Found"),
    };
    (200, answer.to_string().into_bytes())
}
