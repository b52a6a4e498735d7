//! One session that moves from transport to transport while both sides talk.

use std::collections::VecDeque;

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::{
    Client, PATIENCE, config, metric_becomes, next_message, open,
    requests::{Events, Http, KEY, hello, json_of, text},
    start,
};

/// How the frames travel at present.
enum Carrier {
    Polls { http: Http, key: String, fetched: VecDeque<Value> },
    Events { events: Box<Events>, posts: Http, key: String },
    Socket(Box<WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Polls,
    Events,
    Socket,
}

impl Carrier {
    async fn open(server: &signaling::Server, kind: Kind, hello: String) -> (Self, Value) {
        let mut carrier = match kind {
            Kind::Polls => {
                let mut http = Http::connect(server).await;
                let answer = json_of(http.post("/v1/rooms/lobby/poll", &[], hello).await).await;
                let fetched = answer["frames"].as_array().expect("frames").clone().into();
                Self::Polls { http, key: answer["connection"].as_str().expect("a key").into(), fetched }
            }
            Kind::Events => {
                let mut http = Http::connect(server).await;
                let mut events = Events::new(http.post("/v1/rooms/lobby/events", &[], hello).await);
                let (_, open) = events.next_json().await;
                let key = open["connection"].as_str().expect("a key").into();
                Self::Events { events: Box::new(events), posts: Http::connect(server).await, key }
            }
            Kind::Socket => {
                let mut socket = Box::new(open(server, "lobby").await);
                socket.send(Message::text(hello)).await.expect("sent");
                Self::Socket(socket)
            }
        };
        let welcome = carrier.next().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        (carrier, welcome)
    }

    async fn next(&mut self) -> Value {
        match self {
            Self::Polls { http, key, fetched } => loop {
                if let Some(frame) = fetched.pop_front() {
                    return frame;
                }
                let answer = json_of(http.post("/v1/rooms/lobby/poll", &[(KEY, key)], "").await).await;
                fetched.extend(answer["frames"].as_array().expect("frames").clone());
            },
            Self::Events { events, .. } => events.next_json().await.1,
            Self::Socket(socket) => match next_message(socket).await {
                Some(Message::Text(text)) => serde_json::from_str(&text).expect("JSON"),
                other => panic!("a frame was expected, not {other:?}"),
            },
        }
    }

    async fn send(&mut self, frames: &[Value]) {
        match self {
            Self::Polls { http, key, .. } | Self::Events { posts: http, key, .. } => {
                let lines: String = frames.iter().map(|frame| format!("{frame}\n")).collect();
                text(http.post("/v1/rooms/lobby/messages", &[(KEY, key)], lines).await).await;
            }
            Self::Socket(socket) => {
                for frame in frames {
                    socket.send(Message::text(frame.to_string())).await.expect("sent");
                }
            }
        }
    }
}

/// Bob, who does what PROTOCOL.md says: he keeps what is not acknowledged and tells how far he is.
struct Bob {
    carrier: Carrier,
    resume: Value,
    session: Value,
    seen: u64,
    sent: u64,
    kept: VecDeque<Value>,
    heard: Vec<Value>,
}

impl Bob {
    async fn enter(server: &signaling::Server, kind: Kind) -> Self {
        let (carrier, welcome) = Carrier::open(server, kind, hello(2, &json!({}))).await;
        Self {
            carrier,
            resume: welcome["resume"].clone(),
            session: welcome["session"].clone(),
            seen: 0,
            sent: 0,
            kept: VecDeque::new(),
            heard: Vec::new(),
        }
    }

    /// Takes another transport without a goodbye to the present one, whatever is under way there.
    async fn move_to(&mut self, server: &signaling::Server, kind: Kind) {
        let hello = hello(2, &json!({"resume": self.resume, "ack": self.seen}));
        let (carrier, welcome) = Carrier::open(server, kind, hello).await;
        assert_eq!(
            (&welcome["outcome"], &welcome["session"]),
            (&json!("resumed"), &self.session),
            "{kind:?}"
        );
        self.carrier = carrier;
        self.resume = welcome["resume"].clone();
        self.acknowledged(&welcome);
        let again: Vec<Value> = self.kept.iter().cloned().collect();
        self.carrier.send(&again).await;
    }

