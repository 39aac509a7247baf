//! All endpoints of this gateway, as the leader or the disk last said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::watch;

use super::endpoint::{Endpoint, Shared};
use super::probe;
use crate::domain::slots::Holder;
use crate::link::message::{EndpointKey, Route, Table, ToGateway};

/// The endpoints.
pub struct Endpoints {
    /// What all endpoints share.
    pub shared: Arc<Shared>,
    started: Instant,
    endpoints: RwLock<HashMap<EndpointKey, Arc<Endpoint>>>,
    /// The gateways, this one included: name → address of the link port.
    replicas: watch::Sender<BTreeMap<String, String>>,
    /// How often the table has changed.
    version: watch::Sender<u64>,
}

impl Endpoints {
    /// For a gateway of this name that knows nothing yet.
    pub fn new(replica: &str) -> Arc<Endpoints> {
        Arc::new(Endpoints {
            shared: Shared::new(replica),
            started: Instant::now(),
            endpoints: RwLock::default(),
            replicas: watch::Sender::default(),
            version: watch::Sender::new(0),
        })
    }

    /// Milliseconds on this gateway's own clock, which only goes forward.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// An endpoint.
    pub fn find(&self, key: &EndpointKey) -> Option<Arc<Endpoint>> {
        self.read().get(key).cloned()
    }

    /// All endpoints, in no order.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.read().values().cloned().collect()
    }

    /// What the leader says.
    pub fn hear(&self, news: ToGateway) {
        match news {
            ToGateway::Snapshot(table) => self.replace(table),
            ToGateway::Delta { changed, removed, replicas } => {
                if let Some(replicas) = replicas {
                    self.replicas.send_replace(replicas);
                }
                for key in removed {
                    self.remove(&key);
                }
                self.apply(&changed);
                self.changed();
            }
            ToGateway::Ping => (),
        }
    }

    /// Everything anew: what is not in the table is gone.
    pub fn replace(&self, table: Table) {
        self.replicas.send_replace(table.replicas);
        let named: BTreeSet<&EndpointKey> = table.routes.iter().map(|it| &it.endpoint).collect();
        let gone: Vec<EndpointKey> = self.read().keys().filter(|it| !named.contains(it)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        self.apply(&table.routes);
        self.changed();
    }

    /// All that this gateway knows, to keep it on disk.
    pub fn table(&self) -> Table {
        let mut routes: Vec<Route> = self.all().iter().map(|it| (*it.route()).clone()).collect();
        routes.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        Table { replicas: self.replicas.borrow().clone(), routes }
    }

    /// The highest epoch that it has heard of.
    pub fn epoch_seen(&self) -> u64 {
        self.all().iter().map(|it| it.route().epoch).max().unwrap_or(0)
    }

    /// The gateways, and when they change.
    pub fn replicas(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.replicas.subscribe()
    }

    /// How often the table has changed, and when it does.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Has anybody told it its routes, a leader or the disk?
    pub fn knows_routes(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Asks new workers of an endpoint that this gateway owns whether they are ready.
    pub fn probe(endpoint: &Arc<Endpoint>) {
        let how = endpoint.route().probe.clone();
        for (worker, address) in endpoint.to_probe() {
            tokio::spawn(probe::watch(endpoint.clone(), worker, address, how.clone()));
        }
    }

    fn apply(&self, routes: &[Route]) {
        let others: BTreeSet<Holder> = self
            .replicas
            .borrow()
            .keys()
            .filter(|it| **it != *self.shared.me)
            .map(|it| Holder::from(it.as_str()))
            .collect();
        for route in routes {
            let known = self.find(&route.endpoint);
            let endpoint = known.unwrap_or_else(|| {
                let new = Endpoint::new(self.shared.clone(), route);
                self.write().insert(route.endpoint.clone(), new.clone());
                new
            });
            endpoint.apply(route, &others, self.now_ms());
            Self::probe(&endpoint);
        }
    }

    fn remove(&self, key: &EndpointKey) {
        // Not under the lock: who waits there is answered.
        let gone = self.write().remove(key);
        if let Some(endpoint) = gone {
            endpoint.remove();
        }
    }

    fn changed(&self) {
        self.version.send_modify(|it| *it += 1);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<EndpointKey, Arc<Endpoint>>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<EndpointKey, Arc<Endpoint>>> {
        self.endpoints.write().unwrap_or_else(PoisonError::into_inner)
    }
}
