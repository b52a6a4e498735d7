//! Who may use the admin API: who knows the token, or who may open the unix socket.
//!
//! On a port the Host header is looked at as well: a page in an operator's browser can make a name of its own lead to
//! 127.0.0.1 (DNS rebinding), but it cannot make the browser write another name there.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::admin::Admin;
use super::problem::Problem;

/// Who may come in over a port.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Without it the API is closed on ports.
    pub token: Option<Token>,
    /// Names by which the listener may be called, beside addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// The bearer token, hashed: so it is never shown, and its length is no part of a comparison.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// A token that who comes in must present.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    fn is(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&presented).into()
    }
}

/// Who may come in over a port now; a program may exchange it while it runs.
pub type CurrentAccess = Arc<ArcSwap<Access>>;

/// How requests come in.
#[derive(Clone, Debug)]
pub enum Door {
    /// A unix socket: the file's mode has let it in.
    Socket,
    /// A TCP port.
    Port(CurrentAccess),
}

impl Door {
    /// The door of this listener: who reaches a unix socket is let in by its mode, who reaches a port needs the token.
    #[must_use]
    pub fn of(on: &Admin, access: &CurrentAccess) -> Self {
        match on.address().tcp() {
            Some(_) => Self::Port(Arc::clone(access)),
            None => Self::Socket,
        }
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Self::Port(access) = self else { return Ok(()) };
        let access = access.load();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !is_known(host, &access.hosts) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "the Host header names neither an address nor localhost; list the name in admin_host if it is right",
            ));
        }
        let Some(token) = &access.token else {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "closed",
                "the admin API is closed on this port: configure admin_token_file, or listen on a unix socket \
                 (admin = \"unix:/PATH\")",
            ));
        };
        if presented(headers).is_some_and(|presented| token.is(presented)) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send the content of admin_token_file as \"Authorization: Bearer TOKEN\"",
        ))
    }
}

/// The guard in front of every route of the API.
pub(super) async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.admits(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                let scheme = header::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a Host header names this listener: an address, `localhost`, or a name that the operator listed.
fn is_known(host: &str, listed: &[String]) -> bool {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.split_once(']').is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || listed.iter().any(|listed| !name.is_empty() && listed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_an_address_localhost_or_a_listed_name_and_nothing_else() {
        let listed = ["relay-1.internal".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9641",
            "[::1]:9641",
            "[::1]",
            "localhost",
            "LocalHost.:1",
            "relay-1.Internal:80",
        ] {
            assert!(is_known(host, &listed), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "127.0.0.1.evil.example:9641",
            "localhost.evil.example",
            "[evil]:1",
            "::1",
            "[::1",
        ] {
            assert!(!is_known(host, &listed), "{host}");
        }
        assert!(!is_known("", &[String::new()]));
    }

    #[test]
    fn token_is_compared_as_a_whole_and_never_shown() {
        let good = "0123456789abcdef0123456789abcdef";
        let token = Token::new(good);
        assert!(token.is(good) && !token.is("") && !token.is(&good[1..]) && !token.is(&format!("{good}0")));
        assert!(!format!("{token:?}").contains(good));
    }
}
