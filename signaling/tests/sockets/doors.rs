//! What a connection must show before it gets anywhere: Host, Origin, handshake, TLS; and the page.

use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::{
    Client, PATIENCE, certificate::Certificate, config, get, http, metric, metric_becomes, open, request,
    requests::hello, start,
};

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_not_ours_is_misdirected() {
    let server = start(config());
    let ask = async |host: &str| {
        http(server.address(), &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    let rebound = ask("evil.example").await;
    assert_eq!(status(&rebound), "421");
    assert_eq!(rebound.split("\r\n\r\n").nth(1).expect("a body").lines().count(), 1, "{rebound}");
    assert_eq!(status(&ask("localhost").await), "200");
    assert_eq!(status(&ask("a@localhost").await), "400");
    let twice = "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&http(server.address(), twice).await), "400");
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"host\"}").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_may_not_open_a_session() {
    let config = signaling::Config { allow_origin: vec!["https://friend.example".into()], ..config() };
    let server = start(config);
    let attempt = async |origin: &str| {
        let mut request = request(server.address(), "lobby");
        request.headers_mut().insert("origin", origin.parse().expect("a header value"));
        tokio_tungstenite::connect_async(request).await.map(drop).map_err(|error| error.to_string())
    };
    let own = format!("http://{}", server.address());
    for good in [own.as_str(), "https://friend.example"] {
        assert_eq!(attempt(good).await, Ok(()), "{good}");
    }
    for bad in ["https://evil.example", "null", "http://localhost", "http://friend.example"] {
        let refused = attempt(bad).await.expect_err(bad);
        assert!(refused.contains("403"), "{bad}: {refused}");
    }
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"origin\"}").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_without_what_it_needs_is_refused_with_a_line() {
    let server = start(config());
    let host = server.address();
    let ask = async |path: &str, headers: &str| {
        http(host, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")).await
    };
    let room = "/v1/rooms/lobby/ws";
    let close = "Connection: close\r\n";
    for (path, headers, expected) in [
        (room, close.to_owned(), "426"),
        (room, format!("{UPGRADE}Connection: close\r\n"), "400"),
        (
            room,
            format!("{UPGRADE}Connection: close\r\nSec-WebSocket-Protocol: chat, signaling.v2\r\n"),
            "400",
        ),
        (
            "/v1/rooms/a%20b/ws",
            format!("{UPGRADE}Connection: close\r\nSec-WebSocket-Protocol: signaling.v1\r\n"),
            "400",
        ),
        ("/v1/rooms/", close.to_owned(), "404"),
    ] {
        let answer = ask(path, &headers).await;
        assert_eq!(status(&answer), expected, "{path} {headers}: {answer}");
    }
    let short_key = "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: AA==\r\nSec-WebSocket-Protocol: signaling.v1\r\n";
    assert_eq!(status(&ask(room, short_key).await), "400");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_comes_with_its_security_headers_and_nothing_beside_it() {
    let server = start(config());
    let address = server.address();
    let page = get(address, "/", "").await;
    assert_eq!(status(&page), "200");
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'self';",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-cache",
        "permissions-policy: camera=(self)",
    ] {
        assert!(page.contains(&format!("\r\n{header}")), "{header} is missing in {page}");
    }
    assert!(page.contains(&format!("connect-src 'self' ws://{address};")), "{page}");
    assert!(!page.contains("unsafe-inline"));
    let script = get(address, "/sdk/client.js", "").await;
    assert!(script.contains("\r\ncontent-type: text/javascript; charset=utf-8"), "{script}");

    let etag = page.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an entity tag");
    assert_eq!(status(&get(address, "/", &format!("If-None-Match: {etag}\r\n")).await), "304");
    assert_eq!(status(&get(address, "/", "If-None-Match: \"other\"\r\n").await), "200");

    for hidden in [
        "/package.json",
        "/tsconfig.json",
        "/package-lock.json",
        "/../Cargo.toml",
        "/%2e%2e/Cargo.toml",
        "/sdk",
        "/x",
    ] {
        assert_eq!(status(&get(address, hidden, "").await), "404", "{hidden}");
    }
    let post =
        format!("POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status(&http(address, &post).await), "405");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_holds_only_so_many_connections_that_have_not_said_hello() {
    let server = start(signaling::Config { max_pending_per_address: Some(2), ..config() });
    // Whoever has said hello does not count here.
    let _client = Client::join(&server, "lobby", 1).await;
    let _first = TcpStream::connect(server.address()).await.expect("connects");
    // A WebSocket that says nothing does.
    let _second = open(&server, "lobby").await;
    assert_not_served(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_holds_only_so_many_sessions() {
    let server = start(signaling::Config { max_connections_per_address: Some(2), ..config() });
    let first = Client::join(&server, "lobby", 1).await;
    let _second = Client::join(&server, "lobby", 2).await;
    assert_not_served(&server).await;
    drop(first);
    metric_becomes(&server, "signaling_connections", 1).await;
    let again = async {
        while tokio_tungstenite::connect_async(request(server.address(), "lobby")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("its place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_proxy_count_for_themselves_by_the_header_that_it_writes() {
    let server = start(signaling::Config {
        forwarded_from: vec!["127.0.0.1".to_owned()],
        max_connections_per_address: Some(2),
        max_pending_per_address: Some(2),
        ..config()
    });
    let from = async |client: &'static str| {
        let mut request = request(server.address(), "lobby");
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static(client));
        request.headers_mut().insert("forwarded", HeaderValue::from_static("for=198.51.100.1"));
        tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
    };
    let mut open = vec![from("203.0.113.7").await.expect("the first")];
    // What a client wrote itself stands in front of what the proxy adds.
    open.push(from("6.6.6.6, 203.0.113.7").await.expect("the second"));
    let refused = from("7.7.7.7, 203.0.113.7").await.expect_err("a third of one client");
    assert!(refused.to_string().contains("429"), "{refused}");
    for other in ["203.0.113.8", "2001:db8:0:1::1", "2001:db8:0:2::1"] {
        open.push(from(other).await.expect(other));
    }
    // Nobody said who asks: the proxy itself.
    for garbage in ["unknown", ""] {
        open.push(from(garbage).await.expect("the proxy's own"));
    }
    from("garbage").await.expect_err("a third of the proxy's own");
    // A place that is given up is free again.
    drop(open);
    let again = async {
        while from("203.0.113.7").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("its place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_proxy_shakes_hands_as_often_as_one_that_connects_itself() {
    let server = start(signaling::Config {
        forwarded_from: vec!["127.0.0.1".to_owned()],
        handshakes_per_second_per_address: Some(1),
        max_pending_per_address: Some(10_000),
        ..config()
    });
    let from = async |client: &'static str| {
        let mut request = request(server.address(), "lobby");
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static(client));
        tokio_tungstenite::connect_async(request).await
    };
    let refused = async {
        loop {
            if let Err(refused) = from("203.0.113.7").await {
                return refused.to_string();
            }
        }
    };
    let refused = timeout(PATIENCE, refused).await.expect("it is refused some time");
    assert!(refused.contains("429"), "{refused}");
    from("203.0.113.8").await.expect("another client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_client_behind_a_proxy_counts_as_long_as_its_connection() {
    let server = start(signaling::Config {
        forwarded_from: vec!["127.0.0.0/8".to_owned()],
        forwarded_header: Some("Forwarded".to_owned()),
        max_connections_per_address: Some(2),
        ..config()
    });
    let address = server.address();
    let hello = |seed, client: &str| {
        let body = hello(seed, &json!({}));
        format!(
            "POST /v1/rooms/lobby/poll HTTP/1.1\r\nHost: {address}\r\nForwarded: for={client}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(status(&http(address, &hello(1, "203.0.113.7")).await), "200");
    // One place is the polled connection's, and one the request's: a second connection has none.
    assert_eq!(status(&http(address, &hello(2, "203.0.113.7")).await), "429");
    assert_eq!(status(&http(address, &hello(3, "203.0.113.8")).await), "200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_believed_who_is_no_proxy_of_ours() {
    let server = start(signaling::Config {
        forwarded_from: vec!["192.0.2.1".to_owned()],
        max_connections_per_address: Some(1),
        ..config()
    });
    let _first = Client::join(&server, "lobby", 1).await;
    let mut request = request(server.address(), "lobby");
    request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("203.0.113.7"));
    tokio_tungstenite::connect_async(request).await.expect_err("it is the same address");
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"address\"}").await, 1);
}

async fn assert_not_served(server: &signaling::Server) {
    assert_not_served_because(server, "address").await;
}

pub(super) async fn assert_not_served_because(server: &signaling::Server, reason: &str) {
    let mut stream = TcpStream::connect(server.address()).await.expect("the kernel connects it");
    let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)), "it is closed, not served: {end:?}");
    assert_eq!(metric(server, &format!("signaling_refused_total{{reason=\"{reason}\"}}")).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_are_entered_over_tls_with_a_certificate_from_files() {
    let certificate = Certificate::new();
    let server = start(certificate.served_by(config()));
    let tcp = TcpStream::connect(server.address()).await.expect("connects");
    let tls = certificate.secure(tcp, &[]).await.expect("the certificate is served");
    let mut request = request(server.address(), "lobby");
    let origin = format!("https://{}", server.address());
    request.headers_mut().insert("origin", origin.parse().expect("a header value"));
    tokio_tungstenite::client_async(request, tls).await.expect("its own origin has the scheme https");
}
