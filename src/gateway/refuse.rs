//! Every reason for which the gateway itself answers, in one table: status, headers, body.

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No endpoint has this host or path.
    Unknown,
    /// The endpoint's state says so.
    Stopped,
    /// The endpoint can't serve as it is.
    Unavailable,
    /// There is no worker, and no card to start one on.
    NoCard,
    /// Its workers end before they are ready.
    Crashing,
    /// The queue is full.
    QueueFull,
    /// All that is bought is in use.
    AtCapacity,
    /// It waited as long as it may.
    QueueTimeout,
    /// The gateway that hands out the endpoint's slots can't be reached, and there is nobody to name another.
    NoOwner,
    /// This gateway stops.
    Leaving,
}
