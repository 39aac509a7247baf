//! Prices of spot markets: fixed, from inventory, or read from a feed. Each change is a price of its own in the ledger, with the second
//! in which it began, so that who leads next goes on with the price that holds.

mod feed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use rust_decimal::Decimal;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::facts::Problem;
use super::money::meter::Listed;
use super::money::sku::Sku;
use super::pool::count;
use super::{Context, Published};
use crate::api::SpotMarket;
use crate::api::condition::Reason;
use crate::api::market::InventoryPrice;
use crate::cluster::read::Caches;
use crate::domain::market::price;
use crate::domain::money::Exact;

/// Feeds are looked after this often.
const TICK: Duration = Duration::from_secs(1);
/// Feeds read at once.
const FEEDS_AT_ONCE: usize = 8;

/// What is known of markets beside their prices.
pub struct Markets {
    /// When the price of an inventory was last set, by market, and by which of its specs.
    set_at: Mutex<HashMap<String, (Option<i64>, Timestamp)>>,
    /// By market.
    feeds: Mutex<HashMap<String, Feed>>,
    client: feed::Client,
}

/// A feed.
struct Feed {
    url: String,
    next: Instant,
    is_under_way: bool,
    failure: Option<Failure>,
}

/// Why a feed can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Since when.
    pub(super) since: Timestamp,
    pub(super) why: String,
}

/// A price that holds.
pub(super) struct Price {
    pub(super) price: Decimal,
    pub(super) text: String,
    /// When it began.
    pub(super) since: Timestamp,
}

/// What its price is for.
pub(super) fn sku(market: &SpotMarket) -> String {
    Sku::SpotCard { region: market.spec.region.clone(), card_type: market.spec.card_type.clone() }.text()
}

/// The list price of a market, per card-hour: the last one that is known.
pub(super) fn price(context: &Context, market: &SpotMarket) -> Result<Price, Problem> {
    let name = market.name_any();
    let Some((since, text)) = context.money.meter.market_price(&sku(market)) else {
        let why = match (&market.spec.price.fixed, context.markets.failure(&name)) {
            (Some(fixed), _) if price::read(fixed).is_none() => {
                format!("`{fixed}` is no price: write a number above zero, such as 2.40")
            }
            (_, Some(failure)) => format!("its feed can't be read: {}", failure.why),
            (_, None) => "it is set in a moment".to_owned(),
        };
        return Err(Problem::new(Reason::NoPrice, format!("SpotMarket {name} has no price yet: {why}")));
    };
    let price = price::read(&text).ok_or_else(|| {
        Problem::new(Reason::NoPrice, format!("the price `{text}` of SpotMarket {name} is not a number"))
    })?;
    Ok(Price { price, text, since })
}

/// The markets that set prices: of several for the same card type and region the first by name.
fn leading(caches: &Caches) -> Vec<Arc<SpotMarket>> {
    let mut all = caches.markets.all();
    all.sort_by_key(|it| it.name_any());
    let mut taken = std::collections::HashSet::new();
    all.retain(|it| taken.insert(sku(it)));
    all
}

/// Sets the prices that follow from what is known here: fixed ones, and those of inventories whose time has come.
pub(super) fn set_prices(context: &Context) {
    let published = context.published.borrow().clone();
    let now = (context.now)();
    for market in leading(&context.caches) {
        let spec = &market.spec.price;
        let new = match (&spec.fixed, &spec.inventory) {
            (Some(fixed), _) => price::read(fixed),
            (None, Some(inventory)) => by_inventory(context, &market, inventory, &published, now),
            (None, None) => None,
        };
        if let Some(new) = new {
            set(context, &market, new, now);
        }
    }
}

/// What an inventory's price is now; `None` when it is not its time, or not known what there is.
fn by_inventory(
    context: &Context,
    market: &SpotMarket,
    inventory: &InventoryPrice,
    published: &Published,
    now: Timestamp,
) -> Option<Decimal> {
    let cards = &published.cards.get(&market.spec.card_type)?.cards;
    let mut set_at = context.markets.set_at.lock().unwrap_or_else(PoisonError::into_inner);
    let every = SignedDuration::from_secs(i64::from(inventory.every_seconds));
    let generation = market.metadata.generation;
    let last = set_at.get(&market.name_any());
    if last.is_some_and(|(of, at)| *of == generation && now.duration_since(*at) < every) {
        return None;
    }
    set_at.insert(market.name_any(), (generation, now));
    let (floor, ceiling) = (price::read(&inventory.floor)?, price::read(&inventory.ceiling)?);
    Some(price::by_inventory(floor, ceiling, count(cards.free), count(cards.total)))
}

