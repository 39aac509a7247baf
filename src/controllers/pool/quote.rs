//! What applying a pool would buy now, with the functions that buy it.

use jiff::Timestamp;

use super::order::{ORDERS_AT_ONCE, wanted};
use super::{is_leaving, validate};
use crate::api::ResidentPool;
use crate::api::condition::Reason;
use crate::cluster::read::Caches;
use crate::controllers::facts::Problem;
use crate::controllers::money::Standing;
use crate::domain::money::want::next_order;
use crate::domain::money::{Currency, Event, Lease, Next, Order, Rules};

/// Who would pay, and for what.
pub(in crate::controllers) struct Quoted {
    pub(in crate::controllers) account: String,
    pub(in crate::controllers) currency: Currency,
    pub(in crate::controllers) orders: Vec<Order>,
}

/// All orders that the operator would make at once if there were cards and money: `standing` is what the pool of that name has bought.
pub(in crate::controllers) fn quote(
    caches: &Caches,
    pool: &ResidentPool,
    standing: Option<&Standing>,
    now: Timestamp,
) -> Result<Quoted, Problem> {
    let invalid = |it: String| Problem::new(Reason::Invalid, it);
    if is_leaving(pool) {
        return Err(invalid("the pool is being deleted".to_owned()));
    }
    let offer = validate(caches, pool)?;
    let mut lease = match standing {
        Some(it) => it.pool().lease(now).map_err(|it| invalid(it.to_string()))?.0,
        None => Lease::default(),
    };
    let rules = Rules { retention_days: offer.retention_days };
    let mut orders = Vec::new();
    for _ in 0..ORDERS_AT_ONCE {
        let next = next_order(&wanted(pool, &lease), &lease, &offer.prices, now, &offer.currency);
        let Next::Order(order) = next.map_err(|it| invalid(it.to_string()))? else { break };
        let paid = lease.step(Event::Paid(order.clone()), now, &rules);
        lease = paid.map_err(|it| invalid(it.to_string()))?.0;
        orders.push(order);
    }
    Ok(Quoted { account: kube::ResourceExt::name_any(&*offer.account), currency: offer.currency, orders })
}
