//! Frames on their way out: a body that is serialised once and shared, and the envelope of one recipient.

use std::sync::Arc;
use std::time::Duration;

use signaling_protocol::{CloseCode, Payload, RelayedSignal, Retry, ServerError, ServerMessage};

/// Everything of a frame but its `seq` and `ack`, as the text of a JSON object. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Body(Arc<Text>);

/// `{`, fields, and a payload and `}` if they are not among the fields: what a peer says is long and goes out as it came in.
#[derive(Debug)]
struct Text {
    fields: Box<str>,
    payload: Option<Payload>,
}

/// One frame for one connection.
#[derive(Clone, Debug)]
pub struct Frame {
    seq: u64,
    ack: u64,
    body: Body,
}

impl Body {
    /// Serialises a message.
    pub(super) fn of(message: &ServerMessage) -> Self {
        Self(Arc::new(Text { fields: fields(message).into(), payload: None }))
    }

    /// A signal, whose payload is not copied.
    pub(super) fn relayed(signal: RelayedSignal) -> Self {
        let hole = signal.payload.hole();
        let payload = Some(signal.payload);
        let mut fields = fields(&ServerMessage::Signal(RelayedSignal { payload: hole, ..signal }));
        debug_assert!(fields.ends_with(HOLE), "a signal's payload is its last field");
        fields.truncate(fields.len() - HOLE.len());
        Self(Arc::new(Text { fields: fields.into(), payload }))
    }

    /// Length of the JSON object in bytes.
    pub(super) fn len(&self) -> usize {
        let Text { fields, payload } = &*self.0;
        1 + fields.len() + payload.as_ref().map_or(0, |payload| payload.raw().get().len() + 1)
    }
}

/// What is serialised where a payload goes, and the end of the object.
const HOLE: &str = "null}";

/// A message as JSON without its first `{`.
fn fields(message: &ServerMessage) -> String {
    let mut text =
        serde_json::to_string(message).expect("its keys are strings and its parts serialise without error");
    text.remove(0);
    text
}

impl Frame {
    pub(super) const fn new(seq: u64, ack: u64, body: Body) -> Self {
        Self { seq, ack, body }
    }

    /// The `error` frame that goes before a close, for a connection that has no session (its `hello` is late or bad,
    /// or the hub has not seen it yet). `retry_after` goes with 4100-4199. `None` before [`CloseCode::Normal`].
    #[must_use]
    pub fn farewell(
        code: CloseCode,
        message: impl Into<String>,
        retry_after: Option<Duration>,
    ) -> Option<Self> {
        let error = farewell(code, message.into(), retry_after)?;
        Some(Self::new(0, 0, Body::of(&ServerMessage::Error(error))))
    }

    /// Whether the frame takes a place in the sequence and would be replayed.
    #[must_use]
    pub const fn is_sequenced(&self) -> bool {
        self.seq != 0
    }

    /// Length of [`Self::to_text`] at most, in bytes; what an outbox may charge for it.
    #[must_use]
    pub fn max_len(&self) -> usize {
        // `"seq":,"ack":,` and twice twenty digits.
        self.body.len() + 54
    }

    /// The frame's text in pieces: what is this recipient's own, and what it shares with others.
    #[must_use]
    pub fn pieces(&self) -> (String, [&str; 3]) {
        let Text { fields, payload } = &*self.body.0;
        let rest = payload.as_ref().map_or(["", ""], |payload| [payload.raw().get(), "}"]);
        (format!("{{\"seq\":{},\"ack\":{},", self.seq, self.ack), [fields, rest[0], rest[1]])
    }

    /// Appends the frame's text.
    pub fn write(&self, text: &mut String) {
        let (envelope, shared) = self.pieces();
        text.reserve(self.max_len());
        text.push_str(&envelope);
        for piece in shared {
            text.push_str(piece);
        }
    }

    /// The frame's text: one JSON object.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }
}

/// The error that goes before a close; none before [`CloseCode::Normal`].
pub(super) fn farewell(
    code: CloseCode,
    message: String,
    retry_after: Option<Duration>,
) -> Option<ServerError> {
    Some(ServerError {
        code: code.error()?,
        message: message.into(),
        temporary: code.retry() != Retry::Never,
        retry_after_ms: retry_after.map(super::millis),
        re: None,
    })
}
