//! Numbers and traces are pushed to a collector of OpenTelemetry, by gRPC, as `-otlp-endpoint` says.
//!
//! The numbers are those of `/metrics`, read from its text: there is one registry. The messages are those of crate
//! `opentelemetry-proto`; a call is one POST over HTTP/2, for which the HTTP client does that talks to stores and
//! sinks, so that it has the same TLS. A collector that is away, slow or refuses costs what it was to be sent, which is counted,
//! and no request anything.

mod collector;
mod config;
mod metrics;
mod push;
mod spans;

pub use collector::{Collector, CollectorError};
pub use config::{OtlpConfig, endpoint};
pub use push::{Otlp, OtlpNumbers, Pushed};
