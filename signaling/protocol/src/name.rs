//! Names and tokens of the protocol. A value of one of these types has been checked, and those that are secret do not
//! show themselves in `Debug`.

use std::borrow::Cow;
use std::fmt;
use std::str::{self, FromStr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Refusal of a name: says what was expected, never what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidName(&'static str);

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidName {}

/// Name of a room: 1 to 64 of `[A-Za-z0-9._~-]`, but neither `.` nor `..`, which URLs swallow. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoomName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-');
        let valid =
            (1..=64).contains(&text.len()) && text.bytes().all(unreserved) && text != "." && text != "..";
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("a room name is 1 to 64 of the characters A-Z a-z 0-9 . _ ~ - (and not . or ..)"))
        }
    }
}

/// What makes a client the same peer when it comes back: 32 random bytes in base64url without padding, 43 characters.
/// The client keeps it, one for each room; only the [`PeerId`] derived from it is ever shown to others.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 43]);

impl FromStr for Secret {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = InvalidName("secret is 32 random bytes in base64url without padding, 43 characters");
        let bytes = <[u8; 43]>::try_from(text.as_bytes()).map_err(|_| invalid)?;
        // 43 characters are always 32 bytes; the decoder also refuses the second spelling of the last character.
        BASE64URL.decode(bytes).map_err(|_| invalid)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Public name of a peer in a room: 22 characters of base64url. It survives a new session, a new connection and a
/// restart of the server, and nobody without the secret can claim it.
///
/// Ids are ordered by their bytes; of a pair the smaller is the polite one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 22]);

impl PeerId {
    /// Derives the id: the first 22 characters of base64url(SHA-256(`"signaling.v1\0" || room || "\0" || secret`)),
    /// with the secret as its 43 characters.
    #[must_use]
    pub fn derive(room: &RoomName, secret: &Secret) -> Self {
        let digest = Sha256::new()
            .chain_update(b"signaling.v1\0")
            .chain_update(room.as_str())
            .chain_update(b"\0")
            .chain_update(secret.0)
            .finalize();
        let mut text = [0; 43];
        let written = BASE64URL.encode_slice(digest, &mut text);
        debug_assert_eq!(written, Ok(43), "32 bytes make 43 characters");
        let mut id = [0; 22];
        id.copy_from_slice(&text[..22]);
        Self(id)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("base64url is ASCII: ensured by derive and from_str")
    }

    /// Whether this peer is the polite one of the pair (perfect negotiation).
    #[must_use]
    pub fn is_polite_towards(&self, other: &Self) -> bool {
        self < other
    }
}

impl FromStr for PeerId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = InvalidName("a peer id is 22 characters of base64url");
        let bytes = <[u8; 22]>::try_from(text.as_bytes()).map_err(|_| invalid)?;
        if bytes.iter().all(|&b| is_base64url(b)) { Ok(Self(bytes)) } else { Err(invalid) }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name of a session, 11 characters of base64url on the wire. Not a secret: it names TURN credentials and log lines.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    /// Makes an id of 64 random bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The 64 bits.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl FromStr for SessionId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = InvalidName("a session id is 11 characters of base64url");
        let bytes = BASE64URL.decode(text).map_err(|_| invalid)?;
        Ok(Self(u64::from_be_bytes(bytes.try_into().map_err(|_| invalid)?)))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL.encode(self.0.to_be_bytes()))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Key to a session that a returning client presents: opaque to it, at most 128 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeToken(Box<str>);

impl ResumeToken {
    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResumeToken {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if (1..=128).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("a resume token is what an earlier welcome gave, at most 128 bytes"))
        }
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(..)")
    }
}

/// What shows who a client is and what it may do: 1 to 8,192 visible ASCII characters, which whoever verifies it reads.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Box<str>);

impl AccessToken {
    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccessToken {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if (1..=8192).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("token is 1 to 8192 visible ASCII characters"))
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// What a client is in its room, in the words of whoever granted it: 1 to 32 of `[A-Za-z0-9_-]`, shown to the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Role(Box<str>);

impl Role {
    /// The role as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Role {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if (1..=32).contains(&text.len()) && text.bytes().all(is_base64url) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("role is 1 to 32 of the characters A-Z a-z 0-9 _ -"))
        }
    }
}

/// What newcomers to a room have to know: at most 128 bytes, and none at all if it is empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<str>);

impl Password {
    /// The password as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Password {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= 128 {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("password is at most 128 bytes"))
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// One run of a client (a page load, a process): 1 to 32 of `[A-Za-z0-9_-]`, random. A changed instance tells the
/// others that the peer lost its memory and that peer connections to it begin anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(Box<str>);

impl Instance {
    /// The instance as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Instance {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if (1..=32).contains(&text.len()) && text.bytes().all(is_base64url) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("instance is 1 to 32 of the characters A-Z a-z 0-9 _ -"))
        }
    }
}

/// What a person calls themselves: at most 64 characters (Unicode scalar values), none of them a control character.
/// Free text from a stranger: whoever shows it must escape it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DisplayName(Box<str>);

impl DisplayName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DisplayName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // The first comparison keeps the count of a hostile text short: a character has at most four bytes.
        if text.len() <= 256 && text.chars().count() <= 64 && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("name is at most 64 characters, without control characters"))
        }
    }
}

/// What an operator says to a room: 1 to 1,000 characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NoticeText(Box<str>);

impl NoticeText {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NoticeText {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = text.len() <= 4_000 && (1..=1_000).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("text is 1 to 1000 characters, without control characters"))
        }
    }
}

