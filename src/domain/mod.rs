//! The pure core: what belongs to whom, decided without clock, client or channel.
//!
//! Everything here is a function from values to values, so it can't fail for outside reasons and is tested as tables and
//! properties. Conversion from what users write lives in `controllers`.

pub mod allocate;
pub mod autoscale;
pub mod book;
pub mod budget;
pub mod fleet;
pub mod machines;
pub mod market;
pub mod money;
pub mod node_notice;
pub mod notice;
pub mod routes;
pub mod slots;
pub mod units;
pub mod workers;
