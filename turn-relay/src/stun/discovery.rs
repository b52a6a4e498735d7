//! What RFC 5780 adds to Binding requests.

use super::kind;
use crate::frame::RawAttribute;

/// The attributes of NAT behaviour discovery in a Binding request. All are comprehension-required: where the server does not do
/// it they are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// CHANGE-REQUEST: answer from the other address.
    pub change_ip: bool,
    /// CHANGE-REQUEST: answer from the other port.
    pub change_port: bool,
    /// RESPONSE-PORT: answer to this port.
    pub response_port: Option<u16>,
    /// PADDING: its length in bytes.
    pub padding: Option<usize>,
    /// One of them has the wrong size.
    pub malformed: bool,
    /// Which of them are there.
    pub kinds: Vec<u16>,
}

impl Discovery {
    /// Keeps an attribute; false: it is none of these. Of a repeated one the first counts.
    pub(super) fn read(&mut self, attribute: RawAttribute<'_>) -> bool {
        if !matches!(attribute.kind, kind::CHANGE_REQUEST | kind::RESPONSE_PORT | kind::PADDING) {
            return false;
        }
        if self.kinds.contains(&attribute.kind) {
            return true;
        }
        self.kinds.push(attribute.kind);
        match (attribute.kind, attribute.value) {
            (kind::CHANGE_REQUEST, [_, _, _, flags]) => {
                self.change_ip = flags & 0x04 != 0;
                self.change_port = flags & 0x02 != 0;
            }
            // RFC 5780 section 7.5: the port, and padding or two reserved bytes.
            (kind::RESPONSE_PORT, [high, low] | [high, low, _, _]) => {
                self.response_port = Some(u16::from_be_bytes([*high, *low]));
            }
            (kind::PADDING, padding) => self.padding = Some(padding.len()),
            _ => self.malformed = true,
        }
        true
    }
}
