//! Connections that are made of many requests, and the key by which a request says to which of them it belongs.
//!
//! A key is the connection's number and 128 random bits, compared in constant time. It opens one connection and ends
//! with it; a session is resumed by its own token, over whatever transport.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use signaling_protocol::{ClientFrame, CloseCode, FrameError, RoomName};
use subtle::ConstantTimeEq as _;

use super::{
    admission::Admitted,
    guest::{Attached, Heard},
    poll::Polls,
};
use crate::{hub::ConnId, shard::Stopped};

/// All of them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct KeyedConnections(Arc<Mutex<HashMap<ConnId, Arc<Keyed>>>>);

/// One connection, as the requests that belong to it see it.
pub(crate) struct Keyed {
    room: RoomName,
    secret: [u8; 16],
    attached: Attached,
    /// Where its polls wait; an event stream has none.
    polls: Option<Polls>,
}

/// A connection's entry, held by its task: the key opens it as long as this lives.
pub(crate) struct Entry {
    all: KeyedConnections,
    keyed: Arc<Keyed>,
    /// It counts for its address even while no request of it is under way.
    _counted: Admitted,
}

impl KeyedConnections {
    pub(crate) fn enter(
        &self,
        room: RoomName,
        attached: Attached,
        polls: Option<Polls>,
        counted: Admitted,
    ) -> Entry {
        counted.greeted();
        let keyed = Arc::new(Keyed { room, secret: rand::random(), attached, polls });
        self.lock().insert(keyed.attached.conn(), keyed.clone());
        Entry { all: self.clone(), keyed, _counted: counted }
    }

    /// The connection in this room that this key opens.
    pub(crate) fn find(&self, room: &RoomName, key: &str) -> Option<Arc<Keyed>> {
        let bytes = URL_SAFE_NO_PAD.decode(key).ok()?;
        let (number, secret) = bytes.split_first_chunk()?;
        let keyed = self.lock().get(&ConnId(u64::from_be_bytes(*number)))?.clone();
        let opens = bool::from(keyed.secret.ct_eq(secret)) && keyed.room == *room;
        opens.then_some(keyed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnId, Arc<Keyed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keyed {
    /// Hands a body that holds one frame a line to the shard, up to the first that is none.
    pub(crate) async fn hear(&self, body: &[u8]) -> Result<(), Stopped> {
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            if self.attached.hear(ClientFrame::parse(line)).await? == Heard::Refused {
                break;
            }
        }
        Ok(())
    }

    /// A body was larger than one may be.
    pub(crate) async fn too_large(&self, bytes: usize) -> Result<(), Stopped> {
        self.attached.malformed(FrameError::TooLarge { bytes }).await
    }

    pub(crate) const fn polls(&self) -> Option<&Polls> {
        self.polls.as_ref()
    }
}

impl Entry {
    pub(crate) fn key(&self) -> String {
        let Keyed { attached, secret, .. } = &*self.keyed;
        URL_SAFE_NO_PAD.encode([attached.conn().0.to_be_bytes().as_slice(), secret].concat())
    }

    pub(crate) fn attached(&self) -> &Attached {
        &self.keyed.attached
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.lock().remove(&self.keyed.attached.conn());
    }
}

/// What a WebSocket's close frame says, as JSON.
pub(super) fn close_text(code: CloseCode) -> String {
    format!(r#"{{"code":{},"reason":"{}"}}"#, code.code(), code.name())
}
