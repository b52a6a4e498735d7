//! Frames on their way out: a body that is serialised once and shared, and the envelope of one recipient.

use std::sync::Arc;
use std::time::Duration;

use signaling_protocol::{CloseCode, Retry, ServerError, ServerMessage};

/// Everything of a frame but its `seq` and `ack`, as the text of a JSON object. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Body(Arc<str>);

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
        let text = serde_json::to_string(message)
            .expect("its keys are strings and its parts serialise without error");
        Self(text.into())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
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

    /// The frame's text in two pieces: what is this recipient's own, and what it shares with others.
    #[must_use]
    pub fn pieces(&self) -> (String, &str) {
        let fields = self.body.0.strip_prefix('{').unwrap_or(&self.body.0);
        (format!("{{\"seq\":{},\"ack\":{},", self.seq, self.ack), fields)
    }

    /// Appends the frame's text.
    pub fn write(&self, text: &mut String) {
        let (envelope, fields) = self.pieces();
        text.reserve(envelope.len() + fields.len());
        text.push_str(&envelope);
        text.push_str(fields);
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
