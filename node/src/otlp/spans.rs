//! Spans in OTLP's words.

use crate::trace::{Span, SpanKind};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{self as proto, Status, span, status};

/// An attribute.
pub fn attribute(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Microseconds since 1970 as nanoseconds.
pub fn nanoseconds(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0).saturating_mul(1000)
}

/// A span that has ended.
pub fn span_of(span: Span) -> proto::Span {
    let kind = match span.kind {
        SpanKind::Internal => span::SpanKind::Internal,
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
    };
    let attributes = span.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
    let failed = Status { code: status::StatusCode::Error.into(), ..Status::default() };
    proto::Span {
        trace_id: span.context.trace.to_vec(),
        span_id: span.context.span.to_vec(),
        trace_state: span.state.as_str().to_owned(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        // Sampled.
        flags: 1,
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(span.began_us),
        end_time_unix_nano: nanoseconds(span.ended_us),
        attributes,
        status: span.failed.then_some(failed),
        ..proto::Span::default()
    }
}
