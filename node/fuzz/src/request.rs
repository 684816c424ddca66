//! What a client sends: a line of parameters, then a body. What the decoder makes of JSON is what JSON says.

use node::fuzzing::{decode_json, decode_text, statements};
use node::http::params::{Params, parse_duration};
use node::raft::command::{EncodedRequest, Param, RequestFlags, RequestId};
use serde_json::{Number, Value};

pub fn run(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (query, body) = input.split_at(end);
    if let Ok(query) = std::str::from_utf8(query) {
        parameters(query);
    }
    let id = RequestId { node: 1, boot: 2, sequence: 3 };
    let flags = RequestFlags(0x2a);
    if let Ok(request) = decode_json(body, flags, id) {
        compare(&request, &serde_json::from_slice(body).expect("it was decoded"));
        let view = request.view().unwrap();
        assert_eq!((view.id, view.flags), (id, flags));
        let again = EncodedRequest::from_peer(request.clone().into_bytes()).expect("what is sent is taken");
        let merged = EncodedRequest::merge(&[request, again], flags, id).unwrap();
        EncodedRequest::from_peer(merged.into_bytes()).expect("merged requests are requests");
    }
    if let Ok(text) = std::str::from_utf8(body) {
        // A refused PRAGMA is the only thing that is wrong with a text.
        if let Ok(request) = decode_text(text, flags, id) {
            assert_eq!(request.view().unwrap().statements().next().unwrap().unwrap().sql, text);
        }
        script(text);
    }
}

fn parameters(query: &str) {
    let Ok(params) = Params::parse(Some(query)) else { return };
    for name in ["timeout", "q", "level"] {
        assert_eq!(params.flag(name), params.get(name).is_some());
        let _ = (params.duration(name), params.integer(name));
        if let Some(text) = params.get(name) {
            let _ = parse_duration(text);
        }
    }
}

/// The statements of a dump are pieces of it, in order.
fn script(text: &str) {
    let mut rest = text;
    for statement in statements(text) {
        assert!(!statement.is_empty());
        let at = rest.find(statement).expect("a statement is a piece of the text");
        rest = &rest[at + statement.len()..];
    }
}

fn compare(request: &EncodedRequest, json: &Value) {
    let expected = json.as_array().unwrap();
    let mut found = request.view().unwrap().statements();
    for statement in expected {
        let view = found.next().unwrap().expect("as many statements as JSON has");
        let (sql, params) = match statement {
            Value::String(sql) => (sql.as_str(), &[][..]),
            Value::Array(parts) => (parts[0].as_str().unwrap(), &parts[1..]),
            other => panic!("{other} is no statement"),
        };
        assert_eq!(view.sql, sql);
        let bound: Vec<_> = view.params().map(Result::unwrap).collect();
        if params.iter().any(Value::is_object) {
            // Names may come twice, of which serde_json's values keep one.
            continue;
        }
        assert_eq!(bound.len(), params.len());
        for ((name, value), json) in bound.iter().zip(params) {
            assert!(name.is_none());
            assert!(agree(value, json), "{value:?} is not {json}");
        }
    }
    assert!(found.next().unwrap().is_none());
}

/// `-0` is an integer, which serde_json's values take for a real number.
fn is_minus_zero(json: &Number) -> bool {
    json.as_f64().is_some_and(|real| real == 0.0 && real.is_sign_negative())
}

fn agree(value: &Param<'_>, json: &Value) -> bool {
    match (value, json) {
        (Param::Null, Value::Null) => true,
        (Param::Integer(n), Value::Bool(b)) => *n == i64::from(*b),
        (Param::Integer(n), Value::Number(json)) => {
            json.as_i64() == Some(*n) || (*n == 0 && is_minus_zero(json))
        }
        (Param::Real(r), Value::Number(json)) => json.as_i64().is_none() && json.as_f64() == Some(*r),
        (Param::Text(text), Value::String(json)) => text == json,
        (Param::Blob(_), Value::String(json)) => json.trim().starts_with(['x', 'X']),
        (Param::Blob(bytes), Value::Array(json)) => {
            bytes.len() == json.len() && bytes.iter().zip(json).all(|(b, j)| j.as_u64() == Some((*b).into()))
        }
        _ => false,
    }
}
