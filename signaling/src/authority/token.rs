//! JSON Web Tokens (RFC 7519): verified with a shared secret (HS256), or with the public keys of whoever signs them (RS256,
//! ES256, EdDSA). Which of the two is configured, never chosen by the token.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use signaling_protocol::{AccessToken, RoomName};

use super::claims::Claims;
use super::{Denial, KeySet};
use crate::hub::{Grant, Identity};

/// Verifies tokens.
#[derive(Debug)]
pub(crate) struct TokenAuthority {
    pub(crate) keys: Keys,
    /// Whom tokens have to be for, if that is asked.
    pub(crate) audience: Vec<String>,
    /// Who has to have made them, if that is asked.
    pub(crate) issuer: Option<String>,
    /// For tokens that do not say.
    pub(crate) identity: Identity,
}

/// What signatures are verified with.
pub(crate) enum Keys {
    /// Shared secrets, any of which may have signed.
    Secrets(Vec<DecodingKey>),
    /// Public keys.
    Set(KeySet),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secrets(secrets) => write!(f, "Secrets({})", secrets.len()),
            Self::Set(set) => set.fmt(f),
        }
    }
}

impl TokenAuthority {
    pub(super) async fn grant(&self, room: &RoomName, token: &AccessToken) -> Result<Grant, Denial> {
        let header = decode_header(token.as_str()).map_err(|_| Denial::Refused(NO_TOKEN))?;
        if header.crit.is_some() {
            // RFC 7515 section 4.1.11: what is critical has to be understood, and there is nothing of that kind here.
            return Err(Denial::Refused("the token has a critical header that is not known"));
        }
        let claims = match &self.keys {
            Keys::Secrets(secrets) if header.alg == Algorithm::HS256 => {
                let mut verdicts = secrets.iter().map(|secret| self.verify(token, secret, header.alg));
                // A wrong signature says that it was another secret, and nothing else does.
                let wrong_key = Err(Denial::Refused(WRONG_SIGNATURE));
                verdicts
                    .find(|verdict| !matches!(verdict, Err(Denial::Refused(WRONG_SIGNATURE))))
                    .unwrap_or(wrong_key)
            }
            Keys::Set(set) if PUBLIC.contains(&header.alg) => {
                let key = set.find(Instant::now(), header.kid.as_deref(), header.alg).await?;
                self.verify(token, &key, header.alg)
            }
            Keys::Secrets(_) | Keys::Set(_) => {
                Err(Denial::Refused("the token is signed by another algorithm"))
            }
        };
        claims?.grant(room, SystemTime::now(), LEEWAY, self.identity)
    }

    fn verify(&self, token: &AccessToken, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, Denial> {
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY.as_secs();
        rules.validate_nbf = true;
        let mut required = vec!["exp"];
        if !self.audience.is_empty() {
            rules.set_audience(&self.audience);
            required.push("aud");
        }
        if let Some(issuer) = &self.issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        rules.set_required_spec_claims(&required);
        match decode(token.as_str(), key, &rules) {
            Ok(token) => Ok(token.claims),
            Err(error) => Err(denial(error.kind())),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum grows with the library; whatever it is, it is no"
)]
fn denial(error: &ErrorKind) -> Denial {
    Denial::Refused(match error {
        ErrorKind::ExpiredSignature => return Denial::Expired,
        ErrorKind::InvalidSignature => WRONG_SIGNATURE,
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::MissingRequiredClaim(_) => {
            "the token lacks one of exp, and aud and iss where they are asked for"
        }
        ErrorKind::Json(_) => "the claims of the token are not of the documented form",
        _ => NO_TOKEN,
    })
}

const NO_TOKEN: &str = "the token is no JSON Web Token that is understood here";
const WRONG_SIGNATURE: &str = "the token's signature is wrong";
/// Of public keys.
const PUBLIC: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// Clocks differ: a token counts for so much longer, and so much sooner.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);
