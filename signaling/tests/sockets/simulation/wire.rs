//! One real connection of a client, over any of the three transports: a task that owns its sockets, and the ways to ill-treat it.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_tungstenite::tungstenite::Message;

use super::schedule::Way;
use crate::requests::{Events, Http, KEY, json_of};

/// What the client hears of its wire.
#[derive(Debug)]
pub(super) enum Heard {
    Opened,
    Text(String),
    Closed(Option<u16>),
}

/// What is done to a wire.
enum Command {
    Write(String),
    /// What was sent last is sent again, a request beside whatever is under way.
    Again,
    LoseAnswer(bool),
}

/// Number of the wire, and what was heard on it.
pub(super) type Ear = mpsc::UnboundedSender<(u64, Heard)>;

pub(super) struct Wire {
    commands: mpsc::UnboundedSender<Command>,
    /// Its task, and those of its requests. They end with the wire, and so do its sockets.
    tasks: JoinSet<()>,
    /// Frames that are held up.
    held: Option<Vec<String>>,
    pub(super) number: u64,
    pub(super) client: signaling_client::ConnId,
    /// Nothing passes, and the client may be told.
    pub(super) broken: bool,
    mute: bool,
}

impl Wire {
    pub(super) fn open(
        server: SocketAddr,
        room: &str,
        way: Way,
        number: u64,
        client: signaling_client::ConnId,
        ear: Ear,
    ) -> Self {
        let (commands, orders) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let place = Place { server, room: room.to_owned(), number, ear };
        match way {
            Way::Socket => tasks.spawn(socket(place, orders)),
            Way::Events => tasks.spawn(events(place, orders)),
            Way::Polls => tasks.spawn(polls(place, orders)),
        };
        Self { commands, tasks, held: None, number, client, broken: false, mute: false }
    }

    pub(super) fn write(&mut self, text: String) {
        match &mut self.held {
            Some(held) => held.push(text),
            None => self.order(Command::Write(text)),
        }
    }

    pub(super) fn stall(&mut self) {
        self.held.get_or_insert_default();
    }

    pub(super) fn release(&mut self) {
        for text in self.held.take().into_iter().flatten() {
            self.order(Command::Write(text));
        }
    }

    /// A hello is not repeated here: only browsers do that, which give the answer to the second.
    pub(super) fn repeat(&self) {
        self.order(Command::Again);
    }

    pub(super) fn lose_answer(&self, told: bool) {
        self.order(Command::LoseAnswer(told));
    }

    /// The sockets are closed wherever they are.
    pub(super) fn cut(&mut self) {
        self.tasks.abort_all();
        self.broken = true;
    }

    /// The sockets stay, and nobody reads or writes them.
    pub(super) fn go_silent(&mut self) {
        self.mute = true;
        self.broken = true;
    }

    pub(super) const fn is_sound(&self) -> bool {
        !self.broken && self.held.is_none()
    }

    /// Whether what was heard on it counts.
    pub(super) const fn is_heard(&self) -> bool {
        !self.mute && !self.broken
    }

    fn order(&self, command: Command) {
        if !self.mute {
            // A task that ended has said so.
            let _ = self.commands.send(command);
        }
    }
}

/// Where a wire leads, and who listens.
struct Place {
    server: SocketAddr,
    room: String,
    number: u64,
    ear: Ear,
}

type Orders = mpsc::UnboundedReceiver<Command>;

impl Place {
    fn hear(&self, heard: Heard) {
        // Nobody listens any more once the schedule is over.
        let _ = self.ear.send((self.number, heard));
    }

    fn path(&self, route: &str) -> String {
        format!("/v1/rooms/{}/{route}", self.room)
    }
}

async fn socket(place: Place, mut orders: Orders) {
    let request = crate::request(place.server, &place.room);
    let stream = TcpStream::connect(place.server).await.expect("connects");
    let Ok((mut socket, _)) = tokio_tungstenite::client_async(request, stream).await else {
        return place.hear(Heard::Closed(None));
    };
    place.hear(Heard::Opened);
    let mut last = String::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Command::Write(text)) => {
                    last.clone_from(&text);
                    if socket.send(Message::text(text)).await.is_err() {
                        return place.hear(Heard::Closed(None));
                    }
                }
                Some(Command::Again) if last.is_empty() || last.contains("\"hello\"") => {}
                Some(Command::Again) => {
                    // Whether it still stands, the next thing that happens to it tells.
                    let _ = socket.send(Message::text(last.clone())).await;
                }
                Some(Command::LoseAnswer(_)) => {
                    // The nearest that a WebSocket has: it breaks in the middle of a frame.
                    let _ = socket.get_mut().write_all(&[0x81, 0xfe, 0x01]).await;
                    return place.hear(Heard::Closed(None));
                }
                None => return,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => place.hear(Heard::Text(text.as_str().to_owned())),
                Some(Ok(Message::Close(close))) => {
                    return place.hear(Heard::Closed(close.map(|close| close.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return place.hear(Heard::Closed(None)),
            },
        }
    }
}

