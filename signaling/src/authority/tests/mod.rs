//! What opens a room and what does not: tokens made with good and bad keys, claims and times.

mod hooks;
mod key_sets;
mod tokens;

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use serde_json::{Value, json};
use signaling_protocol::{AccessToken, RoomName};

use super::{Authority, Denial, Keys, TokenAuthority};
use crate::hub::{Grant, Identity};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn room(name: &str) -> RoomName {
    name.parse().unwrap()
}

/// Seconds from now, as a claim has them.
fn after(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// Good claims for the room `lobby`, with some more or other ones.
fn claims(more: &Value) -> Value {
    let mut claims = json!({"sub": "ada", "exp": after(600), "room": "lobby"});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> AccessToken {
    encode(header, claims, key).unwrap().parse().unwrap()
}

fn with_secret(claims: &Value) -> AccessToken {
    signed(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn authority(keys: Keys) -> TokenAuthority {
    TokenAuthority { keys, audience: Vec::new(), issuer: None, identity: Identity::Several }
}

fn of_secret() -> TokenAuthority {
    authority(Keys::Secrets(vec![DecodingKey::from_secret(SECRET.as_bytes())]))
}

async fn ask(authority: TokenAuthority, token: &AccessToken) -> Result<Grant, Denial> {
    Authority::Tokens(Box::new(authority))
        .grant(&room("lobby"), Some(token))
        .await
        .map(|grant| grant.expect("a grant"))
}
