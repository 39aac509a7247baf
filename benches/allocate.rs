//! The planner alone: 2,000 contracts on 400 nodes of 8 cards, and a plan in which nothing changes. And clearing alone: 10,000 bids,
//! half of them outbid or protected, when purchases lack 2,000 cards.
//!
//! `make bench` prints the time per plan; docs/performance.md divides it by the contracts.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rust_decimal::Decimal;
use tenure::domain::allocate::plan;
use tenure::domain::book::{Key, Share, Shares};
use tenure::domain::fleet::{Claim, Demand, Hold, Machine, Node, Snapshot};
use tenure::domain::market::{Clearing, Server};
use tenure::domain::units::Size;

const NODES: usize = 400;
const CONTRACTS: usize = 2_000;

fn world() -> Snapshot {
    let card = Size { cpu_milli: 8_000, memory_bytes: 64 << 30, disk_bytes: 60 << 30 };
    let shared: Shares = [(Share::Shared, 8)].into_iter().collect();
    let nodes = (0..NODES)
        .map(|at| Node {
            name: format!("gpu-{at:04}"),
            card_type: "ada".to_owned(),
            cards: 8,
            healthy: 8,
            size: card.times(8),
            shares: shared.clone(),
            book: Some(shared.clone()),
            ready: true,
            open: true,
            ..Node::default()
        })
        .collect();
    let claims = (0..CONTRACTS)
        .map(|at| Claim {
            key: Key::new(&format!("contract-{at}"), "0123456789"),
            card_type: "ada".to_owned(),
            account: format!("account-{}", at % 50),
            version: String::new(),
            created_seconds: i64::try_from(at * 7 % 1_000).unwrap_or(0),
            // The mix: half workers, a quarter pools, most of the rest spot, one in forty a machine.
            demand: match at % 40 {
                0 => Demand::Dedicated {
                    machines: vec![Machine {
                        name: "m-0".to_owned(),
                        card_type: "ada".to_owned(),
                        cards: 8,
                        zone: String::new(),
                    }],
                    bought: vec![],
                    returning: std::collections::BTreeMap::new(),
                    paid: true,
                    funded: true,
                },
                1..=9 => Demand::Resident {
                    cards: 1 + u32::try_from(at % 4).unwrap_or(0),
                    bought: 0,
                    paid: true,
                    funded: true,
                },
                10..=19 => Demand::Spot {
                    cards: 1,
                    bid: Decimal::new(100 + i64::try_from(at % 300).unwrap_or(0), 2),
                    may_start: true,
                    hold: Hold::default(),
                },
                _ => Demand::Workers {
                    cards: 1,
                    active: 1,
                    wanted: 1 + u32::try_from(at % 2).unwrap_or(0),
                    exist: 0,
                    unbound: vec![],
                },
            },
        })
        .collect();
    Snapshot { card_types: [("ada".to_owned(), card)].into(), nodes, claims, ..Snapshot::default() }
}

fn allocate(criterion: &mut Criterion) {
    let world = world();
    let mut group = criterion.benchmark_group("allocate");
    group.throughput(Throughput::Elements(CONTRACTS as u64));
    group.bench_function("first plan, 2,000 contracts on 400 nodes", |b| b.iter(|| plan(&world)));

    let first = plan(&world);
    let mut settled = world.clone();
    for step in first.moves {
        if let Some(node) = settled.nodes.iter_mut().find(|it| it.name == step.node) {
            node.book = Some(step.target.clone());
            node.shares = step.target;
            node.given = step.given;
        }
    }
    group.bench_function("again, nothing to do", |b| b.iter(|| plan(&settled)));
    group.finish();
}

const BIDS: usize = 10_000;

fn clear(criterion: &mut Criterion) {
    let keys: Vec<Key> = (0..BIDS).map(|at| Key::new(&format!("server-{at}"), "0123456789")).collect();
    let servers: Vec<Server> = keys
        .iter()
        .enumerate()
        .map(|(at, key)| Server {
            key,
            card_type: "ada",
            node: at / 4,
            frees: [1, 1, 2, 4][at % 4],
            bid: Decimal::new(100 + i64::try_from(at * 37 % 900).unwrap_or(0), 2),
            created_seconds: i64::try_from(at * 7 % 1_000).unwrap_or(0),
            is_protected: at % 4 == 1,
            is_outbid: at % 4 == 2,
            in_arrears: false,
            is_noticed: at % 10 == 0,
            is_leaving: false,
        })
        .collect();
    let mut group = criterion.benchmark_group("clear");
    group.throughput(Throughput::Elements(BIDS as u64));
    group.bench_function("10,000 bids", |b| {
        b.iter(|| {
            let mut clearing = Clearing::new(&servers);
            for lack in [500, 700, 4_800] {
                assert!(clearing.ask("ada", lack));
            }
            clearing.finish().len()
        });
    });
    group.finish();
}

criterion_group!(benches, allocate, clear);
criterion_main!(benches);
