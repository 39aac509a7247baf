//! `kubectl tenure cards`: every node, every card, and whose it is.

use std::collections::BTreeMap;
use std::fmt::Write;

use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};

use crate::api::{DedicatedGroup, ResidentPool, SpotServer, names};
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::domain::book::{Key, Share};
use crate::domain::units::parse_whole;

/// What is drawn.
#[derive(Default)]
pub struct Picture {
    /// The managed nodes.
    pub nodes: Vec<SlimNode>,
    /// Pods that are bound to a node.
    pub pods: Vec<SlimPod>,
    /// `<namespace>/<name>` of each contract that can have cards of its own.
    pub owners: BTreeMap<Key, String>,
}

/// Reads what is drawn.
pub async fn read(client: &Client) -> kube::Result<Picture> {
    let managed = ListParams::default().labels(names::CARD_TYPE);
    let bound = ListParams::default().fields("spec.nodeName!=");
    let all = ListParams::default();
    let (nodes, pods) = (Api::<SlimNode>::all(client.clone()), Api::<SlimPod>::all(client.clone()));
    let pools = Api::<ResidentPool>::all(client.clone());
    let groups = Api::<DedicatedGroup>::all(client.clone());
    let spots = Api::<SpotServer>::all(client.clone());
    let (nodes, pods, pools, groups, spots) = tokio::try_join!(
        nodes.list(&managed),
        pods.list(&bound),
        pools.list(&all),
        groups.list(&all),
        spots.list(&all)
    )?;
    let mut owners = BTreeMap::new();
    owners.extend(pools.iter().map(owner));
    owners.extend(groups.iter().map(owner));
    owners.extend(spots.iter().map(owner));
    Ok(Picture { nodes: nodes.items, pods: pods.items, owners })
}

fn owner<K: Resource>(contract: &K) -> (Key, String) {
    let name = contract.name_any();
    let key = Key::new(&name, contract.meta().uid.as_deref().unwrap_or_default());
    (key, format!("{}/{name}", contract.meta().namespace.as_deref().unwrap_or_default()))
}

/// How a card is drawn: a letter, and its colour on a terminal (ANSI).
struct Cell {
    letter: char,
    color: u8,
}

const RESIDENT: Cell = Cell { letter: 'R', color: 34 };
const DEDICATED: Cell = Cell { letter: 'D', color: 35 };
const SPOT: Cell = Cell { letter: 'S', color: 33 };
const WORKER: Cell = Cell { letter: 'w', color: 32 };
const FREE: Cell = Cell { letter: '.', color: 2 };
const HELD: Cell = Cell { letter: 'H', color: 31 };
const FAULTY: Cell = Cell { letter: 'x', color: 31 };

/// Cards that are drawn alike, and whose they are.
type Part = (Cell, u32, String);

/// Draws. With `color`, as a terminal shows it.
pub fn draw(picture: &Picture, color: bool) -> String {
    let mut nodes: Vec<&SlimNode> = picture.nodes.iter().collect();
    nodes.sort_by_key(|it| it.name_any());
    let rows: Vec<(&SlimNode, Vec<Part>)> = nodes.into_iter().map(|it| (it, parts(picture, it))).collect();
    let width = |text: &dyn Fn(&SlimNode) -> String, title: &str| {
        rows.iter().map(|(it, _)| text(it).len()).max().unwrap_or(0).max(title.len())
    };
    let card_type = |it: &SlimNode| it.labels().get(names::CARD_TYPE).cloned().unwrap_or_default();
    let (name_width, type_width) = (width(&|it| it.name_any(), "NODE"), width(&card_type, "TYPE"));
    let count = |parts: &[Part]| parts.iter().map(|it| it.1).sum::<u32>();
    let cards_width = rows.iter().map(|(_, it)| count(it) * 3).max().unwrap_or(0).max(5) as usize;

    let mut text =
        format!("{:name_width$}  {:type_width$}  {:cards_width$}  OWNERS\n", "NODE", "TYPE", "CARDS");
    for (node, parts) in &rows {
        let cells: String = parts.iter().map(|(cell, cards, _)| cell.paint(*cards, color)).collect();
        let blank = " ".repeat(cards_width.saturating_sub(count(parts) as usize * 3));
        let words: Vec<&str> = parts.iter().map(|(_, _, words)| words.as_str()).collect();
        let _ = writeln!(
            text,
            "{:name_width$}  {:type_width$}  {cells}{blank}  {}",
            node.name_any(),
            card_type(node),
            words.join(" · ")
        );
    }
    text.push_str("R resident  D dedicated  S spot  w serverless worker  . free  H held  x faulty\n");
    text
}

