//! Who asks, and may he: the API server says so, and what it said is good for a moment.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use super::answer::Refused;
use crate::api::names;
use crate::cluster::Cluster;
use crate::cluster::access::{Caller, Deed};

/// What the API server said is good for so long: a right that is taken away is gone after it.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How much of that is kept.
const KEPT_MAX: usize = 1_024;
/// The longest token that is looked at.
const TOKEN_BYTES: usize = 16 * 1024;

/// A token, hashed: it is kept by no process.
type Hash = Vec<u8>;

/// What is known of tokens.
#[derive(Default)]
pub(super) struct Access {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    callers: HashMap<Hash, (Instant, Option<Caller>)>,
    deeds: HashMap<(Hash, Deed), (Instant, bool)>,
}

impl Access {
    /// Who asks must be known, and may do all of this.
    pub(super) async fn check(
        &self,
        cluster: &Cluster,
        headers: &HeaderMap,
        deeds: &[Deed],
    ) -> Result<(), Refused> {
        let caller = self.caller(cluster, headers).await?;
        for deed in deeds {
            self.may(cluster, headers, &caller, deed).await?;
        }
        Ok(())
    }

    /// Whose token it is.
    pub(super) async fn caller(&self, cluster: &Cluster, headers: &HeaderMap) -> Result<Caller, Refused> {
        let token = token(headers)?;
        let unknown = || {
            Refused::new(
                StatusCode::UNAUTHORIZED,
                "the API server does not know this token: use one of a user or a ServiceAccount of this cluster",
            )
        };
        let key = hash(token);
        let now = Instant::now();
        let said = self.known().callers.get(&key).filter(|(until, _)| *until > now).map(|it| it.1.clone());
        let caller = if let Some(caller) = said {
            caller
        } else {
            let asked = cluster.who(token, names::AUDIENCE).await;
            let caller = asked.map_err(|it| Refused::unavailable(&it))?;
            let mut known = self.known();
            known.make_room(now);
            known.callers.insert(key, (now + GOOD_FOR, caller.clone()));
            caller
        };
        caller.ok_or_else(unknown)
    }

    /// May this user do this?
    pub(super) async fn may(
        &self,
        cluster: &Cluster,
        headers: &HeaderMap,
        caller: &Caller,
        deed: &Deed,
    ) -> Result<(), Refused> {
        let key = (hash(token(headers)?), deed.clone());
        let now = Instant::now();
        let said = self.known().deeds.get(&key).filter(|(until, _)| *until > now).map(|it| it.1);
        let allowed = if let Some(allowed) = said {
            allowed
        } else {
            let asked = cluster.may(caller, deed).await;
            let allowed = asked.map_err(|it| Refused::unavailable(&it))?;
            let mut known = self.known();
            known.make_room(now);
            known.deeds.insert(key, (now + GOOD_FOR, allowed));
            allowed
        };
        let message = || format!("{} may not {deed}: bind a role that allows it", caller.user);
        if allowed { Ok(()) } else { Err(Refused::new(StatusCode::FORBIDDEN, message())) }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn make_room(&mut self, now: Instant) {
        if self.callers.len() + self.deeds.len() < KEPT_MAX {
            return;
        }
        self.callers.retain(|_, (until, _)| *until > now);
        self.deeds.retain(|_, (until, _)| *until > now);
        // Somebody asks for very much: what was said is asked again.
        if self.callers.len() + self.deeds.len() >= KEPT_MAX {
            self.callers.clear();
            self.deeds.clear();
        }
    }
}

fn hash(token: &str) -> Hash {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

fn token(headers: &HeaderMap) -> Result<&str, Refused> {
    let given = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    let token = given.and_then(|it| it.strip_prefix("Bearer ")).map(str::trim).filter(|it| !it.is_empty());
    token.filter(|it| it.len() <= TOKEN_BYTES).ok_or_else(|| {
        Refused::new(
            StatusCode::UNAUTHORIZED,
            "send the header `authorization: Bearer TOKEN`, as kubectl tenure does",
        )
    })
}
