//! A WebSocket by hand: what is written is any bytes, what is read is strictly what a server may send.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Opcodes of RFC 6455 section 5.2.
pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;
pub(super) const FIN: u8 = 0x80;

/// A frame as a client sends it. `head` is its first octet.
pub(super) fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x9d, 0x01, 0xfe, 0x62];
    let mut bytes = vec![head];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).expect("below 126")),
        medium @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(medium).expect("below 65,536").to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Frame(Value),
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The stream ended without a close frame.
    End,
}

pub(super) struct Mouth(OwnedWriteHalf);

pub(super) struct Ear(OwnedReadHalf);

/// A connection after its handshake.
pub(super) async fn connect(server: SocketAddr, room: &str) -> (Mouth, Ear) {
    let mut stream = TcpStream::connect(server).await.expect("connects");
    stream.set_nodelay(true).expect("a socket option");
    let request = format!(
        "GET /v1/rooms/{room}/ws HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\
         Sec-WebSocket-Protocol: signaling.v1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let (read, write) = stream.into_split();
    (Mouth(write), Ear(read))
}

impl Mouth {
    /// Writes in pieces of `chop` octets, or at once. A server that has failed the connection need not read all of it.
    pub(super) async fn write(&mut self, bytes: &[u8], chop: usize) {
        for piece in bytes.chunks(if chop == 0 { bytes.len().max(1) } else { chop }) {
            if self.0.write_all(piece).await.is_err() {
                return;
            }
        }
    }
}

impl Ear {
    pub(super) async fn next(&mut self) -> Said {
        match self.frame().await {
            Some((TEXT, payload)) => {
                Said::Frame(serde_json::from_slice(&payload).expect("the server sends JSON"))
            }
            Some((PONG, payload)) => Said::Pong(payload),
            Some((CLOSE, payload)) => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                assert!(
                    payload.len() != 1 && std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_ok()
                );
                Said::Close(code)
            }
            Some((opcode, _)) => panic!("the server sends text, pongs and close frames, not {opcode:x}"),
            None => Said::End,
        }
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.0.read_u8().await.ok()?;
        assert_eq!(head & 0xf0, FIN, "whole, and no extension is agreed on");
        let length = match self.0.read_u8().await.ok()? {
            126 => usize::from(self.0.read_u16().await.ok()?),
            127 => usize::try_from(self.0.read_u64().await.ok()?).expect("a size"),
            short => {
                assert!(short < 126, "a server does not mask");
                usize::from(short)
            }
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head & 0x0f, payload))
    }
}
