//! Names of labels, annotations, taints and finalizers, as ARCHITECTURE.md lists them.

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
/// Node annotation: `<namespace>/<group>` that had us cordon the node.
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
