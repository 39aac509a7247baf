//! The sample catalogue is that of the price list: `config/samples/catalogue/` is written from the csv files in `data/`, and what
//! `00-platform.yaml` has of it says the same. `make catalogue` writes it anew. No cluster is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

const CARDS: &str = include_str!("data/resident-cards.csv");
const PRICES: &str = include_str!("data/resident-prices.csv");
const PLATFORM: &str = include_str!("../../config/samples/00-platform.yaml");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/samples/catalogue");

/// What the list does not say of a card type: how people call it, and the label of its nodes. All are told apart by one label, so
/// that no node can be of two types.
const PRODUCTS: &[(&str, &str, &str)] = &[
    ("ada", "Ada 48 GB", "NVIDIA-L20"),
    ("ada-2", "Ada 24 GB", "NVIDIA-L4"),
    ("ada-3", "Ada 48 GB, third generation", "NVIDIA-L40S"),
    ("xpu-1", "XPU 96 GB", "XPU-1"),
    ("hopper", "Hopper 96 GB", "NVIDIA-H20"),
];

/// What every file begins with.
const HEAD: &str = "# Written by `make catalogue` from tests/it/data/; do not edit.\n";

fn rows(csv: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    csv.lines().skip(1).map(|line| line.split(',').map(|it| it.trim_matches('"')).collect())
}

/// The spec of each card type of the list, by name.
fn card_types() -> BTreeMap<&'static str, Value> {
    let spec = |row: Vec<&'static str>| {
        let [name, gpu_memory, cpu, memory, least_disk] = row[..] else { panic!("{row:?}") };
        let (_, display, product) = PRODUCTS.iter().find(|it| it.0 == name).expect("each type has nodes");
        // The least disk of a card is the least that a pool can buy; what goes with a card at most is 60Gi for all.
        assert_eq!(least_disk, "10");
        let gi = |it| format!("{it}Gi");
        let per_card = json!({"cpu": cpu, "memory": gi(memory), "gpuMemory": gi(gpu_memory), "disk": "60Gi"});
        let spec = json!({
            "displayName": display,
            "resourceName": "nvidia.com/gpu",
            "nodeSelector": {"nvidia.com/gpu.product": product},
            "perCard": per_card,
        });
        (name, spec)
    };
    rows(CARDS).map(spec).collect()
}

/// What a region charges for resident cards.
#[derive(Default)]
struct Region {
    currency: &'static str,
    disk: &'static str,
    cards: Vec<(&'static str, &'static str)>,
}

/// By region.
fn regions() -> BTreeMap<&'static str, Region> {
    let mut regions: BTreeMap<&str, Region> = BTreeMap::new();
    for row in rows(PRICES) {
        let [_, names, card_type, currency, card, disk] = row[..] else { panic!("{row:?}") };
        for name in names.split(' ') {
            let region = regions.entry(name).or_default();
            assert!(region.disk.is_empty() || (region.disk, region.currency) == (disk, currency), "{name}");
            (region.currency, region.disk) = (currency, disk);
            region.cards.push((card_type, card));
        }
    }
    regions
}

/// Objects of `00-platform.yaml` of a kind, by name.
fn platform(kind: &str) -> BTreeMap<String, Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(PLATFORM).expect("it is YAML");
    let of_kind = objects.into_iter().filter(|it| it["kind"] == kind);
    of_kind.map(|it| (it["metadata"]["name"].as_str().unwrap_or_default().to_owned(), it)).collect()
}

