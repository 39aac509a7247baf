//! Where messages to other gateways go out: one line to each of them to ask for slots, one back to each that asks us.
//!
//! A message for a line that is down is dropped. Nothing depends on it: whoever gets a line tells all that counts anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::link::message::{FromOwner, ToOwner};

/// The lines that are up. A line has a number that no other one ever had.
#[derive(Default)]
pub struct Lines {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    out: HashMap<String, (u64, UnboundedSender<ToOwner>)>,
    back: HashMap<String, (u64, UnboundedSender<FromOwner>)>,
}

impl Lines {
    /// A line to a gateway is up; its number.
    pub fn opened_out(&self, replica: &str, line: UnboundedSender<ToOwner>) -> u64 {
        let mut inner = self.inner();
        inner.last += 1;
        let number = inner.last;
        inner.out.insert(replica.to_owned(), (number, line));
        number
    }

    /// A line to a gateway is down.
    pub fn closed_out(&self, replica: &str, number: u64) {
        let mut inner = self.inner();
        if inner.out.get(replica).is_some_and(|it| it.0 == number) {
            inner.out.remove(replica);
        }
    }

    /// A gateway asks us over a new line; its number.
    pub fn opened_back(&self, replica: &str, line: UnboundedSender<FromOwner>) -> u64 {
        let mut inner = self.inner();
        inner.last += 1;
        let number = inner.last;
        inner.back.insert(replica.to_owned(), (number, line));
        number
    }

    /// The line over which a gateway asked us is down. Was it the last one?
    pub fn closed_back(&self, replica: &str, number: u64) -> bool {
        let mut inner = self.inner();
        let last = inner.back.get(replica).is_some_and(|it| it.0 == number);
        if last {
            inner.back.remove(replica);
        }
        last
    }

    /// The number of the line to a gateway; `None` while it is down.
    pub fn out(&self, replica: &str) -> Option<u64> {
        self.inner().out.get(replica).map(|it| it.0)
    }

    /// Does this gateway have a line to us?
    pub fn has_back(&self, replica: &str) -> bool {
        self.inner().back.contains_key(replica)
    }

    /// Asks a gateway, if its line is up.
    pub fn ask(&self, replica: &str, message: ToOwner) {
        if let Some((_, line)) = self.inner().out.get(replica) {
            line.send(message).ok();
        }
    }

    /// Answers a gateway, if its line is up.
    pub fn answer(&self, replica: &str, message: FromOwner) {
        if let Some((_, line)) = self.inner().back.get(replica) {
            line.send(message).ok();
        }
    }

    /// Tells every gateway that we have a line to.
    pub fn tell_all(&self, message: &ToOwner) {
        for (_, line) in self.inner().out.values() {
            line.send(message.clone()).ok();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
