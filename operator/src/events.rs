//! Events for people.
//!
//! What is said again is counted in one event (`series` of `events.k8s.io/v1`). kube's recorder takes two events of one
//! reason about one object for the same whatever they say, so that of three members that were restarted only the first was
//! named. So each note has a recorder of its own here.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long the same note is the same event: as long as the recorder itself remembers.
const KEPT: Duration = Duration::from_mins(6);

/// Bytes that a note may have: the API server refuses a longer one, and nobody would hear of what happened.
const NOTE: usize = 1024;
/// What a note ends with that is not all that there is to say.
const CUT: &str = "… (all of it is in the log of the operator)";

/// Writes events.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
    by_note: Arc<Mutex<HashMap<String, Kept>>>,
}

struct Kept {
    recorder: Recorder,
    used: Instant,
}

impl Events {
    /// Events that name `reporter` as who reports.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        Self { client, reporter, by_note: Arc::default() }
    }

    /// Writes an event about an object, or counts it where it was written of late. Of a note that is too long only the
    /// beginning is written, and all of it is logged.
    ///
    /// # Errors
    /// If the API server does not take it.
    pub async fn publish(&self, event: Event, about: &ObjectReference) -> kube::Result<()> {
        let note = event.note.unwrap_or_default();
        let fits = fitting(&note);
        if fits != note {
            tracing::info!(
                kind = about.kind,
                namespace = about.namespace,
                name = about.name,
                reason = event.reason,
                note,
                "an event"
            );
        }
        let event = Event { note: Some(fits.clone()), ..event };
        self.recorder(fits).publish(&event, about).await
    }

    fn recorder(&self, note: String) -> Recorder {
        let now = Instant::now();
        let mut by_note = self.by_note.lock().unwrap_or_else(PoisonError::into_inner);
        by_note.retain(|_, kept| now.duration_since(kept.used) < KEPT);
        let new = || Kept { recorder: Recorder::new(self.client.clone(), self.reporter.clone()), used: now };
        let kept = by_note.entry(note).or_insert_with(new);
        kept.used = now;
        kept.recorder.clone()
    }
}

/// The note as the API server takes it.
fn fitting(note: &str) -> String {
    if note.len() <= NOTE {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(NOTE - CUT.len());
    format!("{}{CUT}", &note[..end])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use kube::client::Body;
    use kube::runtime::events::EventType;
    use std::convert::Infallible;

    #[tokio::test]
    async fn what_says_something_else_is_another_event() {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let server = asked.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            server.lock().unwrap().push(request.method().to_string());
            async move {
                let bytes = request.into_body().collect_bytes().await.unwrap();
                Ok::<_, Infallible>(http::Response::new(Body::from(bytes.to_vec())))
            }
        });
        let events = Events::new(Client::new(service, "shop"), "test".into());
        let about = |name: &str| ObjectReference { name: Some(name.into()), ..ObjectReference::default() };
        for (cluster, note, expected) in [
            ("orders", "pod orders-2 is made anew", "POST"),
            ("orders", "pod orders-1 is made anew", "POST"),
            ("orders", "pod orders-2 is made anew", "PATCH"),
            ("carts", "pod orders-2 is made anew", "POST"),
        ] {
            let event = Event {
                type_: EventType::Normal,
                reason: "MemberRestarted".into(),
                note: Some(note.into()),
                action: "DeletePod".into(),
                secondary: None,
            };
            events.publish(event, &about(cluster)).await.unwrap();
            assert_eq!(asked.lock().unwrap().pop().as_deref(), Some(expected), "{cluster}: {note}");
        }
    }

    #[test]
    fn a_note_that_is_too_long_says_where_the_rest_is() {
        for (note, cut) in [
            ("short".to_owned(), false),
            ("x".repeat(1024), false),
            ("x".repeat(1025), true),
            // Two bytes each, and four.
            ("ä".repeat(2000), true),
            (format!("x{}", "🦀".repeat(400)), true),
        ] {
            let fits = fitting(&note);
            assert!(fits.len() <= 1024, "{} bytes", fits.len());
            assert_eq!(fits != note, cut, "{note}");
            let begins = fits.strip_suffix(CUT).map(|begins| note.starts_with(begins) && fits.len() > 1000);
            assert_eq!(begins, cut.then_some(true), "{fits}");
        }
    }
}
