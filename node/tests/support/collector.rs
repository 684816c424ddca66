//! A collector of OpenTelemetry that takes metrics and traces by gRPC, and goes wrong as it is told to.

use super::certificates::{Authority, Files};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// What it does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Take,
    /// Refuses with this status of gRPC.
    Refuse(u32),
    /// Never answers.
    Hang,
}

/// A span and the member that it came from.
#[derive(Clone, Debug)]
pub struct Seen {
    pub member: String,
    pub span: Span,
}

struct Shared {
    reply: Mutex<Reply>,
    spans: Mutex<Vec<Seen>>,
    /// Of each push: from which member, and what.
    metrics: Mutex<Vec<(String, Vec<Metric>)>>,
}

/// A collector; it ends with the value.
pub struct Collector {
    pub port: u16,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    /// Takes everything until it is told otherwise; with TLS if there is a certificate. Port 0 is any.
    pub fn start(port: u16, tls: Option<&Files>) -> Self {
        Self::start_with(port, tls, None)
    }

    /// The same, for callers with a certificate of this authority only.
    pub fn start_for(clients: &Authority, tls: &Files) -> Self {
        Self::start_with(0, Some(tls), Some(clients))
    }

    fn start_with(port: u16, tls: Option<&Files>, clients: Option<&Authority>) -> Self {
        let shared = Arc::new(Shared {
            reply: Mutex::new(Reply::Take),
            spans: Mutex::default(),
            metrics: Mutex::default(),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(|files| files.acceptor(clients, &[b"h2"]));
        let serving = shared.clone();
        runtime.spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (shared, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let service = TowerToHyperService::new(tower::service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
                    }));
                    let builder = Builder::new(TokioExecutor::new()).http2_only();
                    // A caller that hangs up is one of the things that happen.
                    match acceptor {
                        None => drop(builder.serve_connection(TokioIo::new(socket), service).await),
                        Some(acceptor) => {
                            let Ok(socket) = acceptor.accept(socket).await else { return };
                            drop(builder.serve_connection(TokioIo::new(socket), service).await);
                        }
                    }
                });
            }
        });
        Self { port, shared, _runtime: runtime }
    }

    /// What it does from now on.
    pub fn reply(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// What it was sent so far.
    pub fn spans(&self) -> Vec<Seen> {
        self.shared.spans.lock().unwrap().clone()
    }

    /// The number that `member` pushed last under a name and with an attribute (key, value) if one is said.
    pub fn number(&self, member: &str, name: &str, with: Option<(&str, &str)>) -> Option<i64> {
        let pushed = self.shared.metrics.lock().unwrap();
        let (_, metrics) = pushed.iter().rev().find(|(from, _)| from == member)?;
        let points = match metrics.iter().find(|metric| metric.name == name)?.data.as_ref()? {
            metric::Data::Gauge(gauge) => &gauge.data_points,
            metric::Data::Sum(sum) => &sum.data_points,
            metric::Data::Histogram(histogram) => {
                let found = histogram.data_points.iter().find(|point| has(with, &point.attributes));
                return Some(found?.count as i64);
            }
            other => panic!("{other:?}"),
        };
        match points.iter().find(|point| has(with, &point.attributes))?.value? {
            number_data_point::Value::AsInt(value) => Some(value),
            number_data_point::Value::AsDouble(value) => panic!("{name} is {value}"),
        }
    }
}

fn has(with: Option<(&str, &str)>, attributes: &[KeyValue]) -> bool {
    with.is_none_or(|(key, value)| text(attributes, key) == value)
}

/// The text of an attribute.
pub fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(any_value::Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

async fn answer(request: Request<hyper::body::Incoming>, shared: &Shared) -> Response<Body> {
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap());
    assert_eq!((body[0], length as usize), (0, body.len() - 5));
    let reply = *shared.reply.lock().unwrap();
    let outcome = match reply {
        Reply::Take => "0".to_owned(),
        Reply::Refuse(code) => code.to_string(),
        Reply::Hang => std::future::pending().await,
    };
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let outcome = HeaderValue::from_str(&outcome).unwrap();
    if reply != Reply::Take {
        response.headers_mut().insert("grpc-status", outcome);
        response.headers_mut().insert("grpc-message", HeaderValue::from_static("not%20now"));
        return response;
    }
    take(&path, body.slice(5..), shared);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", outcome);
    let frames =
        [Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    *response.body_mut() = Body::new(StreamBody::new(futures::stream::iter(frames)));
    response
}

fn take(path: &str, body: Bytes, shared: &Shared) {
    match path {
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
            for resource in ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics {
                let member = text(&resource.resource.unwrap().attributes, "service.instance.id");
                let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics).collect();
                shared.metrics.lock().unwrap().push((member, metrics));
            }
        }
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
            for resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
                let member = text(&resource.resource.unwrap().attributes, "service.instance.id");
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                let seen = spans.map(|span| Seen { member: member.clone(), span });
                shared.spans.lock().unwrap().extend(seen);
            }
        }
        other => panic!("{other}"),
    }
}
