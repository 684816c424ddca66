//! The way to the API server, on which nobody waits for ever.
//!
//! A connection whose other end is gone without a word says nothing until TCP gives up, a quarter of an hour later, and kube sets no
//! bound to how long an answer takes: its own would count the silence of watches, too, and end them. So every exchange but a
//! watch has its time, from the request to the last byte of the answer, retries included; of a watch only the beginning has, and
//! kube's watcher takes one for broken that is silent for longer than a server lets it be. What is given up closes its
//! connection, so that the next request takes another one.

use http::{Request, Response};
use kube::client::Body;
use kube::{Client, Config};
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an exchange may take: longer than the thirty seconds that an admission webhook has at the most.
const EXCHANGE: Duration = Duration::from_secs(35);

/// The API server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs_f32())]
pub struct NoAnswer(Duration);

/// A client of the API server that `config` tells of.
pub fn connect(mut config: Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    Ok(bounded(Client::try_from(config)?, EXCHANGE))
}

/// The client, whose exchanges take no longer than `limit`.
pub fn bounded(client: Client, limit: Duration) -> Client {
    let (namespace, until) = (client.default_namespace().to_owned(), *client.valid_until());
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            match tokio::time::timeout(limit, exchange(&client, request)).await {
                Ok(answer) => answer.map_err(tower::BoxError::from),
                Err(_) => Err(NoAnswer(limit).into()),
            }
        }
    });
    Client::new(service, namespace).with_valid_until(until)
}

/// The answer, whole unless it is a watch's.
async fn exchange(client: &Client, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
    let watches = is_watch(&request);
    let answer = client.send(request).await?;
    if watches {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, body.collect_bytes().await?.into()))
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{WatchEvent, WatchParams};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_millis(500);
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

    /// What a server says to one connection after the other, piece by piece, each later than the limit; then it says nothing
    /// more, and keeps the connection.
    async fn server(scripts: Vec<Vec<String>>) -> Api<ConfigMap> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let scripts = Arc::new(Mutex::new(VecDeque::from(scripts)));
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let script = scripts.lock().unwrap().pop_front().unwrap_or_default();
                tokio::spawn(async move {
                    let mut asked = [0; 4096];
                    assert!(connection.read(&mut asked).await.unwrap() > 0);
                    let mut pieces = script.into_iter();
                    let first = pieces.next().unwrap_or_default();
                    connection.write_all(first.as_bytes()).await.unwrap();
                    for piece in pieces {
                        tokio::time::sleep(LIMIT * 2).await;
                        // Who has given up hears no more.
                        let _ = connection.write_all(piece.as_bytes()).await;
                    }
                    while connection.read(&mut asked).await.is_ok_and(|count| count > 0) {}
                });
            }
        });
        let mut config = Config::new(url);
        config.root_cert = Some(vec![]);
        let client = Client::try_from(config).unwrap();
        Api::namespaced(bounded(client, LIMIT), "shop")
    }

    fn answer(body: &str) -> String {
        format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn who_does_not_answer_whole_is_given_up_and_the_next_is_asked() {
        let map = r#"{"metadata":{"name":"a"}}"#;
        let whole = answer(map);
        let (begun, rest) = whole.split_at(whole.len() - 5);
        let silent = vec![];
        let stuck = vec![begun.to_owned(), rest.to_owned()];
        let maps = server(vec![silent, stuck, vec![whole.clone()]]).await;
        for what in ["silent", "stuck in the middle of an answer"] {
            let error = maps.get("a").await.unwrap_err();
            assert!(error.to_string().contains("did not answer within 0.5 s"), "{what}: {error}");
        }
        assert_eq!(maps.get("a").await.unwrap().metadata.name.as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn a_watch_may_be_silent() {
        let event = r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#.to_owned() + "\n";
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        let maps = server(vec![vec![format!("{HEAD}transfer-encoding: chunked\r\n\r\n"), chunk]]).await;
        let mut events = maps.watch(&WatchParams::default(), "1").await.unwrap().boxed();
        let Some(Ok(WatchEvent::Added(map))) = events.next().await else { panic!("the watch was ended") };
        assert_eq!(map.metadata.name.as_deref(), Some("a"));
    }
}
