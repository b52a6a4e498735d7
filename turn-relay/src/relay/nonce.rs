//! Stateless nonces (RFC 8489 section 9.2): an HMAC over the client's address and a coarse time, so that whoever has not
//! proved an address costs no memory.
//!
//! ```text
//! "obMatJos2" | 24 security feature bits, base64 | base64url(minutes, lowest 8 bits | HMAC-SHA256, first 10 bytes)
//! ```
//!
//! That is 28 characters: every byte more is one that a forged address is sent. The tag covers all bits of the minutes and
//! the feature bits, so neither an old nonce nor one with other features comes back into use.
//!
//! Keys are derived from one master key per generation of an hour. The generation of a nonce is accepted while it is the
//! current one or the one before: two live keys. All workers of a server share the master key.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::address::{FiveTuple, packed};
use crate::credentials::Features;

/// RFC 8489 section 9.2.
const COOKIE: &str = "obMatJos2";
const MINUTES_PER_GENERATION: u32 = 60;
/// RFC 8656 section 5: a nonce should be replaced at least once an hour.
const MAX_AGE_MINUTES: u32 = 60;
/// 80 bits: forging one is a guess per datagram against the limit on unauthenticated answers, and wins an address, no account.
const TAG_BYTES: usize = 10;
const PAYLOAD_BYTES: usize = 1 + TAG_BYTES;

/// Makes and checks the nonces of one worker.
#[derive(Debug)]
pub(super) struct Nonces {
    epoch: Instant,
    master: [u8; 32],
    /// The keys of the newest generations seen; at most two.
    keys: [Option<(u32, Hmac<Sha256>)>; 2],
}

impl Nonces {
    pub(super) fn new(epoch: Instant, master: [u8; 32]) -> Self {
        Self { epoch, master, keys: [None, None] }
    }

    /// The nonce for a client now, which says what is offered to it.
    pub(super) fn issue(&mut self, now: Instant, client: &FiveTuple, features: Features) -> String {
        let minutes = self.minutes(now);
        let tag = self.tag(minutes, client, features);
        let mut payload = [0; PAYLOAD_BYTES];
        payload[0] = low_bits(minutes);
        payload[1..].copy_from_slice(&tag);
        let mut nonce = String::with_capacity(28);
        nonce.push_str(COOKIE);
        nonce.push_str(features.cookie());
        URL_SAFE_NO_PAD.encode_string(payload, &mut nonce);
        nonce
    }

    /// Whether the nonce was issued to this client with these features, and is not too old.
    #[must_use]
    pub(super) fn accepts(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        features: Features,
        nonce: &[u8],
    ) -> bool {
        let after_cookie = nonce.strip_prefix(COOKIE.as_bytes());
        let Some(payload) = after_cookie.and_then(|rest| rest.strip_prefix(features.cookie().as_bytes()))
        else {
            return false;
        };
        let mut bytes = [0; PAYLOAD_BYTES];
        if URL_SAFE_NO_PAD.decode_slice(payload, &mut bytes) != Ok(bytes.len()) {
            return false;
        }
        let [low, tag @ ..] = bytes;
        let current = self.minutes(now);
        let age = u32::from(low_bits(current).wrapping_sub(low));
        let Some(minutes) = current.checked_sub(age).filter(|_| age < MAX_AGE_MINUTES) else { return false };
        subtle::ConstantTimeEq::ct_eq(&self.tag(minutes, client, features)[..], &tag[..]).into()
    }

    fn minutes(&self, now: Instant) -> u32 {
        let minutes = now.saturating_duration_since(self.epoch).as_secs() / 60;
        u32::try_from(minutes).unwrap_or(u32::MAX)
    }

    fn tag(&mut self, minutes: u32, client: &FiveTuple, features: Features) -> [u8; TAG_BYTES] {
        let mac = self
            .key(minutes / MINUTES_PER_GENERATION)
            .chain_update(features.cookie())
            .chain_update(minutes.to_be_bytes())
            .chain_update(packed(client.client.0.ip()).to_be_bytes())
            .chain_update(client.client.0.port().to_be_bytes())
            .chain_update([client.transport as u8]);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }

    /// The key of a generation. Only the current and the last one are ever asked for: age is checked first.
    fn key(&mut self, generation: u32) -> Hmac<Sha256> {
        if let Some((_, key)) = self.keys.iter().flatten().find(|(kept, _)| *kept == generation) {
            return key.clone();
        }
        let derived = derive(&self.master, b"nonce", u64::from(generation));
        let key = Hmac::new_from_slice(&derived).expect("HMAC takes a key of any length");
        // The older of the two makes room.
        let [a, b] = &self.keys;
        let slot = if b.as_ref().map(|(g, _)| *g) < a.as_ref().map(|(g, _)| *g) { 1 } else { 0 };
        self.keys[slot] = Some((generation, key.clone()));
        key
    }
}