    fn acknowledged(&mut self, frame: &Value) {
        let ack = frame["ack"].as_u64().expect("an ack");
        self.kept.retain(|kept| kept["seq"].as_u64().expect("a seq") > ack);
    }

    /// Sends `count` numbers, the next ones, to Ada. If `lost`, the network takes them.
    async fn say(&mut self, ada: &Value, count: u64, lost: bool) {
        let frames: Vec<Value> = (self.sent + 1..=self.sent + count)
            .map(|n| {
                json!({"type": "signal", "seq": n, "ack": self.seen, "to": ada, "negotiation": "n", "description": n})
            })
            .collect();
        self.sent += count;
        self.kept.extend(frames.iter().cloned());
        if !lost {
            self.carrier.send(&frames).await;
        }
    }

    /// Reads until `count` more signals have come.
    async fn listen(&mut self, count: usize) {
        let until = self.heard.len() + count;
        while self.heard.len() < until {
            let frame = timeout(PATIENCE, self.carrier.next()).await.expect("a frame in time");
            self.acknowledged(&frame);
            let seq = frame["seq"].as_u64().expect("a seq");
            if seq == 0 {
                if frame["type"] == "ping" {
                    self.carrier.send(&[json!({"type": "pong", "seq": 0, "ack": self.seen})]).await;
                }
                continue;
            }
            assert_eq!(seq, self.seen + 1, "in order and exactly once: {frame}");
            self.seen = seq;
            if frame["type"] == "signal" {
                self.heard.push(frame["description"].clone());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_changes_its_transport_loses_repeats_and_reorders_nothing() {
    const ROUND: usize = 12;
    let moves = [Kind::Events, Kind::Socket, Kind::Polls, Kind::Socket, Kind::Events, Kind::Polls];
    let total = ROUND * (moves.len() + 1);
    // Nothing here is about the rate.
    let server = start(signaling::Config {
        messages_per_second: Some(10_000),
        message_burst: Some(10_000),
        ..config()
    });
    let mut ada = Client::join(&server, "lobby", 1).await;
    let to_ada = ada.peer();
    let mut bob = Bob::enter(&server, Kind::Polls).await;
    let to_bob = ada.until("peer_joined").await["peer"].clone();

    // Ada talks and listens all the time, and does not know where Bob is.
    let ada = tokio::spawn(async move {
        let mut heard = Vec::new();
        for n in 0..total {
            ada.signal(&to_bob, json!(n)).await;
            if n % 3 == 0 {
                let frame = ada.until("signal").await;
                heard.push(frame["description"].clone());
            }
        }
        while heard.len() < total {
            heard.push(ada.until("signal").await["description"].clone());
        }
        heard
    });
    let round = u64::try_from(ROUND).expect("a small number");
    for (n, kind) in moves.into_iter().enumerate() {
        bob.say(&to_ada, round - 2, false).await;
        bob.listen(ROUND - n % 3).await;
        // Two more that he believes to have sent, and the move.
        bob.say(&to_ada, 2, n % 2 == 0).await;
        bob.move_to(&server, kind).await;
    }
    bob.say(&to_ada, round, false).await;
    bob.listen(total - bob.heard.len()).await;

    let numbers = |from: usize| (from..from + total).map(Value::from).collect::<Vec<_>>();
    assert_eq!(bob.heard, numbers(0));
    assert_eq!(ada.await.expect("no panic"), numbers(1));
    // Nobody polls any more, and Ada is gone: that state lasts, so that it is seen however late one looks.
    metric_becomes(&server, "signaling_connections", 0).await;
}
