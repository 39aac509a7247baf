//! Kubernetes Events, each told once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// The same words of the same object are told again after this.
const AGAIN_AFTER: Duration = Duration::from_mins(10);

/// Publishes Events. kube's recorder merges what has the same reason and keeps the first note, so what is new must not
/// look like what is old: the note is a part of what we compare.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    told: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Events {
    pub(super) fn new(client: Client, identity: &str) -> Events {
        let reporter =
            Reporter { controller: "tenure-operator".to_owned(), instance: Some(identity.to_owned()) };
        Events { recorder: Recorder::new(client, reporter), told: Arc::default() }
    }

    async fn publish(&self, about: &ObjectReference, warning: bool, reason: &str, note: &str) {
        let words = format!("{}/{reason}/{note}", about.uid.as_deref().unwrap_or_default());
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.retain(|_, at| at.elapsed() < AGAIN_AFTER);
            if told.contains_key(&words) {
                return;
            }
            told.insert(words.clone(), Instant::now());
        }
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            // 1,024 bytes are the API's limit of a note.
            note: Some(note.chars().take(500).collect()),
            action: reason.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(%error, reason, "event was not written");
            self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&words);
        }
    }
}

impl super::Cluster {
    /// Tells of an object what happened; told again only after ten minutes.
    pub async fn tell(&self, about: &ObjectReference, warning: bool, reason: &str, note: &str) {
        self.events.publish(about, warning, reason, note).await;
    }
}
