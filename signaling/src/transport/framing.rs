//! RFC 6455 framing, the server's side: bytes become messages, messages become bytes. It knows no socket.
//!
//! Only the headers of frames are the library's business. Its streams keep for each connection the buffers that the largest
//! frame so far needed, several KiB for as long as it lives; here a connection holds nothing between two messages, and a
//! message that came whole is read where it lies. What is decoded goes to a parser that wants UTF-8, so only text of which
//! more is to come is checked for it here.
//!
//! No extensions, so reserved bits are violations. A message is refused as soon as its headers say that it is too large or
//! binary; nothing is reserved for what a header promises.

use std::{borrow::Cow, io::Cursor, mem};

use signaling_protocol::FrameError;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use crate::hub::Frame;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// A whole message of the size that the decoder takes; whether it is UTF-8 is not known.
    Text(Cow<'a, [u8]>),
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    Pong,
    /// The client closes; to be answered with these two bytes, or with none.
    Close(Option<[u8; 2]>),
}

/// Why nothing more is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is RFC 6455, but no frame of ours.
    Frame(FrameError),
    /// It is not RFC 6455.
    Protocol,
}

/// Puts messages together. After a refusal it is not to be used again.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The largest message that is taken, in bytes.
    most: usize,
    /// A header of which not all has come.
    head: Vec<u8>,
    /// The frame under way, and how many bytes of its payload have come.
    frame: Option<(Under, usize)>,
    /// The text under way, which control frames may interrupt.
    text: Vec<u8>,
    /// So many bytes of it are UTF-8.
    checked: usize,
    /// More frames of it are to come.
    fragmented: bool,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Under {
    opcode: OpCode,
    last: bool,
    mask: [u8; 4],
    length: usize,
}

impl Under {
    /// Whether it is a whole message.
    fn is_text(&self) -> bool {
        self.last && self.opcode == OpCode::Data(Data::Text)
    }
}

impl Decoder {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            head: Vec::new(),
            frame: None,
            text: Vec::new(),
            checked: 0,
            fragmented: false,
            control: Vec::new(),
        }
    }

    /// Takes messages of another size from now on, of which none may be under way.
    pub(super) const fn take_up_to(&mut self, most: usize) {
        self.most = most;
    }

    /// Takes bytes off the front of `input` until a message is complete or `input` is empty. What it takes it may change.
    pub(super) fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Incoming<'a>>, Refused> {
        loop {
            let (under, come) = match self.frame {
                Some(frame) => frame,
                None => match self.header(input)? {
                    Some(under) => (under, 0),
                    None => return Ok(None),
                },
            };
            let part = take(input, under.length - come);
            unmask(part, under.mask, come);
            if under.is_text() && part.len() == under.length {
                self.frame = None;
                return Ok(Some(Incoming::Text(Cow::Borrowed(part))));
            }
            let payload =
                if matches!(under.opcode, OpCode::Data(_)) { &mut self.text } else { &mut self.control };
            payload.extend_from_slice(part);
            let come = come + part.len();
            if come < under.length {
                self.frame = Some((under, come));
                return Ok(None);
            }
            self.frame = None;
            if let Some(incoming) = self.complete(under)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn header(&mut self, input: &mut &mut [u8]) -> Result<Option<Under>, Refused> {
        let kept = self.head.len();
        let (header, used) = if kept == 0 {
            parse(input)?
        } else {
            // One of at most 14 bytes, that came in pieces.
            self.head.extend_from_slice(&input[..input.len().min(MAX_HEADER_BYTES - kept)]);
            parse(&self.head)?
        };
        let Some((header, length)) = header else {
            if kept == 0 {
                self.head.extend_from_slice(input);
            }
            *input = &mut [];
            return Ok(None);
        };
        self.head = Vec::new();
        take(input, used - kept);
        self.admit(&header, length).map(Some)
    }

    /// What can be said of a frame before its payload comes.
    fn admit(&mut self, header: &FrameHeader, length: u64) -> Result<Under, Refused> {
        let Some(mask) = header.mask.filter(|_| !(header.rsv1 || header.rsv2 || header.rsv3)) else {
            return Err(Refused::Protocol);
        };
        let length = usize::try_from(length).map_err(|_| Refused::Protocol)?;
        match header.opcode {
            OpCode::Control(_) if !header.is_final || length > MAX_CONTROL_BYTES => Err(Refused::Protocol),
            OpCode::Control(_) => Ok(()),
            OpCode::Data(kind) if self.fragmented != (kind == Data::Continue) => Err(Refused::Protocol),
            OpCode::Data(_) if length > self.most - self.text.len() => {
                let bytes = self.text.len().saturating_add(length);
                Err(Refused::Frame(FrameError::TooLarge { bytes }))
            }
            OpCode::Data(Data::Binary) => Err(Refused::Frame(FrameError::NotText)),
            OpCode::Data(_) => Ok(()),
        }?;
        Ok(Under { opcode: header.opcode, last: header.is_final, mask, length })
    }

    fn complete(&mut self, under: Under) -> Result<Option<Incoming<'static>>, Refused> {
        match under.opcode {
            OpCode::Data(_) if under.last => {
                (self.fragmented, self.checked) = (false, 0);
                Ok(Some(Incoming::Text(Cow::Owned(mem::take(&mut self.text)))))
            }
            OpCode::Data(_) => {
                self.fragmented = true;
                self.check().map(|()| None)
            }
            OpCode::Control(kind) => {
                let payload = mem::take(&mut self.control);
                match kind {
                    Control::Ping => Ok(Some(Incoming::Ping(payload))),
                    Control::Pong => Ok(Some(Incoming::Pong)),
                    Control::Close => close(&payload).map(Some),
                    Control::Reserved(_) => Err(Refused::Protocol),
                }
            }
        }
    }
}

