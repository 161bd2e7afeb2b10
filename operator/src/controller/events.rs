//! Events, each told once in a while and not at every look.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::Instant;
use tracing::warn;

/// How long the same event about the same object is not repeated.
pub const QUIET: Duration = Duration::from_mins(10);
/// Bytes that the API server takes as an event's note.
const MAX_NOTE: usize = 1000;

/// When what was told: the UID of the object, the reason, the note.
type Told = HashMap<(String, &'static str, String), Instant>;

/// Publishes events.
pub struct Events {
    recorder: Recorder,
    told: Mutex<Told>,
}

impl Events {
    /// Events of this operator's replica.
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter {
            controller: codexstore_crds::names::FIELD_MANAGER.to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            told: Mutex::default(),
        }
    }

    /// Something that a user should look at.
    pub async fn warning(&self, about: &ObjectReference, reason: &'static str, note: &str) {
        self.tell(EventType::Warning, about, reason, note).await;
    }

    /// Something that went as it should.
    pub async fn normal(&self, about: &ObjectReference, reason: &'static str, note: &str) {
        self.tell(EventType::Normal, about, reason, note).await;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(
        &self,
        type_: EventType,
        about: &ObjectReference,
        reason: &'static str,
        note: &str,
    ) {
        let note = cut(note);
        let key = (
            about.uid.clone().unwrap_or_default(),
            reason,
            note.to_owned(),
        );
        {
            let mut told = self.lock();
            told.retain(|_, at| at.elapsed() < QUIET);
            if told.contains_key(&key) {
                return;
            }
            told.insert(key.clone(), Instant::now());
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        // An event is a courtesy: the status says the same, so a failure stops nothing.
        if let Err(error) = self.recorder.publish(&event, about).await {
            // The next look tells it again.
            self.lock().remove(&key);
            // In a namespace that is being deleted nobody may: then this is where it can be read.
            warn!(%error, reason, note, about = about.name, namespace = about.namespace, "cannot publish an event");
        }
    }
}

fn cut(note: &str) -> &str {
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fake_api::{FakeApi, Fault};

    #[tokio::test]
    async fn one_that_was_not_published_is_told_again_and_one_that_was_is_not() {
        let api = FakeApi::start().await;
        let events = Events::new(api.client.clone(), "test".into());
        let about = ObjectReference {
            namespace: Some("shop".into()),
            name: Some("orders".into()),
            uid: Some("uid".into()),
            ..ObjectReference::default()
        };
        api.fail(0, Fault::Before);
        for published in [0, 1, 1] {
            events.normal(&about, "KeyRotated", "all is well").await;
            assert_eq!(api.told("KeyRotated"), published);
        }
    }

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(MAX_NOTE);
        assert!(cut(&long).len() <= MAX_NOTE && cut(&long).ends_with('é'));
    }
}