/// The files of the folder: what `00-platform.yaml` does not have.
fn files() -> [(&'static str, String); 2] {
    let (known_types, known_tariffs) = (platform("CardType"), platform("Tariff"));
    let mut types = HEAD.to_owned();
    for (name, spec) in card_types().iter().filter(|(name, _)| !known_types.contains_key(**name)) {
        let per_card = &spec["perCard"];
        let word = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        write!(
            types,
            "---\napiVersion: tenure.dev/v1alpha1\nkind: CardType\nmetadata: {{name: {name}}}\nspec:\n  displayName: {}\n  \
             resourceName: {}\n  nodeSelector: {{nvidia.com/gpu.product: {}}}\n  \
             perCard: {{cpu: \"{}\", memory: {}, gpuMemory: {}, disk: {}}}\n",
            word(&spec["displayName"]),
            word(&spec["resourceName"]),
            word(&spec["nodeSelector"]["nvidia.com/gpu.product"]),
            word(&per_card["cpu"]),
            word(&per_card["memory"]),
            word(&per_card["gpuMemory"]),
            word(&per_card["disk"]),
        )
        .expect("a String takes all");
    }
    let mut tariffs = HEAD.to_owned();
    for (name, region) in regions().iter().filter(|(name, _)| !known_tariffs.contains_key(**name)) {
        write!(
            tariffs,
            "---\napiVersion: tenure.dev/v1alpha1\nkind: Tariff\nmetadata: {{name: {name}}}\nspec:\n  region: {name}\n  \
             currency: {}\n  resident:\n    diskPerGBMonth: \"{}\"\n    cards:\n",
            region.currency, region.disk
        )
        .expect("a String takes all");
        for (card_type, price) in &region.cards {
            writeln!(tariffs, "    - {{cardType: {card_type}, perMonth: \"{price}\"}}")
                .expect("a String takes all");
        }
        tariffs.push_str(
            "    refund: {earlyDays: 30, earlyFactor: \"1.2\"}\n    expired: Lend\n    retentionDays: 90\n",
        );
    }
    [("card-types.yaml", types), ("tariffs.yaml", tariffs)]
}

#[test]
fn the_committed_catalogue_is_that_of_the_list() {
    for (name, text) in files() {
        let path = format!("{FOLDER}/{name}");
        if std::env::var_os("TENURE_WRITE_CATALOGUE").is_some() {
            std::fs::write(&path, &text).expect("the file is written");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{path} is not what the list says: run `make catalogue`, and commit what it wrote"
        );
    }
}

#[test]
fn what_the_platform_sample_has_of_the_list_says_the_same() {
    let types = card_types();
    for (name, object) in platform("CardType") {
        assert_eq!(Some(&object["spec"]), types.get(name.as_str()), "CardType {name}");
    }
    let regions = regions();
    for (name, object) in platform("Tariff") {
        let spec = &object["spec"];
        let region = regions.get(name.as_str()).unwrap_or_else(|| panic!("the list has no region {name}"));
        assert_eq!(spec["currency"], region.currency, "{name}");
        assert_eq!(spec["resident"]["diskPerGBMonth"], region.disk, "{name}");
        let price = |(card_type, price): &(&str, &str)| json!({"cardType": card_type, "perMonth": price});
        let prices: Vec<Value> = region.cards.iter().map(price).collect();
        assert_eq!(spec["resident"]["cards"], json!(prices), "{name}");
    }
}

#[test]
fn no_object_is_there_twice_and_no_node_is_of_two_card_types() {
    let mut seen = BTreeSet::new();
    let mut products = BTreeSet::new();
    let files = files();
    let samples = files.iter().map(|(_, text)| text.as_str()).chain([PLATFORM]);
    for object in samples.flat_map(|it| serde_saphyr::from_multiple::<Value>(it).expect("it is YAML")) {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(seen.insert(name.clone()), "{name} is there twice");
        if object["kind"] == "CardType" {
            let selector = object["spec"]["nodeSelector"].as_object().expect("it selects nodes");
            let product = selector["nvidia.com/gpu.product"].as_str().unwrap_or_default();
            assert!(products.insert(product.to_owned()), "{name}: another type has nodes with {product}");
        }
    }
    assert_eq!((products.len(), seen.iter().filter(|it| it.contains("Tariff")).count()), (5, 8));
}

/// Argo CD removes what is no longer in the files, and with an Application all that it made: neither may unsubscribe.
#[test]
fn a_removed_file_unsubscribes_nothing() {
    let samples = [
        PLATFORM,
        include_str!("../../config/samples/10-resident-pool.yaml"),
        include_str!("../../config/samples/20-dedicated-group.yaml"),
    ];
    let mut kept = BTreeSet::new();
    for object in samples.iter().flat_map(|it| serde_saphyr::from_multiple::<Value>(it).expect("it is YAML"))
    {
        // With its namespace a contract always goes.
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if ["ResidentPool", "DedicatedGroup", "Payment", "Namespace"].contains(&kind.as_str()) {
            let options = &object["metadata"]["annotations"]["argocd.argoproj.io/sync-options"];
            assert_eq!(options, "Prune=false,Delete=false", "{kind} {}", object["metadata"]["name"]);
            kept.insert(kind);
        }
    }
    assert_eq!(kept.len(), 4, "{kept:?}");
}
