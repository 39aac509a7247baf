//! What is watched, and reads that must not come from a cache.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::Cluster;
use super::slim::{SlimNode, SlimPod};
use super::table::Table;
use crate::api::names;
use crate::api::{
    Account, CardType, DedicatedGroup, Payment, ResidentPool, ServerlessEndpoint, SpotMarket, SpotServer,
    Tariff,
};

/// A contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContractRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The kinds of contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ResidentPool.
    Pool,
    /// DedicatedGroup.
    Group,
    /// SpotServer.
    Spot,
    /// ServerlessEndpoint.
    Endpoint,
}

/// The claim of a spot server's disk.
pub type Disk = PartialObjectMeta<PersistentVolumeClaim>;

/// What has changed since it was last asked.
#[derive(Default)]
pub struct Changes {
    contracts: Mutex<Dirty>,
    /// The same for who tells gateways their routes; `None` when nobody does.
    routes: Mutex<Option<Dirty>>,
    /// Nodes; `None` means all of them.
    nodes: Mutex<Option<BTreeSet<String>>>,
    /// Wakes who looks after contracts.
    pub contracts_changed: Notify,
    /// Wakes who looks after cards.
    pub cards_changed: Notify,
    /// Wakes who tells gateways their routes.
    pub routes_changed: Notify,
    /// Wakes who looks after notices.
    pub nodes_changed: Notify,
}

/// Contracts to look at.
#[derive(Default, Debug)]
pub struct Dirty {
    /// All of them, and the catalogue.
    pub all: bool,
    /// These.
    pub contracts: BTreeSet<ContractRef>,
}