/// Which negotiation of a pair a signal belongs to: 1 to 64 characters chosen by the clients, relayed as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Negotiation(Box<str>);

impl Negotiation {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Negotiation {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= 256 && (1..=64).contains(&text.chars().count()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName("negotiation is 1 to 64 characters"))
        }
    }
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// On the wire each of these is a JSON string in its text form; a text outside its bounds does not parse.
macro_rules! as_json_string {
    ($($name:ident: $text:expr),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let text: fn(&Self) -> Cow<'_, str> = $text;
                serializer.serialize_str(&text(self))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_json_string! {
    RoomName: |name| Cow::Borrowed(name.as_str()),
    Secret: |secret| String::from_utf8_lossy(&secret.0),
    PeerId: |id| Cow::Borrowed(id.as_str()),
    SessionId: |id| Cow::Owned(id.to_string()),
    ResumeToken: |token| Cow::Borrowed(token.as_str()),
    AccessToken: |token| Cow::Borrowed(token.as_str()),
    Role: |role| Cow::Borrowed(role.as_str()),
    Password: |password| Cow::Borrowed(password.as_str()),
    Instance: |instance| Cow::Borrowed(instance.as_str()),
    DisplayName: |name| Cow::Borrowed(name.as_str()),
    NoticeText: |text| Cow::Borrowed(text.as_str()),
    Negotiation: |negotiation| Cow::Borrowed(negotiation.as_str())
}

/// The bounds of these texts as a pattern of JSON Schema, as far as one can say them.
macro_rules! as_schema {
    ($($name:ident: $pattern:literal),*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    )*};
}

as_schema! {
    RoomName: "^[A-Za-z0-9._~-]{1,64}$",
    Secret: "^[A-Za-z0-9_-]{43}$",
    PeerId: "^[A-Za-z0-9_-]{22}$",
    SessionId: "^[A-Za-z0-9_-]{11}$",
    ResumeToken: "^.{1,128}$",
    Instance: "^[A-Za-z0-9_-]{1,32}$",
    AccessToken: "^[!-~]{1,8192}$",
    Role: "^[A-Za-z0-9_-]{1,32}$",
    Password: "^[\\s\\S]{0,128}$",
    DisplayName: "^[^\\u0000-\\u001f\\u007f-\\u009f]{0,64}$",
    NoticeText: "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,1000}$",
    Negotiation: "^[\\s\\S]{1,64}$"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_names_are_accepted_and_refused_at_their_edges() {
        for good in ["a", &"x".repeat(64), "A.z_0~-", "...", ".a"] {
            assert!(good.parse::<RoomName>().is_ok(), "{good}");
        }
        for bad in ["", &"x".repeat(65), ".", "..", "a/b", "a b", "é", "a%20", "a\0"] {
            assert!(bad.parse::<RoomName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_exactly_32_bytes_in_one_spelling() {
        assert!("A".repeat(43).parse::<Secret>().is_ok());
        for bad in
            ["A".repeat(42), "A".repeat(44), "A".repeat(42) + "B", "A".repeat(42) + "+", "A".repeat(42) + "="]
        {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }

    /// Computed apart from this code:
    /// `printf 'signaling.v1\0lobby\0%s' "$SECRET" | openssl dgst -sha256 -binary | basenc --base64url | cut -c1-22`
    #[test]
    fn a_peer_id_is_the_documented_hash_of_room_and_secret() {
        let room: RoomName = "lobby".parse().unwrap();
        let secret: Secret = "A".repeat(43).parse().unwrap();
        assert_eq!(PeerId::derive(&room, &secret).as_str(), "vT4WhJssOYHUpaWhXZ0V8Q");
    }

    #[test]
    fn another_room_gives_another_peer_id_for_the_same_secret() {
        let secret: Secret = "A".repeat(43).parse().unwrap();
        let [a, b] = ["a", "b"].map(|room| PeerId::derive(&room.parse().unwrap(), &secret));
        assert_ne!(a, b);
    }

    #[test]
    fn exactly_one_of_a_pair_is_polite() {
        let [a, b]: [PeerId; 2] = ["A".repeat(22), "B".repeat(22)].map(|id| id.parse().unwrap());
        assert!(a.is_polite_towards(&b) && !b.is_polite_towards(&a));
    }

    #[test]
    fn display_names_are_counted_in_characters_and_hold_no_control_character() {
        assert!("한".repeat(64).parse::<DisplayName>().is_ok());
        assert!("한".repeat(65).parse::<DisplayName>().is_err());
        assert!("a\nb".parse::<DisplayName>().is_err());
    }

    #[test]
    fn secrets_and_tokens_do_not_show_themselves() {
        let secret: Secret = "A".repeat(43).parse().unwrap();
        let resume: ResumeToken = "token-text".parse().unwrap();
        let token: AccessToken = "token-text".parse().unwrap();
        assert_eq!(format!("{secret:?} {resume:?} {token:?}"), "Secret(..) ResumeToken(..) AccessToken(..)");
    }

    #[test]
    fn access_tokens_and_roles_are_accepted_and_refused_at_their_edges() {
        assert!("x".repeat(8192).parse::<AccessToken>().is_ok());
        for bad in ["", &"x".repeat(8193), "a b", "a\n", "é"] {
            assert!(bad.parse::<AccessToken>().is_err(), "{bad}");
        }
        assert!("x".repeat(32).parse::<Role>().is_ok());
        for bad in ["", &"x".repeat(33), "a b", "<b>"] {
            assert!(bad.parse::<Role>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_id_reads_back_from_its_text() {
        let id = SessionId::from_bits(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
