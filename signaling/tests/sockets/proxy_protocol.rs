//! The PROXY protocol in front of the listener: whose word counts, what a header does, and what comes of half of one.

use signaling::{Config, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Client, PATIENCE, certificate::Certificate, config, metric, metric_becomes, request, start};

const REFUSED: &str = "signaling_refused_total{reason=\"introduction\"}";
const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// One that believes connections of this address, and holds one connection of each client.
fn behind(proxy: &str) -> Server {
    start(Config {
        proxy_protocol_from: vec![proxy.to_owned()],
        max_connections_per_address: Some(1),
        ..config()
    })
}

/// Version 2, TCP over IPv4.
fn v2(client: [u8; 4]) -> Vec<u8> {
    let addresses = [&client[..], &[192, 0, 2, 1], &[0xdb, 0x38, 0x01, 0xbb]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
}

async fn connect(server: &Server, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.expect("connects");
    stream.write_all(header).await.expect("writes");
    stream
}

async fn enter(server: &Server, header: &[u8]) -> Option<WebSocketStream<TcpStream>> {
    let stream = connect(server, header).await;
    let upgraded = client_async(request(server.address(), "lobby"), stream);
    timeout(PATIENCE, upgraded).await.expect("in time").ok().map(|(socket, _)| socket)
}

/// All that comes until the connection ends, however it ends.
async fn all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends in time");
    drop(read);
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_count_for_themselves_by_the_header_of_their_proxy() {
    let server = behind("127.0.0.0/8");
    let first = enter(&server, b"PROXY TCP4 203.0.113.7 192.0.2.1 56120 443\r\n").await.expect("the first");
    assert!(enter(&server, &v2([203, 0, 113, 7])).await.is_none(), "a second of one client");
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"address\"}").await, 1);
    let _others = [
        enter(&server, &v2([203, 0, 113, 8])).await.expect("another"),
        enter(&server, b"PROXY TCP6 2001:db8::7 2001:db8::1 56120 443\r\n").await.expect("another"),
        // The proxy does not know, or asks for itself: then it counts.
        enter(&server, b"PROXY UNKNOWN\r\n").await.expect("the proxy's own"),
    ];
    assert!(enter(&server, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await.is_none(), "a second of the proxy's own");
    drop(first);
    let again = async { while enter(&server, &v2([203, 0, 113, 7])).await.is_none() {} };
    timeout(PATIENCE, again).await.expect("its place is free again");
    assert_eq!(metric(&server, REFUSED).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_may_come_in_pieces_and_together_with_what_follows() {
    let server = behind("127.0.0.1");
    let page = [&v2([203, 0, 113, 7])[..], ASKED].concat();
    assert!(all(connect(&server, &page).await).await.starts_with("HTTP/1.1 200"));
    for at in [1, 15, 27, 28, 29] {
        let mut stream = connect(&server, &page[..at]).await;
        // Two segments, as far as one can have it; the outcome must be the same if they arrive as one.
        stream.set_nodelay(true).expect("an option");
        stream.flush().await.expect("flushed");
        tokio::task::yield_now().await;
        stream.write_all(&page[at..]).await.expect("writes");
        assert!(all(stream).await.starts_with("HTTP/1.1 200"), "cut at {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_an_address_that_is_no_proxy_of_ours_is_not_honoured() {
    let server = behind("192.0.2.1");
    for header in [&b"PROXY TCP4 203.0.113.7 192.0.2.1 56120 443\r\n"[..], &v2([203, 0, 113, 7])] {
        let answer = all(connect(&server, &[header, ASKED].concat()).await).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let _here = Client::join(&server, "lobby", 1).await;
    assert!(
        enter(&server, &v2([203, 0, 113, 7])).await.is_none(),
        "it is the same address, whatever it says"
    );
    assert_eq!(metric(&server, "signaling_refused_total{reason=\"address\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_ours_that_sends_no_header_or_half_of_one_is_closed() {
    let server = behind("127.0.0.1");
    assert_eq!(all(connect(&server, ASKED).await).await, "");
    assert_eq!(metric(&server, REFUSED).await, 1);
    // Nothing more comes, and the connection stays open: it is a deadline that ends it.
    assert_eq!(all(connect(&server, &v2([203, 0, 113, 7])[..20]).await).await, "");
    metric_becomes(&server, REFUSED, 2).await;
    drop(connect(&server, b"PROX").await);
    metric_becomes(&server, REFUSED, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_works_behind_the_header() {
    let certificate = Certificate::new();
    let server = start(certificate.served_by(Config {
        proxy_protocol_from: vec!["127.0.0.1".to_owned()],
        max_connections_per_address: Some(1),
        ..config()
    }));
    let enter = async |client: [u8; 4]| {
        let tls = certificate.secure(connect(&server, &v2(client)).await, &[]).await?;
        Some(client_async(request(server.address(), "lobby"), tls).await.expect("the upgrade").0)
    };
    let _first = enter([203, 0, 113, 7]).await.expect("the first");
    assert!(enter([203, 0, 113, 7]).await.is_none(), "a second of one client");
    assert!(enter([203, 0, 113, 8]).await.is_some(), "another");
}
