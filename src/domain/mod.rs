//! The pure core: what belongs to whom, decided without clock, client or channel.
