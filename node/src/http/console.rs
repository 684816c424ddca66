//! `/console/`: a page for people, in the program itself.
//!
//! The files hold no data and are the same for everybody, so they need no permission; what the page does it does by the
//! requests of this API, each with its own. Were they protected, the browser would ask for the password in its own way:
//! it keeps it until it ends and adds it to every request to this address, also to those that other pages make.
//! Who may use the page is told by `/console/session`, which needs `ui`.

use super::App;
use super::respond::{self, Answer};
use super::sql::Incoming;
use crate::auth::{Authenticator, Denied, Permission, Permissions};
use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write as _};
use std::sync::LazyLock;

macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_bytes!(concat!("../../console/", $name)))),*] };
}

/// The files, the page first.
const FILES: &[(&str, &[u8])] = files![
    "index.html",
    "api.js",
    "charts.js",
    "cluster.js",
    "dom.js",
    "editor.js",
    "grid.js",
    "history.js",
    "icon.svg",
    "json.js",
    "keys.js",
    "login.js",
    "main.js",
    "metrics.js",
    "monitor.js",
    "picture.js",
    "plan.js",
    "results.js",
    "schema.js",
    "sql.js",
    "style.css",
    "theme.js",
    "transfer.js",
];

/// Nothing from elsewhere, nothing written into the page, nothing that makes elements of text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers that each file has.
const ALWAYS: [(HeaderName, &str); 6] = [
    // Asked for again each time, and mostly answered with 304: a member of another version has other files.
    (CACHE_CONTROL, "no-cache"),
    (CONTENT_SECURITY_POLICY, POLICY),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (VARY, "accept-encoding"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// A file as it is sent.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    plain: Sent,
    gzip: Sent,
}

struct Sent {
    body: Bytes,
    etag: String,
}

/// Compressed once, when somebody first asks; in vain only if there is no memory.
static ASSETS: LazyLock<io::Result<Vec<Asset>>> =
    LazyLock::new(|| FILES.iter().map(|(name, bytes)| Asset::pack(name, bytes)).collect());

impl Asset {
    fn pack(name: &'static str, bytes: &'static [u8]) -> io::Result<Self> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(bytes)?;
        let hash: String = Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let content_type = match name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            _ => "image/svg+xml",
        };
        Ok(Self {
            name,
            content_type,
            plain: Sent { body: Bytes::from_static(bytes), etag: format!("\"{hash}\"") },
            gzip: Sent { body: gzip.finish()?.into(), etag: format!("\"{hash}-gzip\"") },
        })
    }

    fn answer(&self, asked: &HeaderMap) -> Answer {
        let takes_gzip = lists(asked, &ACCEPT_ENCODING, |coding| coding.split(';').next() == Some("gzip"));
        let sent = if takes_gzip { &self.gzip } else { &self.plain };
        let known =
            lists(asked, &IF_NONE_MATCH, |tag| tag == "*" || tag.trim_start_matches("W/") == sent.etag);
        let mut answer = Response::new(if known { Body::empty() } else { Body::from(sent.body.clone()) });
        *answer.status_mut() = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let headers = answer.headers_mut();
        for (name, value) in ALWAYS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(etag) = HeaderValue::from_str(&sent.etag) {
            headers.insert(ETAG, etag);
        }
        if !known {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            if takes_gzip {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        answer
    }
}

/// Whether an element of a header's list is as wanted.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|element| wanted(element.trim()))
}

