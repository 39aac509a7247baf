//! Who may call an endpoint, and how often: API keys and their rates.
//!
//! Keys are known by their SHA-256 only, and all of an endpoint's are compared, in constant time, whichever fits. A key that
//! was for the gateway is not passed on; a header that was not stays the worker's.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use ring::digest::{SHA256, digest};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::gateway::refuse::Reason;
use crate::link::message::{EndpointKey, Key, Route};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// More rates than this are not remembered: those that are not in use are forgotten first.
const MOST_RATES: usize = 100_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The rates of all keys.
#[derive(Default)]
pub struct Rates {
    rates: Mutex<HashMap<EndpointKey, HashMap<String, Rate>>>,
}

/// A token bucket: so many requests a second, and as many at once. It remembers when it will be full again.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rate {
    full_at_ns: u64,
}

impl Rate {
    /// A request at `now_ns`: may it pass, or after how many nanoseconds might it?
    pub fn take(&mut self, now_ns: u64, per_second: u32) -> Result<(), u64> {
        let interval_ns = SECOND_NS / u64::from(per_second.max(1));
        let full_at_ns = self.full_at_ns.max(now_ns) + interval_ns;
        match full_at_ns.checked_sub(now_ns + interval_ns * u64::from(per_second.max(1))) {
            None | Some(0) => {
                self.full_at_ns = full_at_ns;
                Ok(())
            }
            Some(wait_ns) => Err(wait_ns),
        }
    }
}

impl Rates {
    /// May this request call this endpoint? Takes the gateway's key out of its headers. If not: why, and when to come back,
    /// seconds.
    pub fn check(
        &self,
        route: &Route,
        headers: &mut HeaderMap,
        now_ns: u64,
    ) -> Result<(), (Reason, Option<u32>)> {
        let Some(keys) = &route.keys else { return Ok(()) };
        let bearer = headers.get(AUTHORIZATION).and_then(|it| bearer(it.as_bytes()));
        let key = match bearer.and_then(|it| find(keys, it)) {
            Some(key) => {
                headers.remove(AUTHORIZATION);
                key
            }
            None => match headers.get(&API_KEY).and_then(|it| find(keys, it.as_bytes())) {
                Some(key) => {
                    headers.remove(&API_KEY);
                    key
                }
                None => return Err((Reason::BadKey, None)),
            },
        };
        if key.requests_per_second == 0 {
            return Ok(());
        }
        self.take(&route.endpoint, key, now_ns).map_err(|wait_ns| {
            let seconds = u32::try_from(wait_ns.div_ceil(SECOND_NS)).unwrap_or(u32::MAX);
            (Reason::KeyRate, Some(seconds.max(1)))
        })
    }

    fn take(&self, endpoint: &EndpointKey, key: &Key, now_ns: u64) -> Result<(), u64> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = rates.get_mut(endpoint).and_then(|it| it.get_mut(&key.name)) {
            return rate.take(now_ns, key.requests_per_second);
        }
        if rates.values().map(HashMap::len).sum::<usize>() >= MOST_RATES {
            for of_endpoint in rates.values_mut() {
                of_endpoint.retain(|_, it| it.full_at_ns > now_ns);
            }
            rates.retain(|_, it| !it.is_empty());
        }
        let of_endpoint = rates.entry(endpoint.clone()).or_default();
        of_endpoint.entry(key.name.clone()).or_default().take(now_ns, key.requests_per_second)
    }
}

/// The key in `Bearer KEY`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// The key with this text. Takes as long whichever it is.
fn find<'a>(keys: &'a [Key], presented: &[u8]) -> Option<&'a Key> {
    let hash = hex(digest(&SHA256, presented).as_ref());
    let mut found = u64::MAX;
    for (at, key) in (0_u64..).zip(keys) {
        let equal = key.sha256.as_bytes().ct_eq(&hash);
        found = u64::conditional_select(&found, &at, equal);
    }
    keys.get(usize::try_from(found).ok()?)
}

/// Lower-case hex of a SHA-256.
fn hex(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::gateway::tests::route;

    pub fn key(name: &str, text: &str, requests_per_second: u32) -> Key {
        let sha256 = String::from_utf8(hex(digest(&SHA256, text.as_bytes()).as_ref()).to_vec()).unwrap();
        Key { name: name.to_owned(), sha256, requests_per_second }
    }

    /// `ok` or the reason, and the headers that are left.
    fn check(keys: Option<Vec<Key>>, headers: &[(&'static str, &str)], expected: &str) {
        let route = Route { keys, ..route() };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let result = Rates::default().check(&route, &mut map, 0);
        let word = result.map_or_else(|(reason, _)| reason.row().code, |()| "ok");
        let left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        assert_eq!(format!("{word} {}", left.join(",")), expected, "{headers:?}");
    }

    #[test]
    fn who_may_call() {
        let keys = || Some(vec![key("a", "secret-a", 0), key("b", "secret-b", 0)]);
        check(None, &[("authorization", "Bearer theirs")], "ok authorization");
        check(keys(), &[], "bad-key ");
        check(keys(), &[("authorization", "Bearer secret-a")], "ok ");
        check(keys(), &[("authorization", "bearer  secret-b ")], "ok ");
        check(keys(), &[("authorization", "Bearer secret")], "bad-key authorization");
        check(keys(), &[("authorization", "Basic secret-a")], "bad-key authorization");
        check(keys(), &[("authorization", "Bearer ")], "bad-key authorization");
        check(keys(), &[("authorization", "é")], "bad-key authorization");
        check(keys(), &[("x-api-key", "secret-b")], "ok ");
        check(keys(), &[("x-api-key", "secret-b"), ("authorization", "Bearer theirs")], "ok authorization");
        check(keys(), &[("x-api-key", "theirs"), ("authorization", "Bearer secret-a")], "ok x-api-key");
        check(Some(vec![]), &[("x-api-key", "secret-b")], "bad-key x-api-key");
    }

    #[test]
    fn as_many_at_once_as_in_a_second() {
        let mut rate = Rate::default();
        for _ in 0..4 {
            assert_eq!(rate.take(7, 4), Ok(()));
        }
        assert_eq!(rate.take(7, 4), Err(SECOND_NS / 4), "the fifth waits for the first's place");
        assert_eq!(rate.take(7 + SECOND_NS / 4, 4), Ok(()));
        assert!(rate.take(7 + SECOND_NS / 4, 4).is_err());
        assert_eq!(
            rate.take(7 + 10 * SECOND_NS, 4),
            Ok(()),
            "what was not used for long is no more than full"
        );
    }

    #[test]
    fn rates_are_per_key() {
        let (a, b) = (key("a", "x", 1), key("b", "y", 1));
        let rates = Rates::default();
        let endpoint = route().endpoint;
        assert_eq!(rates.take(&endpoint, &a, 0), Ok(()));
        assert_eq!(rates.take(&endpoint, &a, 0), Err(SECOND_NS));
        assert_eq!(rates.take(&endpoint, &b, 0), Ok(()));
    }
}
