//! Who may call an endpoint: the keys in a Secret of its namespace. What leaves this process are their hashes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::{Duration, Instant};

use crate::api::ServerlessEndpoint;
use crate::api::condition::Reason;
use crate::cluster::Cluster;
use crate::controllers::facts::Problem;
use crate::link::message::Key;

/// A Secret is read again after this: it is not watched, so that the operator need not see all Secrets.
pub(in crate::controllers) const READ_EVERY: Duration = Duration::from_secs(10);
/// Keys of one Secret.
const KEYS_MAX: usize = 1_000;

/// What was read, by namespace and name of the Secret.
#[derive(Default)]
pub struct Keys(Mutex<HashMap<(String, String), (Instant, Found)>>);

type Found = Result<Vec<Key>, Problem>;

/// The name of the Secret with an endpoint's keys; `None` when anybody may call it.
pub(in crate::controllers) fn secret_name(endpoint: &ServerlessEndpoint) -> Option<&str> {
    let name = &endpoint.spec.auth.as_ref()?.keys_secret_name;
    (!name.is_empty()).then_some(name)
}

impl Keys {
    /// What is known of a Secret; `None` when it was never read.
    pub(in crate::controllers) fn known(&self, namespace: &str, name: &str) -> Option<Found> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(namespace.to_owned(), name.to_owned())).map(|(_, found)| found.clone())
    }

    /// Reads a Secret when it is time to; true when what it says is new. A Secret that can't be read for the moment says
    /// what it said before.
    pub(in crate::controllers) async fn refresh(
        &self,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
    ) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        let before = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Whom nobody asks about any more is forgotten.
            known.retain(|_, (at, _)| at.elapsed() < READ_EVERY * 60);
            known.get(&key).cloned()
        };
        if before.as_ref().is_some_and(|(at, _)| at.elapsed() < READ_EVERY) {
            return false;
        }
        let found = match cluster.read::<Secret>(namespace, name).await {
            Ok(Some(secret)) => parse(name, &secret.data.unwrap_or_default()),
            Ok(None) => Err(invalid(format!(
                "there is no Secret {name} in namespace {namespace}: make it, with a key in each entry, or leave auth.keysSecretName out"
            ))),
            Err(error) => match &before {
                Some((_, found)) => {
                    tracing::warn!(%error, namespace, name, "a Secret was not read");
                    found.clone()
                }
                None => Err(invalid(format!("the Secret {name} can't be read: {error}"))),
            },
        };
        let is_new = before.is_none_or(|(_, before)| before != found);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (Instant::now(), found));
        is_new
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Reason::KeysInvalid, message)
}

/// The keys of a Secret: each entry is a key's name, and as its value the key itself or `sha256:` and its hash in hex;
/// behind it, if it is limited, ` requestsPerSecond=N`.
fn parse(name: &str, data: &BTreeMap<String, ByteString>) -> Found {
    if data.is_empty() {
        return Err(invalid(format!("the Secret {name} has no key: nobody could call")));
    }
    if data.len() > KEYS_MAX {
        return Err(invalid(format!("the Secret {name} has more than {KEYS_MAX} keys")));
    }
    data.iter()
        .map(|(entry, value)| {
            let bad = |what: &str| invalid(format!("entry {entry} of the Secret {name} {what}"));
            let text = std::str::from_utf8(&value.0).map_err(|_| bad("is not text"))?;
            let mut words = text.split_whitespace();
            let token = words.next().ok_or_else(|| bad("is empty"))?;
            let requests_per_second = match words.next().map(|it| it.strip_prefix("requestsPerSecond=")) {
                None => 0,
                Some(Some(number)) => number
                    .parse()
                    .ok()
                    .filter(|it| *it > 0)
                    .ok_or_else(|| bad("has a requestsPerSecond that is not a number above 0"))?,
                Some(None) => return Err(bad("has more than a key and requestsPerSecond=N")),
            };
            if words.next().is_some() {
                return Err(bad("has more than a key and requestsPerSecond=N"));
            }
            let sha256 = match token.strip_prefix("sha256:") {
                Some(hex) if hex.len() == 64 && hex.bytes().all(|it| it.is_ascii_hexdigit()) => {
                    hex.to_ascii_lowercase()
                }
                Some(_) => return Err(bad("has no 64 hex digits after sha256:")),
                None => sha256(token),
            };
            Ok(Key { name: entry.clone(), sha256, requests_per_second })
        })
        .collect()
}

fn sha256(token: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn keys_are_hashed_and_what_is_malformed_is_named() {
        let upper = format!("sha256:{}", HASH_OF_ABC.to_uppercase());
        for (value, expected) in [
            ("abc", Ok(0)),
            ("abc\n", Ok(0)),
            ("abc requestsPerSecond=5", Ok(5)),
            (upper.as_str(), Ok(0)),
            ("", Err("entry ci of the Secret keys is empty")),
            ("sha256:12", Err("entry ci of the Secret keys has no 64 hex digits after sha256:")),
            (
                "abc requestsPerSecond=0",
                Err("entry ci of the Secret keys has a requestsPerSecond that is not a number above 0"),
            ),
            (
                "abc requestsPerSecond=-1",
                Err("entry ci of the Secret keys has a requestsPerSecond that is not a number above 0"),
            ),
            ("abc def", Err("entry ci of the Secret keys has more than a key and requestsPerSecond=N")),
            (
                "abc requestsPerSecond=1 x",
                Err("entry ci of the Secret keys has more than a key and requestsPerSecond=N"),
            ),
        ] {
            let data = [("ci".to_owned(), ByteString(value.as_bytes().to_vec()))].into();
            match (parse("keys", &data), expected) {
                (Ok(keys), Ok(requests_per_second)) => {
                    let key =
                        Key { name: "ci".to_owned(), sha256: HASH_OF_ABC.to_owned(), requests_per_second };
                    assert_eq!(keys, [key], "{value}");
                }
                (Err(problem), Err(message)) => {
                    assert_eq!((problem.reason, problem.message.as_str()), (Reason::KeysInvalid, message));
                }
                (found, expected) => panic!("{value}: {found:?} instead of {expected:?}"),
            }
        }
        assert_eq!(
            parse("keys", &BTreeMap::new()).unwrap_err().message,
            "the Secret keys has no key: nobody could call"
        );
    }

    #[test]
    fn one_malformed_key_makes_all_of_them_invalid() {
        let entry = |name: &str, value: &[u8]| (name.to_owned(), ByteString(value.to_vec()));
        assert!(parse("keys", &[entry("a", b"abc"), entry("b", b"\xff")].into()).is_err());
    }
}
