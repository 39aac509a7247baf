//! Workers that were created and that the watch has not shown yet. Who plans without them creates them once more, only to hear
//! that the name is taken.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::read::ContractRef;

/// A watch that has not shown a pod by then may never do so: it was deleted at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// By endpoint: names of pods, and when they were created.
#[derive(Default)]
pub(in crate::controllers) struct Awaited(Mutex<HashMap<ContractRef, HashMap<String, Instant>>>);

impl Awaited {
    /// A worker's pod was created.
    pub(super) fn created(&self, contract: &ContractRef, pod: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(contract.clone()).or_default().insert(pod.to_owned(), Instant::now());
    }

    /// How long to wait at most until the watch has shown all that were created; `None` when it has. `shown`: has it shown this?
    pub(super) fn left(&self, contract: &ContractRef, shown: impl Fn(&str) -> bool) -> Option<Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = all.get_mut(contract)?;
        pods.retain(|pod, since| since.elapsed() < PATIENCE && !shown(pod));
        let left = pods.values().map(|since| PATIENCE.saturating_sub(since.elapsed())).max();
        if left.is_none() {
            all.remove(contract);
        }
        left
    }

    /// The endpoint is gone.
    pub(super) fn forget(&self, contract: &ContractRef) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(contract);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::read::Kind;

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_awaited_until_it_is_shown_and_not_for_ever() {
        let contract =
            ContractRef { kind: Kind::Endpoint, namespace: "a".to_owned(), name: "llm".to_owned() };
        let awaited = Awaited::default();
        assert_eq!(awaited.left(&contract, |_| false), None, "nothing was created");
        awaited.created(&contract, "llm-1");
        tokio::time::advance(Duration::from_secs(1)).await;
        awaited.created(&contract, "llm-2");
        assert_eq!(awaited.left(&contract, |it| it == "llm-2"), Some(Duration::from_secs(4)));
        assert_eq!(awaited.left(&contract, |it| it == "llm-1"), None, "each was shown once");
        awaited.created(&contract, "llm-3");
        tokio::time::advance(PATIENCE).await;
        assert_eq!(awaited.left(&contract, |_| false), None, "deleted before the watch could show it");
    }
}
