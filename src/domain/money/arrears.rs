//! Arrears: what whoever doesn't pay keeps, for how long, and what is refused meanwhile. Paid again, everything resumes by
//! itself, so nothing here remembers.

use jiff::Timestamp;

use super::Money;
use super::calendar::after_seconds;

/// What may be held in arrears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// A pool.
    ResidentPool,
    /// A machine of one's own, paid for a term.
    PrepaidMachine,
    /// A machine of one's own, paid by the hour.
    PostpaidMachine,
    /// A spot server.
    SpotServer,
    /// An endpoint on shared cards.
    ElasticEndpoint,
    /// An endpoint bound to a pool.
    BoundEndpoint,
}

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A first order.
    Buy,
    /// More of what is held.
    Expand,
    /// A longer term, by hand or by itself.
    Renew,
    /// Another way of paying.
    Convert,
    /// A new server.
    Create,
    /// A stopped endpoint shall run.
    Start,
    /// An endpoint without workers shall get one.
    Wake,
}

/// For how long what is not prepaid is kept, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// A machine that is paid by the hour.
    pub postpaid_machine_seconds: u32,
    /// A spot server on the recovery list.
    pub spot_server_seconds: u32,
    /// Running workers on shared cards.
    pub elastic_endpoint_seconds: u32,
}

impl Default for Grace {
    /// 24 h for machines, 5 minutes for servers and workers.
    fn default() -> Self {
        Grace {
            postpaid_machine_seconds: 24 * 3_600,
            spot_server_seconds: 5 * 60,
            elastic_endpoint_seconds: 5 * 60,
        }
    }
}

/// What becomes of something held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// All of it: it is paid for.
    All,
    /// All of it, until then.
    Until(Timestamp),
    /// Nothing any more: machines are drained and given back, servers shut down and recovered, workers stopped.
    Nothing,
}

/// How an account stands with something that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What becomes of it.
    pub keeps: Keeps,
    /// What is refused.
    pub refused: &'static [Request],
}

/// Is an account in arrears: a balance below −credit limit, or a due that is not paid? `balance` is what is posted, less
/// holds and the usage that has accrued so far.
pub fn in_arrears(balance: Money, credit_limit: Money, unpaid_due: bool) -> bool {
    unpaid_due || i128::from(balance.0) < -i128::from(credit_limit.0)
}

/// How an account stands, by when its arrears began; `None` when it has none.
pub fn standing(holding: Holding, since: Option<Timestamp>, now: Timestamp, grace: &Grace) -> Standing {
    let Some(since) = since else { return Standing { keeps: Keeps::All, refused: &[] } };
    let within = |seconds: u32| {
        let until = after_seconds(since, i64::from(seconds));
        if now < until { Keeps::Until(until) } else { Keeps::Nothing }
    };
    Standing {
        keeps: match holding {
            // What is paid for. A bound endpoint is as its pool: it costs nothing beyond that.
            Holding::ResidentPool | Holding::PrepaidMachine | Holding::BoundEndpoint => Keeps::All,
            Holding::PostpaidMachine => within(grace.postpaid_machine_seconds),
            Holding::SpotServer => within(grace.spot_server_seconds),
            Holding::ElasticEndpoint => within(grace.elastic_endpoint_seconds),
        },
        refused: match holding {
            Holding::ResidentPool => &[Request::Buy, Request::Expand, Request::Renew],
            Holding::PrepaidMachine | Holding::PostpaidMachine => {
                &[Request::Buy, Request::Expand, Request::Renew, Request::Convert]
            }
            Holding::SpotServer => &[Request::Create],
            Holding::ElasticEndpoint => &[Request::Start, Request::Wake],
            Holding::BoundEndpoint => &[],
        },
    }
}