impl Cell {
    fn paint(&self, cards: u32, color: bool) -> String {
        let cells = format!("[{}]", self.letter).repeat(cards as usize);
        if color { format!("\u{1b}[{}m{cells}\u{1b}[0m", self.color) } else { cells }
    }
}

/// The cards of a node, whose they are, in the order in which they are drawn.
fn parts(picture: &Picture, node: &SlimNode) -> Vec<Part> {
    let resource =
        node.labels().get(names::CARD_RESOURCE).map(|it| it.replacen('_', "/", 1)).unwrap_or_default();
    let count = |amount: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        amount.and_then(|it| parse_whole(&it.0).ok()).and_then(|it| u32::try_from(it).ok()).unwrap_or(0)
    };
    let faulty = count(node.status.capacity.get(&resource))
        .saturating_sub(count(node.status.allocatable.get(&resource)));
    let mut contracts = Vec::new();
    let mut rest = Vec::new();
    for (name, amount) in &node.status.capacity {
        let (Some(share), cards @ 1..) = (Share::parse(name), count(Some(amount))) else { continue };
        let whose = |key: &Key| picture.owners.get(key).cloned().unwrap_or_else(|| key.to_string());
        match &share {
            Share::Resident(key) => {
                contracts.push((RESIDENT, cards, format!("resident {} {cards}", whose(key))));
            }
            Share::Dedicated(key) => {
                contracts.push((DEDICATED, cards, format!("dedicated {} {cards}", whose(key))));
            }
            Share::Spot(key) => contracts.push((SPOT, cards, format!("spot {} {cards}", whose(key)))),
            Share::Held => rest.push((HELD, cards, format!("held {cards}"))),
            Share::Shared => rest.extend(shared(picture, node, &share.resource(), cards)),
        }
    }
    if faulty > 0 {
        rest.push((FAULTY, faulty, format!("faulty {faulty}")));
    }
    contracts.extend(rest);
    contracts
}

/// Shared cards: which workers use them, and how many are free.
fn shared(picture: &Picture, node: &SlimNode, resource: &str, cards: u32) -> Vec<Part> {
    let name = node.name_any();
    let here = |it: &&SlimPod| {
        it.spec.node_name.as_deref() == Some(&name) && !it.is_over() && it.requests(resource) > 0
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut used = 0;
    for pod in picture.pods.iter().filter(here) {
        let cards = pod.requests(resource);
        used += cards;
        let whose = format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.name_any());
        parts.push((WORKER, cards, format!("worker {whose} {cards}")));
    }
    if let free @ 1.. = cards.saturating_sub(used) {
        parts.push((FREE, free, format!("free {free}")));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(capacity: &serde_json::Value, healthy: &str) -> SlimNode {
        let labels = json!({"tenure.dev/card-type": "ada", "tenure.dev/card-resource": "nvidia.com_gpu"});
        let status = json!({"capacity": capacity, "allocatable": {"nvidia.com/gpu": healthy}});
        serde_json::from_value(json!({"metadata": {"name": "gpu-0", "labels": labels}, "status": status}))
            .unwrap()
    }

    #[test]
    fn each_card_is_drawn_once_with_its_owner() {
        let capacity = json!({
            "cpu": "64", "nvidia.com/gpu": "8", "resident.tenure.dev/chat-00000001": "3", "dedicated.tenure.dev/x-2": "0",
            "shared.tenure.dev/cards": "3", "held.tenure.dev/cards": "1",
        });
        let pod = json!({"metadata": {"namespace": "a", "name": "llm-1"}, "spec": {"nodeName": "gpu-0",
            "containers": [{"resources": {"requests": {"shared.tenure.dev/cards": "2"}}}]}});
        let picture = Picture {
            nodes: vec![node(&capacity, "7")],
            pods: vec![serde_json::from_value(pod).unwrap()],
            owners: [(Key::new("chat", "00000001"), "a/chat".to_owned())].into(),
        };
        let expected = "\
NODE   TYPE  CARDS                     OWNERS
gpu-0  ada   [R][R][R][H][w][w][.][x]  resident a/chat 3 · held 1 · worker a/llm-1 2 · free 1 · faulty 1
R resident  D dedicated  S spot  w serverless worker  . free  H held  x faulty
";
        assert_eq!(draw(&picture, false), expected);
    }
}