impl Changes {
    /// Notes that a contract must be looked at.
    pub fn contract(&self, kind: Kind, namespace: &str, name: &str) {
        let contract = ContractRef { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.contracts.lock().unwrap_or_else(PoisonError::into_inner).contracts.insert(contract.clone());
        self.contracts_changed.notify_one();
        self.route(contract);
    }

    /// Notes that a contract must be looked at when the allocator has come round, and wakes the allocator: what is asked
    /// for is cards, and before it has answered there is nothing to do.
    pub fn contract_after_cards(&self, kind: Kind, namespace: &str, name: &str) {
        let contract = ContractRef { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.contracts.lock().unwrap_or_else(PoisonError::into_inner).contracts.insert(contract);
        self.cards_changed.notify_one();
    }

    /// Is there any contract to look at?
    pub fn any(&self) -> bool {
        let dirty = self.contracts.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.all || !dirty.contracts.is_empty()
    }

    /// Notes that a node, or which pods are on it, has changed.
    pub fn node(&self, name: &str) {
        if let Some(nodes) = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            nodes.insert(name.to_owned());
        }
        self.nodes_changed.notify_one();
    }

    /// Which nodes have changed; from now on they count as seen. `None`, the first time: all.
    pub fn take_nodes(&self) -> Option<BTreeSet<String>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).replace(BTreeSet::new())
    }

    /// Notes that the route of a contract (or of what is bound to it) may be another one.
    pub fn route(&self, contract: ContractRef) {
        if let Some(dirty) = self.routes.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            dirty.contracts.insert(contract);
            self.routes_changed.notify_one();
        }
    }

    /// Notes that every route may be another one.
    pub fn all_routes(&self) {
        if let Some(dirty) = self.routes.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            dirty.all = true;
            self.routes_changed.notify_one();
        }
    }

    /// Which routes must be made anew; from now on they count as made. The first time all of them.
    pub fn take_routes(&self) -> Dirty {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let all = || Dirty { all: true, contracts: BTreeSet::new() };
        routes.replace(Dirty::default()).unwrap_or_else(all)
    }

    /// Notes that everything must be looked at.
    pub fn everything(&self) {
        self.contracts.lock().unwrap_or_else(PoisonError::into_inner).all = true;
        self.contracts_changed.notify_one();
        self.cards_changed.notify_one();
        self.all_routes();
    }

    /// What must be looked at; from now on it counts as seen.
    pub fn take(&self) -> Dirty {
        std::mem::take(&mut self.contracts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Everything that is watched.
pub struct Caches {
    /// Nodes.
    pub nodes: Arc<Table<SlimNode>>,
    /// Pods, by node (`node/NAME`) and by whose they are (`endpoint/NS/NAME`, `spot/NS/NAME`, `group/NS/NAME`).
    pub pods: Arc<Table<SlimPod>>,
    /// Namespaces.
    pub namespaces: Arc<Table<PartialObjectMeta<Namespace>>>,
    /// Card types.
    pub card_types: Arc<Table<CardType>>,
    /// Tariffs.
    pub tariffs: Arc<Table<Tariff>>,
    /// Markets.
    pub markets: Arc<Table<SpotMarket>>,
    /// Accounts.
    pub accounts: Arc<Table<Account>>,
    /// Payments.
    pub payments: Arc<Table<Payment>>,
    /// Pools.
    pub pools: Arc<Table<ResidentPool>>,
    /// Groups.
    pub groups: Arc<Table<DedicatedGroup>>,
    /// Spot servers.
    pub spots: Arc<Table<SpotServer>>,
    /// Endpoints, by what they are bound to (`pool/NS/NAME`, `group/NS/NAME`).
    pub endpoints: Arc<Table<ServerlessEndpoint>>,
    /// The claims of spot servers' disks, by whose they are (`spot/NS/NAME`).
    pub disks: Arc<Table<Disk>>,
    /// What has changed.
    pub changes: Arc<Changes>,
}

impl Cluster {
    /// Starts all watches; they end with the process.
    #[allow(clippy::too_many_lines, reason = "a list: each kind, and whom its changes concern")]
    pub fn watch(&self) -> Caches {
        let changes = Arc::new(Changes::default());
        let caches = Caches {
            nodes: Table::new(|_| Vec::new()),
            pods: Table::new(pod_index),
            namespaces: Table::new(|_| Vec::new()),
            card_types: Table::new(|_| Vec::new()),
            tariffs: Table::new(|_| Vec::new()),
            markets: Table::new(|_| Vec::new()),
            accounts: Table::new(|_| Vec::new()),
            payments: Table::new(|_| Vec::new()),
            pools: Table::new(|_| Vec::new()),
            groups: Table::new(|_| Vec::new()),
            spots: Table::new(|_| Vec::new()),
            endpoints: Table::new(|it| {
                bound_to(it).into_iter().map(|(kind, name)| format!("{kind}/{name}")).collect()
            }),
            disks: Table::new(disk_index),
            changes: changes.clone(),
        };
        let watched = |config: watcher::Config| config.streaming_lists();
        let config = watched(watcher::Config::default());
        macro_rules! follow {
            ($table:ident, $wire:ty, $open:expr, $on_change:expr) => {
                follow!($table, $wire, config.clone(), $open, $on_change)
            };
            ($table:ident, $wire:ty, $config:expr, $open:expr, $on_change:expr) => {{
                let changes = changes.clone();
                let on_change = $on_change;
                let events = watcher(Api::<$wire>::all(self.watches.clone()), $config);
                let notify =
                    Arc::new(move |before: Option<&_>, after: Option<&_>| on_change(&changes, before, after));
                tokio::spawn(caches.$table.clone().follow(stringify!($table), events, $open, notify));
            }};
        }
        follow!(nodes, SlimNode, Ok, |changes: &Changes,
                                      before: Option<&SlimNode>,
                                      after: Option<&SlimNode>| {
            for node in [before, after].into_iter().flatten() {
                if let (Some(group), Some(namespace)) =
                    (node.labels().get(names::GROUP), node.labels().get(names::GROUP_NAMESPACE))
                {
                    changes.contract(Kind::Group, namespace, group);
                }
            }
            // A heartbeat is no news about cards.
            let cards = |it: &SlimNode| {
                (
                    it.metadata.labels.clone(),
                    it.metadata.annotations.clone(),
                    it.spec.clone(),
                    it.status.clone(),
                )
            };
            if before.map(cards) != after.map(cards) || is_new(before, after) {
                changes.cards_changed.notify_one();
                changes.node(&after.or(before).map(ResourceExt::name_any).unwrap_or_default());
            }
        });
        follow!(pods, SlimPod, Ok, |changes: &Changes, before: Option<&SlimPod>, after: Option<&SlimPod>| {
            for pod in [before, after].into_iter().flatten() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                for (label, kind) in [
                    (names::ENDPOINT, Kind::Endpoint),
                    (names::SPOT_SERVER, Kind::Spot),
                    (names::GROUP, Kind::Group),
                ] {
                    if let Some(name) = pod.label(label) {
                        changes.contract(kind, namespace, name);
                    }
                }
            }
            // That it is ready, say, is no news about cards.
            let cards = |it: &SlimPod| (it.spec.node_name.clone(), it.is_over(), it.spec.tolerations.len());
            if before.map(cards) != after.map(cards) || is_new(before, after) {
                changes.cards_changed.notify_one();
                if let Some(node) = after.or(before).and_then(|it| it.spec.node_name.as_deref()) {
                    changes.node(node);
                }
            }
        });
        follow!(namespaces, PartialObjectMeta<Namespace>, strip, |changes: &Changes,
                                                                  before: Option<
            &PartialObjectMeta<Namespace>,
        >,
                                                                  after: Option<
            &PartialObjectMeta<Namespace>,
        >| {
            let account = |it: Option<&PartialObjectMeta<Namespace>>| {
                it.and_then(|it| it.labels().get(names::ACCOUNT).cloned())
            };
            if account(before) != account(after) {
                changes.everything();
            }
        });
        macro_rules! catalogue {
            ($($table:ident: $kind:ty),*) => {$(
                follow!($table, DeserializeGuard<$kind>, opened, |changes: &Changes, before: Option<&$kind>, after: Option<&$kind>| {
                    if before.map(|it| (&it.spec, &it.metadata.uid)) != after.map(|it| (&it.spec, &it.metadata.uid)) {
                        changes.everything();
                    }
                });
            )*};
        }
        catalogue!(card_types: CardType, tariffs: Tariff, markets: SpotMarket, accounts: Account, payments: Payment);
        macro_rules! contracts {
            ($($table:ident: $kind:ty = $which:expr;)*) => {$(
                follow!($table, DeserializeGuard<$kind>, opened, |changes: &Changes, before: Option<&$kind>, after: Option<&$kind>| {
                    for it in [before, after].into_iter().flatten() {
                        changes.contract($which, &it.namespace().unwrap_or_default(), &it.name_any());
                    }
                    // No status makes a claim.
                    if is_new(before, after) {
                        changes.cards_changed.notify_one();
                    }
                });
            )*};
        }
        contracts! {
            pools: ResidentPool = Kind::Pool;
            groups: DedicatedGroup = Kind::Group;
            spots: SpotServer = Kind::Spot;
        }
        follow!(endpoints, DeserializeGuard<ServerlessEndpoint>, opened, |changes: &Changes,
                                                                          before: Option<
            &ServerlessEndpoint,
        >,
                                                                          after: Option<
            &ServerlessEndpoint,
        >| {
            // Its own status is no news.
            if !is_new(before, after) {
                return;
            }
            for it in [before, after].into_iter().flatten() {
                let namespace = it.namespace().unwrap_or_default();
                changes.contract(Kind::Endpoint, &namespace, &it.name_any());
                if let Some(pool) = &it.spec.placement.resident_pool {
                    changes.contract(Kind::Pool, &namespace, &pool.name);
                }
                if let Some(group) = &it.spec.placement.dedicated_group {
                    changes.contract(Kind::Group, &namespace, &group.name);
                }
            }
            changes.cards_changed.notify_one();
        });
        let of_servers = config.clone().labels(names::SPOT_SERVER);
        follow!(
            disks,
            Disk,
            of_servers,
            strip,
            |changes: &Changes, before: Option<&Disk>, after: Option<&Disk>| {
                for it in [before, after].into_iter().flatten() {
                    if let Some(server) = it.labels().get(names::SPOT_SERVER) {
                        changes.contract(Kind::Spot, &it.namespace().unwrap_or_default(), server);
                    }
                }
            }
        );
        caches
    }

    /// Is the node there? Asked of the API server itself.
    pub async fn has_node(&self, name: &str) -> Result<bool, super::write::Error> {
        Ok(Api::<SlimNode>::all(self.client.clone()).get_opt(name).await?.is_some())
    }

    /// The pods bound to a node, read from the API server itself.
    pub async fn pods_on(&self, node: &str) -> kube::Result<Vec<SlimPod>> {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        Ok(Api::<SlimPod>::all(self.client.clone()).list(&params).await?.items)
    }
}

impl Caches {
    /// Waits until every first list is complete.
    pub async fn ready(&self) {
        tokio::join!(
            self.nodes.ready(),
            self.pods.ready(),
            self.namespaces.ready(),
            self.card_types.ready(),
            self.tariffs.ready(),
            self.markets.ready(),
            self.accounts.ready(),
            self.payments.ready(),
            self.pools.ready(),
            self.groups.ready(),
            self.spots.ready(),
            self.endpoints.ready(),
            self.disks.ready(),
        );
    }
}

fn pod_index(pod: &SlimPod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut index: Vec<String> = pod.spec.node_name.iter().map(|it| format!("node/{it}")).collect();
    for (label, kind) in
        [(names::ENDPOINT, "endpoint"), (names::SPOT_SERVER, "spot"), (names::GROUP, "group")]
    {
        if let Some(name) = pod.label(label) {
            index.push(format!("{kind}/{namespace}/{name}"));
        }
    }
    index
}

/// Has anything changed but the status?
fn is_new<K: Resource>(before: Option<&K>, after: Option<&K>) -> bool {
    fn of(meta: &ObjectMeta) -> impl PartialEq + '_ {
        (
            &meta.uid,
            meta.generation,
            &meta.annotations,
            &meta.finalizers,
            &meta.labels,
            meta.deletion_timestamp.is_some(),
        )
    }
    before.map(|it| of(it.meta())) != after.map(|it| of(it.meta()))
}

