//! Signatures as Standard Webhooks has them (https://www.standardwebhooks.com): HMAC with SHA-256 over id, time and body, so that
//! nobody can change a byte, and nobody can send an old one again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::hmac;

/// What a key begins with.
const PREFIX: &str = "whsec_";
/// A key's bytes, as Standard Webhooks asks.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that webhooks are signed with.
#[derive(Clone)]
pub struct Key(hmac::Key);

/// Nothing of it.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads `whsec_` and base64, or says what is wrong with it, without what it is.
    pub fn parse(text: &str) -> Result<Key, &'static str> {
        let wrong = "must be whsec_ and 24 to 64 random bytes in base64, such as `echo whsec_$(openssl rand -base64 32)` prints";
        let bytes = text.trim().strip_prefix(PREFIX).and_then(|it| STANDARD.decode(it).ok());
        let bytes = bytes.filter(|it| KEY_BYTES.contains(&it.len())).ok_or(wrong)?;
        Ok(Key(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

/// The value of `webhook-signature`: one signature with each key, so that a key can be replaced while both are known.
pub fn sign(keys: &[Key], id: &str, at: Timestamp, body: &[u8]) -> String {
    let signed = [id.as_bytes(), b".", at.as_second().to_string().as_bytes(), b".", body].concat();
    let sign = |Key(key): &Key| format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed)));
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the specification's reference libraries.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn it_signs_as_the_reference_does() {
        let key = Key::parse(KEY).unwrap();
        let at = Timestamp::from_second(1_614_265_330).unwrap();
        let signed = sign(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs_and_another_byte_is_another_signature() {
        let keys =
            [Key::parse(KEY).unwrap(), Key::parse(&format!("{PREFIX}{}", STANDARD.encode([7; 24]))).unwrap()];
        let at = Timestamp::from_second(10).unwrap();
        let both = sign(&keys, "a", at, b"body");
        assert_eq!(
            both,
            format!("{} {}", sign(&keys[..1], "a", at, b"body"), sign(&keys[1..], "a", at, b"body"))
        );
        let later = Timestamp::from_second(11).unwrap();
        for other in
            [sign(&keys, "b", at, b"body"), sign(&keys, "a", later, b"body"), sign(&keys, "a", at, b"bodz")]
        {
            assert!(other.split(' ').all(|it| !both.contains(it)), "{other}");
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_not_shown() {
        let short = format!("{PREFIX}{}", STANDARD.encode([7; 23]));
        let long = format!("{PREFIX}{}", STANDARD.encode([7; 65]));
        for text in ["", "secret", "whsec_", "whsec_%%%", &short, &long] {
            let wrong = Key::parse(text).unwrap_err();
            assert!(text.is_empty() || !wrong.contains(&format!("`{text}`")), "{wrong}");
        }
        assert!(Key::parse(&format!(" {KEY}\n")).is_ok());
        assert_eq!(format!("{:?}", Key::parse(KEY).unwrap()), "Key");
    }
}