fn low_bits(minutes: u32) -> u8 {
    minutes.to_be_bytes()[3]
}

/// A key for one purpose from the master key.
pub(super) fn derive(master: &[u8; 32], purpose: &[u8], number: u64) -> [u8; 32] {
    let mac: Hmac<Sha256> = Hmac::new_from_slice(master).expect("HMAC takes a key of any length");
    mac.chain_update(purpose).chain_update(number.to_be_bytes()).finalize().into_bytes().into()
}

/// How long a nonce is good.
#[cfg(test)]
pub(super) const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(60 * MAX_AGE_MINUTES as u64);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::address::Transport;
    use crate::credentials::PasswordAlgorithm;
    use crate::relay::testing::{epoch, tcp, tuple, udp};

    const NONE: Features = Features { password_algorithms: &[], username_anonymity: false };
    const SHA256: Features =
        Features { password_algorithms: &[PasswordAlgorithm::Sha256], username_anonymity: false };

    fn nonces(epoch: Instant) -> Nonces {
        Nonces::new(epoch, [7; 32])
    }

    #[test]
    fn nonce_is_accepted_from_the_same_client_until_it_is_an_hour_old() {
        let epoch = epoch();
        for start in [0, 30, 59, 61].map(|minutes| epoch + Duration::from_secs(60 * minutes)) {
            let mut issuing = nonces(epoch);
            let nonce = issuing.issue(start, &tuple(1), NONE);
            assert!(nonces(epoch).accepts(start, &tuple(1), NONE, nonce.as_bytes()));
            assert!(issuing.accepts(
                start + MAX_AGE - Duration::from_secs(60),
                &tuple(1),
                NONE,
                nonce.as_bytes()
            ));
            assert!(!issuing.accepts(start + MAX_AGE, &tuple(1), NONE, nonce.as_bytes()));
        }
    }

    #[test]
    fn nonce_of_another_client_or_another_key_or_the_future_is_refused() {
        let epoch = epoch();
        let mut ours = nonces(epoch);
        let later = epoch + Duration::from_secs(600);
        let nonce = ours.issue(later, &tuple(1), NONE);
        let client = tuple(1).client.0;
        let elsewhere = [
            udp(&format!("{}:{}", client.ip(), client.port() + 1)),
            udp(&format!("192.0.2.1:{}", client.port())),
            tcp(&client.to_string()),
            FiveTuple { transport: Transport::Tls, ..tuple(1) },
            FiveTuple { transport: Transport::Dtls, ..tuple(1) },
        ];
        for other in elsewhere {
            assert!(!ours.accepts(later, &other, NONE, nonce.as_bytes()), "{other:?}");
        }
        assert!(!Nonces::new(epoch, [8; 32]).accepts(later, &tuple(1), NONE, nonce.as_bytes()));
        assert!(!ours.accepts(epoch, &tuple(1), NONE, nonce.as_bytes()));
    }

    #[test]
    fn altered_or_truncated_nonce_is_refused() {
        let epoch = epoch();
        let mut ours = nonces(epoch);
        let nonce = ours.issue(epoch, &tuple(1), NONE).into_bytes();
        for i in 0..nonce.len() {
            let mut altered = nonce.clone();
            altered[i] ^= 1;
            assert!(!ours.accepts(epoch, &tuple(1), NONE, &altered), "byte {i}");
            assert!(!ours.accepts(epoch, &tuple(1), NONE, &nonce[..i]), "{i} bytes");
        }
    }

    #[test]
    fn nonce_whose_feature_bits_were_changed_is_refused() {
        let epoch = epoch();
        let mut ours = nonces(epoch);
        let nonce = ours.issue(epoch, &tuple(1), SHA256);
        assert!(nonce.starts_with("obMatJos2gAAA"), "bit 0 is the most significant: {nonce}");
        assert!(ours.accepts(epoch, &tuple(1), SHA256, nonce.as_bytes()));
        let cleared = nonce.replacen("gAAA", "AAAA", 1);
        for features in [SHA256, NONE] {
            assert!(!ours.accepts(epoch, &tuple(1), features, cleared.as_bytes()), "{features:?}");
        }
    }

    #[test]
    fn nonce_of_one_generation_is_not_good_again_when_its_minute_comes_round() {
        let epoch = epoch();
        let mut ours = nonces(epoch);
        let nonce = ours.issue(epoch, &tuple(1), NONE);
        for minutes in 60..=1024 {
            let later = epoch + Duration::from_secs(60 * minutes);
            assert!(!ours.accepts(later, &tuple(1), NONE, nonce.as_bytes()), "after {minutes} minutes");
        }
    }
}