impl Decoder {
    /// RFC 6455 section 8.1: text that cannot become UTF-8 any more is refused without waiting for its end. A character may go
    /// on in the next frame.
    fn check(&mut self) -> Result<(), Refused> {
        match str::from_utf8(&self.text[self.checked..]) {
            Ok(good) => self.checked += good.len(),
            Err(error) if error.error_len().is_some() => return Err(Refused::Frame(FrameError::NotText)),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

/// At most `length` bytes off the front.
fn take<'a>(input: &mut &'a mut [u8], length: usize) -> &'a mut [u8] {
    let bytes = mem::take(input);
    let (part, rest) = bytes.split_at_mut(bytes.len().min(length));
    *input = rest;
    part
}

fn parse(bytes: &[u8]) -> Result<(Option<(FrameHeader, u64)>, usize), Refused> {
    let mut cursor = Cursor::new(bytes);
    let header = FrameHeader::parse(&mut cursor).map_err(|_| Refused::Protocol)?;
    // At most fourteen.
    Ok((header, usize::try_from(cursor.position()).unwrap_or(0)))
}

/// RFC 6455 section 5.5.1: nothing, or a code that may be sent and a reason in UTF-8.
fn close(payload: &[u8]) -> Result<Incoming<'static>, Refused> {
    match payload.split_first_chunk() {
        None if payload.is_empty() => Ok(Incoming::Close(None)),
        Some((code, reason))
            if CloseCode::from(u16::from_be_bytes(*code)).is_allowed() && str::from_utf8(reason).is_ok() =>
        {
            Ok(Incoming::Close(Some(*code)))
        }
        Some(_) | None => Err(Refused::Protocol),
    }
}

/// RFC 6455 section 5.3. `come` bytes of the payload were unmasked before.
fn unmask(bytes: &mut [u8], mut mask: [u8; 4], come: usize) {
    mask.rotate_left(come % 4);
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends one of our frames.
pub(super) fn encode_text(frame: &Frame, output: &mut Vec<u8>) {
    let (envelope, shared) = frame.pieces();
    let length = envelope.len() + shared.iter().map(|piece| piece.len()).sum::<usize>();
    output.reserve(MAX_HEADER_BYTES + length);
    encode_header(OpCode::Data(Data::Text), length, output);
    output.extend_from_slice(envelope.as_bytes());
    for piece in shared {
        output.extend_from_slice(piece.as_bytes());
    }
}

pub(super) fn encode_pong(payload: &[u8], output: &mut Vec<u8>) {
    encode_header(OpCode::Control(Control::Pong), payload.len(), output);
    output.extend_from_slice(payload);
}

/// Appends a close frame. The reason is one of ours and short.
pub(super) fn encode_close(code: Option<[u8; 2]>, reason: &str, output: &mut Vec<u8>) {
    let code = code.as_ref().map_or(&[][..], |code| code);
    encode_header(OpCode::Control(Control::Close), code.len() + reason.len(), output);
    output.extend_from_slice(code);
    output.extend_from_slice(reason.as_bytes());
}

fn encode_header(opcode: OpCode, length: usize, output: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(length as u64, output).expect("a Vec takes what is written");
}

const MAX_HEADER_BYTES: usize = 14;
const MAX_CONTROL_BYTES: usize = 125;

#[cfg(test)]
mod tests;
