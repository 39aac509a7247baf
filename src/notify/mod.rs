//! How a notice gets to who is told: email by SMTP, and CloudEvents over HTTPS. What is told, to whom and how often is not decided
//! here.
//!
//! `webhook` sends one event, `addresses` says where it may not go, `signature` signs it; `email` sends one letter. Every call is
//! one try with an end; nothing is remembered.

pub mod addresses;
pub mod email;
pub mod signature;
pub mod webhook;

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

/// One try, from the first look at a name to the last byte of the answer.
pub const TRY_WITHIN: Duration = Duration::from_secs(15);

/// What is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Which one: a receiver that has seen this id has seen this letter.
    pub id: String,
    /// Who is told.
    pub account: String,
    /// Its kind as one word.
    pub kind: String,
    /// What it is about: `ResidentPool/team-a/chat`.
    pub about: String,
    /// In a few words.
    pub title: String,
    /// In plain words.
    pub text: String,
    /// When it was written.
    pub at: Timestamp,
    /// What machines read.
    pub data: Value,
}

/// Why a letter is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// In words.
    pub message: String,
    /// There is no use in trying again: the other side said so.
    pub is_final: bool,
}

impl Undelivered {
    /// It may be tried again.
    pub fn for_now(message: impl Into<String>) -> Undelivered {
        Undelivered { message: message.into(), is_final: false }
    }

    /// It is not tried again.
    pub fn for_good(message: impl Into<String>) -> Undelivered {
        Undelivered { message: message.into(), is_final: true }
    }
}
