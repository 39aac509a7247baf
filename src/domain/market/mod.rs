//! The spot market: what a card costs by how many are free ([`price`]), which servers have to go ([`clear`]), and what becomes
//! of one that has been told so ([`notice`]). Nothing here knows of nodes or pods.

pub mod clear;
pub mod notice;
pub mod price;

#[cfg(test)]
mod tests;

pub use clear::{Clearing, Server};
pub use notice::{Cause, Notice};
