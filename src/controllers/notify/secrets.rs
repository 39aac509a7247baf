//! The keys that webhooks are signed with: a Secret of the operator's own namespace, read for each letter, so that a new key is used
//! at once and none is kept.

use k8s_openapi::api::core::v1::Secret;

use crate::api::names;
use crate::cluster::Cluster;
use crate::notify::Undelivered;
use crate::notify::signature::Key;

/// Keys of one Secret: an old and a new one, and room for a mistake.
const KEYS_MAX: usize = 4;

/// Each entry is a key.
pub(super) async fn read(cluster: &Cluster, name: &str) -> Result<Vec<Key>, Undelivered> {
    let wrong = |it: String| Err(Undelivered::for_now(it));
    if name.is_empty() {
        return wrong("name a Secret in secretName: webhooks are always signed".to_owned());
    }
    let place = format!("the Secret {name} of namespace {}", names::OPERATOR_NAMESPACE);
    let data = match cluster.read::<Secret>(names::OPERATOR_NAMESPACE, name).await {
        Ok(Some(secret)) => secret.data.unwrap_or_default(),
        Ok(None) => return wrong(format!("{place} does not exist: make it, with a key in each entry")),
        Err(error) => return wrong(format!("{place} can't be read: {error}")),
    };
    if data.is_empty() || data.len() > KEYS_MAX {
        return wrong(format!("{place} has {} keys: it must have 1 to {KEYS_MAX}", data.len()));
    }
    data.iter()
        .map(|(entry, value)| {
            let text = std::str::from_utf8(&value.0).unwrap_or_default();
            Key::parse(text).map_err(|it| Undelivered::for_now(format!("entry {entry} of {place} {it}")))
        })
        .collect()
}
