//! The call page, embedded: the files of `web-demo/` that a browser needs, and the headers they travel with.
//!
//! Release builds carry the files; debug builds read them from the source tree, so that a page can be edited
//! without a rebuild. Nothing outside the include patterns is reachable in either. No file may load anything
//! from another host, run an inline script, or be framed: the Content-Security-Policy says so.

use std::fmt::Write as _;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::origin::Origin;

#[derive(RustEmbed)]
#[folder = "../web-demo"]
#[include = "*.html"]
#[include = "*.css"]
#[include = "*.js"]
#[include = "*.json"]
#[include = "*.svg"]
#[include = "*.png"]
#[include = "*.ico"]
#[include = "*.webmanifest"]
#[include = "*.woff2"]
#[exclude = "node_modules/*"]
#[exclude = "test/*"]
#[exclude = "tests/*"]
#[exclude = "*.test.js"]
#[exclude = "package.json"]
#[exclude = "package-lock.json"]
#[exclude = "tsconfig.json"]
struct Page;

/// Answers `GET` and `HEAD` for a path of the page; 404 for everything that is not one of its files.
///
/// `own` is the origin under which the client sees this server, `public` the configured one: their WebSocket
/// forms are written into the policy, because not every browser counts `ws:` as `'self'`. `elsewhere` is where the page
/// may be sent when this server drains.
pub(crate) fn respond(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    own: &Origin,
    public: Option<&Origin>,
    elsewhere: Option<&Origin>,
) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
    }
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    let Some(file) = Page::get(name) else {
        return plain(StatusCode::NOT_FOUND, "there is nothing at this address\n");
    };
    let etag = entity_tag(&file);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag))
    });
    let mut response =
        if known { Response::new(Body::empty()) } else { Response::new(Body::from(file.data.into_owned())) };
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    insert(out, header::CONTENT_TYPE, content_type(name, file.metadata.mimetype()));
    insert(out, header::ETAG, etag);
    insert(out, header::CACHE_CONTROL, "no-cache".to_owned());
    insert(out, header::CONTENT_SECURITY_POLICY, policy(own, public, elsewhere));
    insert(out, header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    insert(out, header::REFERRER_POLICY, "no-referrer".to_owned());
    insert(out, header::HeaderName::from_static("permissions-policy"), PERMISSIONS.to_owned());
    insert(out, header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin".to_owned());
    response
}

/// One line of plain text with a status: what every refusal of this server looks like.
pub(crate) fn plain(status: StatusCode, line: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(line));
    *response.status_mut() = status;
    let out = response.headers_mut();
    insert(out, header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned());
    insert(out, header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    insert(out, header::CACHE_CONTROL, "no-store".to_owned());
    response
}

const PERMISSIONS: &str = "camera=(self), microphone=(self), display-capture=(self), autoplay=(self), \
                           screen-wake-lock=(self), fullscreen=(self), picture-in-picture=(self), geolocation=()";

fn policy(own: &Origin, public: Option<&Origin>, elsewhere: Option<&Origin>) -> String {
    let mut connect = format!("'self' {}", own.as_websocket());
    if let Some(public) = public {
        connect.push(' ');
        connect.push_str(&public.as_websocket());
    }
    if let Some(elsewhere) = elsewhere {
        let _ = write!(connect, " {elsewhere} {}", elsewhere.as_websocket());
    }
    format!(
        "default-src 'self'; connect-src {connect}; img-src 'self' blob: data:; media-src 'self' blob:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    )
}

fn content_type(name: &str, guessed: &str) -> String {
    let textual = guessed.starts_with("text/") || name.ends_with(".json") || name.ends_with(".webmanifest");
    if textual { format!("{guessed}; charset=utf-8") } else { guessed.to_owned() }
}

fn entity_tag(file: &EmbeddedFile) -> String {
    // 16 bytes of the file's SHA-256: collisions are nobody's concern, the file is ours.
    let hash = file.metadata.sha256_hash();
    let mut tag = String::from("\"");
    for byte in &hash[..16] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

/// Every value is built from ASCII of ours and from a parsed [`Origin`]; one that is not a legal header value is left out.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