fn set(context: &Context, market: &SpotMarket, price: Decimal, now: Timestamp) {
    let text = price.normalize().to_string();
    let Ok(exact) = Exact::parse(&text) else { return };
    let made = market.metadata.creation_timestamp.as_ref();
    let since = made.map_or(now, |it| (context.on_our_clock)(it.0));
    if context.money.meter.set_market_price(&sku(market), &Listed { price: exact, text, since }, now) {
        // It may be above or below bids now.
        context.money.note_change();
        context.caches.changes.cards_changed.notify_one();
        for it in context.caches.spots.all() {
            let (namespace, name) = (it.namespace().unwrap_or_default(), it.name_any());
            context.caches.changes.contract_after_cards(crate::cluster::read::Kind::Spot, &namespace, &name);
        }
    }
}

/// Reads feeds until it is told to stop.
pub(super) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    let mut reads: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => (),
            Some(_) = reads.join_next(), if !reads.is_empty() => (),
        }
        for market in context.markets.due(&leading(&context.caches), FEEDS_AT_ONCE - reads.len()) {
            let context = context.clone();
            reads.spawn(async move { read(&context, &market).await });
        }
    }
}

async fn read(context: &Context, market: &SpotMarket) {
    let Some(feed) = &market.spec.price.feed else { return };
    let found = context.markets.client.read(&feed.url).await;
    let now = (context.now)();
    let failed = found.as_ref().err().cloned();
    if let Some(why) = &failed {
        tracing::warn!(market = market.name_any(), why, "a feed can't be read; the last price holds");
    }
    if context.markets.done(&market.name_any(), failed, now) {
        context.money.note_change();
    }
    if let Ok(price) = found {
        set(context, market, price, now);
    }
}

impl Markets {
    /// `allowed`: networks into which feeds may be that would be refused otherwise.
    pub(super) fn new(allowed: Vec<IpNet>) -> Markets {
        Markets { set_at: Mutex::default(), feeds: Mutex::default(), client: feed::Client::new(allowed) }
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<String, Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the market's feed can't be read, if it can't.
    pub(super) fn failure(&self, market: &str) -> Option<Failure> {
        self.feeds().get(market)?.failure.clone()
    }

    /// Feeds that are to be read now. They count as under way.
    fn due(&self, markets: &[Arc<SpotMarket>], most: usize) -> Vec<Arc<SpotMarket>> {
        let mut feeds = self.feeds();
        let now = Instant::now();
        let url = |it: &SpotMarket| it.spec.price.feed.as_ref().map(|it| it.url.clone());
        feeds.retain(|name, _| markets.iter().any(|it| it.name_any() == *name && url(it).is_some()));
        let mut due = Vec::new();
        for market in markets {
            let Some(spec) = &market.spec.price.feed else { continue };
            let new = || Feed { url: spec.url.clone(), next: now, is_under_way: false, failure: None };
            let feed = feeds.entry(market.name_any()).or_insert_with(new);
            if feed.url != spec.url && !feed.is_under_way {
                *feed = new();
            }
            if feed.next <= now && !feed.is_under_way && due.len() < most {
                feed.is_under_way = true;
                feed.next = now + Duration::from_secs(u64::from(count(spec.every_seconds)));
                due.push(market.clone());
            }
        }
        due
    }

    /// A feed was read, or not. True when that changes what is said of it.
    fn done(&self, market: &str, failed: Option<String>, now: Timestamp) -> bool {
        let mut feeds = self.feeds();
        let Some(feed) = feeds.get_mut(market) else { return false };
        feed.is_under_way = false;
        let since = feed.failure.as_ref().map_or(now, |it| it.since);
        let after = failed.map(|why| Failure { since, why });
        let changed = feed.failure != after;
        feed.failure = after;
        changed
    }
}