/// `/`, `/console`, `/console/…`
pub fn console(incoming: &Incoming) -> Answer {
    let name = match incoming.uri.path() {
        "/" => return respond::redirect(StatusCode::FOUND, "/console/"),
        "/console" => return respond::redirect(StatusCode::MOVED_PERMANENTLY, "/console/"),
        path => path.strip_prefix("/console/").filter(|name| *name != "index.html").unwrap_or_default(),
    };
    match &*ASSETS {
        Err(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        Ok(assets) => {
            let name = if name.is_empty() { "index.html" } else { name };
            let asset = assets.iter().find(|asset| asset.name == name);
            asset.map_or_else(
                || respond::empty(StatusCode::NOT_FOUND),
                |asset| asset.answer(&incoming.headers),
            )
        }
    }
}

/// `GET /console/session`: who asks, as the page shows it, and what they may do. `user` is null for everybody.
pub async fn session(app: &App, headers: &HeaderMap) -> Answer {
    let (user, permissions) = match identify(app.auth.as_deref(), headers).await {
        Ok(found) => found,
        Err(Denied::Unauthorized) => return respond::empty(StatusCode::UNAUTHORIZED),
        Err(Denied::Busy) => return respond::busy(),
    };
    let told = json!({ "user": user, "permissions": permissions.names() });
    respond::json_value(StatusCode::OK, &told, false)
}

async fn identify(
    auth: Option<&Authenticator>,
    headers: &HeaderMap,
) -> Result<(Option<String>, Permissions), Denied> {
    match auth {
        None => Ok((None, Permissions::default().with(Permission::All))),
        Some(auth) => auth.identify(headers.get(AUTHORIZATION)).await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Bytes that a browser gets for the whole page.
    const MOST: usize = 150 << 10;

    #[test]
    fn the_page_is_small() {
        let assets = ASSETS.as_ref().unwrap();
        let sizes: Vec<(&str, usize)> = assets.iter().map(|a| (a.name, a.gzip.body.len())).collect();
        let all: usize = sizes.iter().map(|(_, size)| size).sum();
        assert!(all <= MOST, "{all} bytes: {sizes:?}");
    }

    #[test]
    fn the_page_names_only_files_that_are_there() {
        let text = |name: &str| {
            let (_, bytes) = FILES.iter().find(|(known, _)| *known == name).unwrap();
            std::str::from_utf8(bytes).unwrap()
        };
        for (name, _) in FILES.iter().filter(|(name, _)| name.ends_with(".js")) {
            for line in text(name).lines().filter(|line| line.starts_with("import ")) {
                let from = line.rsplit('"').nth(1).unwrap().trim_start_matches("./");
                assert!(FILES.iter().any(|(known, _)| *known == from), "{name}: {line}");
            }
            let used = name == &"main.js"
                || FILES.iter().any(|(other, _)| {
                    other.ends_with(".js") && text(other).contains(&format!("\"./{name}\""))
                });
            assert!(used, "nothing imports {name}");
        }
        // What the policy forbids would not run, and data must not become markup.
        for (name, _) in FILES.iter().filter(|(name, _)| !name.ends_with(".svg")) {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=\"",
                " onclick=\"",
                "//cdn",
                "https://",
            ] {
                assert!(!text(name).contains(forbidden), "{name} has {forbidden}");
            }
        }
    }

    #[test]
    fn encodings_and_tags_by_table() {
        let asset = &ASSETS.as_ref().unwrap()[0];
        let (plain, gzip) = (asset.plain.etag.as_str(), asset.gzip.etag.as_str());
        for (accept, known, status, encoding) in [
            ("", "", 200, None),
            ("br, gzip;q=0.8", "", 200, Some("gzip")),
            ("gzip", gzip, 304, None),
            ("gzip", plain, 200, Some("gzip")),
            ("", &format!("\"x\", W/{plain}"), 304, None),
            ("identity", "*", 304, None),
        ] {
            let mut asked = HeaderMap::new();
            asked.insert(ACCEPT_ENCODING, HeaderValue::from_str(accept).unwrap());
            asked.insert(IF_NONE_MATCH, HeaderValue::from_str(known).unwrap());
            let answer = asset.answer(&asked);
            let sent = answer.headers().get(CONTENT_ENCODING).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), sent), (status, encoding), "{accept} {known}");
            assert!(
                answer.headers().contains_key(ETAG) && answer.headers().contains_key(CONTENT_SECURITY_POLICY)
            );
        }
    }
}
