//! What is known of one kind of object: kept up to date by a watch of its own, with indexes.
//!
//! kube's `Store` has no index, and a Controller shares one backoff among all its watches, so that one forbidden watch
//! stalls the others. Here each watch is a task of its own that waits by itself after a failure.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher;
use tokio::sync::watch;

/// Namespace (empty for cluster-scoped) and name.
pub type Key = (String, String);

/// Objects of one kind by key and by index.
pub struct Table<K> {
    inner: RwLock<Inner<K>>,
    index: fn(&K) -> Vec<String>,
    ready: watch::Sender<bool>,
}

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    by_index: HashMap<String, BTreeSet<Key>>,
    /// Objects that are there and can't be read, e.g. because a newer version wrote them.
    unreadable: HashMap<Key, Box<ObjectMeta>>,
}

/// Tells who watches a table what it was and what it is; one of both is there.
pub type OnChange<K> = Arc<dyn Fn(Option<&K>, Option<&K>) + Send + Sync>;

impl<K> Table<K>
where
    K: Resource + Send + Sync + 'static,
{
    /// An empty table with an index.
    pub fn new(index: fn(&K) -> Vec<String>) -> Arc<Table<K>> {
        let inner = Inner { objects: HashMap::new(), by_index: HashMap::new(), unreadable: HashMap::new() };
        Arc::new(Table { inner: RwLock::new(inner), index, ready: watch::Sender::new(false) })
    }

    /// Waits until the first list is complete.
    pub async fn ready(&self) {
        // The sender lives as long as the table, so waiting can't fail.
        let _ = self.ready.subscribe().wait_for(|it| *it).await;
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.read(|it| it.objects.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// All objects, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read(|it| it.objects.values().cloned().collect())
    }

    /// The objects under an index, in the order of their keys.
    pub fn under(&self, index: &str) -> Vec<Arc<K>> {
        self.read(|it| {
            it.by_index
                .get(index)
                .into_iter()
                .flatten()
                .filter_map(|key| it.objects.get(key).cloned())
                .collect()
        })
    }

    /// The names and UIDs of objects that are there and can't be read.
    pub fn unreadable(&self) -> Vec<Box<ObjectMeta>> {
        self.read(|it| it.unreadable.values().cloned().collect())
    }

    /// Follows a stream of events for ever. `open` takes the object out of what is on the wire.
    pub async fn follow<W>(
        self: Arc<Self>,
        name: &'static str,
        events: impl Stream<Item = watcher::Result<watcher::Event<W>>>,
        open: fn(W) -> Result<K, Box<ObjectMeta>>,
        on_change: OnChange<K>,
    ) {
        let mut events = std::pin::pin!(events);
        let mut wait = Duration::from_millis(200);
        let mut listed: HashMap<Key, Arc<K>> = HashMap::new();
        let mut unreadable: HashMap<Key, Box<ObjectMeta>> = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => match event {
                    watcher::Event::Init => {
                        listed.clear();
                        unreadable.clear();
                    }
                    watcher::Event::InitApply(object) => match open(object) {
                        Ok(object) => drop(listed.insert(key(object.meta()), Arc::new(object))),
                        Err(meta) => drop(unreadable.insert(key(&meta), meta)),
                    },
                    watcher::Event::InitDone => {
                        wait = Duration::from_millis(200);
                        self.write(|it| it.unreadable = std::mem::take(&mut unreadable));
                        self.replace(std::mem::take(&mut listed), &on_change);
                        self.ready.send_replace(true);
                    }
                    watcher::Event::Apply(object) => {
                        wait = Duration::from_millis(200);
                        match open(object) {
                            Ok(object) => {
                                let key = key(object.meta());
                                self.write(|it| drop(it.unreadable.remove(&key)));
                                self.put(&key, Some(&Arc::new(object)), &on_change);
                            }
                            Err(meta) => {
                                let key = key(&meta);
                                self.write(|it| drop(it.unreadable.insert(key.clone(), meta)));
                                self.put(&key, None, &on_change);
                            }
                        }
                    }
                    watcher::Event::Delete(object) => {
                        let key = open(object).map_or_else(|meta| key(&meta), |it| key(it.meta()));
                        self.write(|it| drop(it.unreadable.remove(&key)));
                        self.put(&key, None, &on_change);
                    }
                },
                Err(error) => {
                    tracing::warn!(watch = name, %error, "watch failed, tries again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(30));
                }
            }
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Inner<K>) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Inner<K>)) {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn put(&self, key: &Key, object: Option<&Arc<K>>, on_change: &OnChange<K>) {
        let before = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            let before = match object {
                Some(object) => inner.objects.insert(key.clone(), object.clone()),
                None => inner.objects.remove(key),
            };
            let old = before.as_deref().map(self.index).unwrap_or_default();
            let new = object.map(|it| (self.index)(it)).unwrap_or_default();
            for index in old.iter().filter(|it| !new.contains(it)) {
                if let Some(keys) = inner.by_index.get_mut(index) {
                    keys.remove(key);
                    if keys.is_empty() {
                        inner.by_index.remove(index);
                    }
                }
            }
            for index in new {
                inner.by_index.entry(index).or_default().insert(key.clone());
            }
            before
        };
        if before.is_some() || object.is_some() {
            on_change(before.as_deref(), object.map(|it| &**it));
        }
    }

    /// A new list: what is not in it is gone.
    fn replace(&self, listed: HashMap<Key, Arc<K>>, on_change: &OnChange<K>) {
        let gone: Vec<Key> =
            self.read(|it| it.objects.keys().filter(|it| !listed.contains_key(*it)).cloned().collect());
        for key in gone {
            self.put(&key, None, on_change);
        }
        for (key, object) in listed {
            self.put(&key, Some(&object), on_change);
        }
    }
}

fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::slim::SlimPod;
    use kube::ResourceExt as _;

    fn pod(name: &str, node: &str) -> SlimPod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"namespace": "a", "name": name}, "spec": {"nodeName": node}}),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn the_index_follows_the_objects() {
        let table = Table::new(|it: &SlimPod| it.spec.node_name.iter().cloned().collect());
        let events = futures::stream::iter([
            Ok(watcher::Event::Init),
            Ok(watcher::Event::InitApply(pod("x", "n1"))),
            Ok(watcher::Event::InitApply(pod("y", "n1"))),
            Ok(watcher::Event::InitDone),
            Ok(watcher::Event::Apply(pod("x", "n2"))),
            Ok(watcher::Event::Init),
            Ok(watcher::Event::InitApply(pod("x", "n2"))),
            Ok(watcher::Event::InitDone),
        ]);
        table.clone().follow("pods", events, Ok, Arc::new(|_, _| ())).await;
        table.ready().await;
        let names = |node: &str| table.under(node).iter().map(|it| it.name_any()).collect::<Vec<_>>();
        assert_eq!(names("n2"), ["x"]);
        assert_eq!(names("n1"), Vec::<String>::new(), "what a new list lacks is gone");
        assert_eq!(table.all().len(), 1);
    }
}