/// The first thing that is written.
async fn hello(place: &Place, orders: &mut Orders) -> Option<String> {
    place.hear(Heard::Opened);
    loop {
        if let Command::Write(text) = orders.recv().await? {
            return Some(text);
        }
    }
}

async fn events(place: Place, mut orders: Orders) {
    let Some(hello) = hello(&place, &mut orders).await else { return };
    let mut http = Http::to(place.server).await;
    let mut events = Events::new(http.post(&place.path("events"), &[], hello).await);
    let mut posts = JoinSet::new();
    let mut orders = Some(orders);
    while let Some((kind, data)) = events.next().await {
        match kind.as_str() {
            "open" => {
                let open: Value = serde_json::from_str(&data).expect("JSON");
                let key = open["connection"].as_str().expect("a key").to_owned();
                if let Some(orders) = orders.take() {
                    posts.spawn(post(place.copy(), key, orders, None));
                }
            }
            "close" => {
                let close: Value = serde_json::from_str(&data).expect("JSON");
                let code = close["code"].as_u64().and_then(|code| u16::try_from(code).ok());
                return place.hear(Heard::Closed(code));
            }
            _ => place.hear(Heard::Text(data)),
        }
    }
    place.hear(Heard::Closed(None));
}

async fn polls(place: Place, mut orders: Orders) {
    let Some(hello) = hello(&place, &mut orders).await else { return };
    let mut http = Http::to(place.server).await;
    let path = place.path("poll");
    let mut answer = json_of(http.post(&path, &[], hello).await).await;
    let Some(key) = answer["connection"].as_str().map(str::to_owned) else {
        return tell(&place, &answer);
    };
    let (lose, mut losses) = mpsc::unbounded_channel();
    let mut posts = JoinSet::new();
    posts.spawn(post(place.copy(), key.clone(), orders, Some(lose)));
    loop {
        match losses.try_recv() {
            Ok(true) => return place.hear(Heard::Closed(None)),
            // Somebody on the way asked again: what was in the first answer is gone.
            Ok(false) => {}
            Err(_) => tell(&place, &answer),
        }
        if !answer["close"].is_null() {
            return;
        }
        let response = http.post(&path, &[(KEY, &key)], "").await;
        if response.status() != StatusCode::OK {
            return place.hear(Heard::Closed(None));
        }
        answer = json_of(response).await;
    }
}

fn tell(place: &Place, answer: &Value) {
    for frame in answer["frames"].as_array().expect("frames") {
        place.hear(Heard::Text(frame.to_string()));
    }
    if let Some(code) = answer["close"]["code"].as_u64() {
        place.hear(Heard::Closed(u16::try_from(code).ok()));
    }
}

/// Sends what is written, one request after the other and as much at once as there is.
async fn post(place: Place, key: String, mut orders: Orders, lose: Option<mpsc::UnboundedSender<bool>>) {
    let path = place.path("messages");
    let mut http = Http::to(place.server).await;
    let mut repetitions = JoinSet::new();
    let mut last = String::new();
    while let Some(order) = orders.recv().await {
        let mut body = String::new();
        let mut next = Some(order);
        while let Some(order) = next {
            match order {
                Command::Write(text) => body = body + &text + "\n",
                Command::Again => {
                    let (server, path, key, last) = (place.server, path.clone(), key.clone(), last.clone());
                    repetitions.spawn(async move {
                        Http::to(server).await.post(&path, &[(KEY, &key)], last).await;
                    });
                }
                Command::LoseAnswer(told) => {
                    let _ = lose.as_ref().map(|lose| lose.send(told));
                }
            }
            next = orders.try_recv().ok();
        }
        if body.is_empty() {
            continue;
        }
        last.clone_from(&body);
        if http.post(&path, &[(KEY, &key)], body).await.status() != StatusCode::NO_CONTENT {
            return place.hear(Heard::Closed(None));
        }
    }
}

impl Place {
    fn copy(&self) -> Self {
        Self { server: self.server, room: self.room.clone(), number: self.number, ear: self.ear.clone() }
    }
}
