//! Names of labels, annotations, taints and finalizers, as ARCHITECTURE.md lists them.

/// The API group of all our kinds.
pub const GROUP_NAME: &str = "tenure.dev";
/// Whom a token for the read API is for.
pub const AUDIENCE: &str = "tenure.dev";
/// Which of several operators leads: the name of their Lease.
pub const LEASE: &str = "tenure-operator";
/// Labels of an operator's pod, by which the plugin finds it.
pub const OPERATOR_PODS: &str = "app.kubernetes.io/name=tenure,app.kubernetes.io/component=operator";
/// The port of the read API, on the loopback of the operator's pod.
pub const READ_PORT: u16 = 8081;
/// Where the operator lives.
pub const OPERATOR_NAMESPACE: &str = "tenure-system";
/// Who the operator is to the API server; the policies trust this user alone.
pub const OPERATOR_USER: &str = "system:serviceaccount:tenure-system:tenure-operator";
/// The field manager of all our writes.
pub const FIELD_MANAGER: &str = "tenure-operator";

/// Taint of managed nodes.
pub const TAINT: &str = "tenure.dev/managed";
/// Node label: the card type.
pub const CARD_TYPE: &str = "tenure.dev/card-type";
/// Node label: the physical resource, `/` written as `_`.
pub const CARD_RESOURCE: &str = "tenure.dev/card-resource";
/// Node annotation: the shares as last written.
pub const BOOK: &str = "tenure.dev/book";
/// Node label and pod label: the group. On a pod it is set by its owner.
pub const GROUP: &str = "tenure.dev/group";
/// Node label: the group's namespace.
pub const GROUP_NAMESPACE: &str = "tenure.dev/group-namespace";
/// Node label: the machine of the group.
pub const MACHINE: &str = "tenure.dev/machine";
/// Node annotation: the key of the group that this machine is given to.
pub const GROUP_KEY: &str = "tenure.dev/group-key";
/// Node annotation: the node goes away at this time, RFC 3339. Set by whoever knows it.
pub const RECLAIM_AT: &str = "tenure.dev/reclaim-at";
/// Node annotation: the notice that is acted on, JSON.
pub const NOTICE: &str = "tenure.dev/notice";
/// Node annotation: `<namespace>/<group>`, or `notice`, that had us cordon the node.
pub const DRAINED_FOR: &str = "tenure.dev/drained-for";
/// Pod label: the endpoint whose worker this is.
pub const ENDPOINT: &str = "tenure.dev/endpoint";
/// Pod label: the spot server whose pod this is.
pub const SPOT_SERVER: &str = "tenure.dev/spot-server";
/// Pod label: the revision of the template.
pub const REVISION: &str = "tenure.dev/revision";
/// Pod annotation: the node that the worker was promised.
pub const PROMISED_NODE: &str = "tenure.dev/promised-node";
/// Pod annotation: since when the worker gets no new requests, RFC 3339.
pub const CLOSING_SINCE: &str = "tenure.dev/closing-since";
/// Group annotation: its machines.
pub const MACHINES: &str = "tenure.dev/machines";
/// Contract annotation: `<generation> <why>` of a purchase that was refused.
pub const REFUSED: &str = "tenure.dev/refused";
/// Annotation of a spot server, and of its pod: its notice, JSON.
pub const RECLAIM: &str = "tenure.dev/reclaim";
/// Contract annotation: its contract in the ledger.
pub const CONTRACT: &str = "tenure.dev/contract";
/// Namespace label: who pays.
pub const ACCOUNT: &str = "tenure.dev/account";
/// Namespace label: `allowed` where device plugins and exporters live.
pub const CARD_SOFTWARE: &str = "tenure.dev/card-software";
/// Pod finalizer: until its end is known.
pub const METERING: &str = "tenure.dev/metering";
/// Contract finalizer: until every card is back.
pub const CARDS: &str = "tenure.dev/cards";
/// The well-known zone label.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// A resource name as a label value can hold it.
pub fn resource_as_label(resource: &str) -> String {
    resource.replacen('/', "_", 1)
}
