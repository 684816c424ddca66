//! A member that says who it is and takes the lead when it is asked to, and the way to it: the API server forwards a port over a
//! WebSocket, as Kubernetes does.

use super::Asked;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Its Raft id.
pub const ID: &str = "0000000000000065";
/// The user and password that it knows, as a client sends them.
const ME: &str = "Basic bWU6czNjcmV0";

/// Starts one. What it is asked to change is written down.
pub async fn start(asked: Asked) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/cluster", get(report))
        .route("/cluster/transfer", post(transfer))
        .with_state(asked);
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

fn is_known(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|sent| sent == ME)
}

fn answer(status: StatusCode, body: serde_json::Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

async fn report(headers: HeaderMap) -> Response {
    if !is_known(&headers) {
        return answer(StatusCode::UNAUTHORIZED, json!({}));
    }
    answer(
        StatusCode::OK,
        json!({
            "clusterId": "c1", "epoch": 1, "nodeId": ID, "name": "orders-1", "raftAddress": "orders-1:4002",
            "apiAddress": "orders-1:4001", "version": "1.0.0", "phase": "Serving", "role": "Follower", "term": 1,
            "leader": null, "lastLogIndex": 9, "lastLogTerm": 1, "committedIndex": 9, "appliedIndex": 9,
            "quorumSilentMilliseconds": null,
            "membership": {"logIndex": 1, "committed": true, "joint": false, "members": []},
        }),
    )
}

async fn transfer(State(asked): State<Asked>, headers: HeaderMap, body: String) -> Response {
    let who = if is_known(&headers) { "me" } else { "nobody" };
    asked.lock().unwrap().push(format!("POST member /cluster/transfer as {who} {body}"));
    answer(StatusCode::OK, json!({"leader": {"nodeId": ID, "name": "orders-1"}, "term": 2}))
}

/// Forwards a connection to the member, whichever port of which pod is asked for.
pub async fn forward(request: Request, member: SocketAddr) -> Response {
    let accept = derive_accept_key(request.headers()[SEC_WEBSOCKET_KEY].as_bytes());
    let query = request.uri().query().unwrap_or_default();
    let port: u16 = query.split("ports=").nth(1).unwrap().parse().unwrap();
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let upgraded = TokioIo::new(upgrade.await.unwrap());
        carry(WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await, port, member).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .header(SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io")
        .body(Body::empty())
        .unwrap()
}

async fn carry<S>(mut socket: WebSocketStream<S>, port: u16, member: SocketAddr)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Each channel, that of data and that of errors, begins by naming its port.
    let [low, high] = port.to_le_bytes();
    for channel in [0, 1] {
        socket.send(Message::binary(vec![channel, low, high])).await.unwrap();
    }
    let mut connection = TcpStream::connect(member).await.unwrap();
    let mut buffer = vec![0; 65_536];
    loop {
        tokio::select! {
            read = connection.read(&mut buffer) => {
                let Ok(read @ 1..) = read else { break };
                let data = [&[0], &buffer[..read]].concat();
                if socket.send(Message::binary(data)).await.is_err() { break }
            }
            message = socket.next() => {
                let Some(Ok(Message::Binary(data))) = message else { break };
                if connection.write_all(&data[1..]).await.is_err() { break }
            }
        }
    }
}