/// What an endpoint is bound to: (`pool` or `group`, `NS/NAME`).
fn bound_to(endpoint: &ServerlessEndpoint) -> Option<(&'static str, String)> {
    let namespace = endpoint.namespace().unwrap_or_default();
    let placement = &endpoint.spec.placement;
    let pool = placement.resident_pool.as_ref().map(|it| ("pool", format!("{namespace}/{}", it.name)));
    pool.or_else(|| {
        placement.dedicated_group.as_ref().map(|it| ("group", format!("{namespace}/{}", it.name)))
    })
}

/// One object that can't be read must not hide the others.
fn opened<K: Resource + DeserializeOwned>(guarded: DeserializeGuard<K>) -> Result<K, Box<ObjectMeta>> {
    match guarded.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            Ok(object)
        }
        Err(error) => {
            let name = error.metadata.name.as_deref().unwrap_or_default();
            tracing::error!(%error, name, "an object can't be read; what it has it keeps");
            Err(Box::new(error.metadata))
        }
    }
}

fn disk_index(disk: &Disk) -> Vec<String> {
    let namespace = disk.metadata.namespace.as_deref().unwrap_or_default();
    disk.labels().get(names::SPOT_SERVER).map(|it| format!("spot/{namespace}/{it}")).into_iter().collect()
}

#[allow(clippy::unnecessary_wraps, reason = "it stands where other kinds may have nothing")]
fn strip<K>(mut object: PartialObjectMeta<K>) -> Result<PartialObjectMeta<K>, Box<ObjectMeta>> {
    object.metadata.managed_fields = None;
    Ok(object)
}
