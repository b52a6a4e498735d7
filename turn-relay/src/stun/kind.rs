//! Attribute types (RFC 8489 section 18.3, RFC 8656 section 18, RFC 6062 section 6.2, RFC 7635 section 11).

pub(super) const USERNAME: u16 = 0x0006;
pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(super) const ERROR_CODE: u16 = 0x0009;
pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
pub(super) const CHANNEL_NUMBER: u16 = 0x000C;
pub(super) const LIFETIME: u16 = 0x000D;
pub(super) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(super) const DATA: u16 = 0x0013;
pub(super) const REALM: u16 = 0x0014;
pub(super) const NONCE: u16 = 0x0015;
pub(super) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub(super) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub(super) const EVEN_PORT: u16 = 0x0018;
pub(super) const REQUESTED_TRANSPORT: u16 = 0x0019;
pub(super) const DONT_FRAGMENT: u16 = 0x001A;
pub(super) const ACCESS_TOKEN: u16 = 0x001B;
pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
pub(super) const PASSWORD_ALGORITHM: u16 = 0x001D;
pub(super) const USERHASH: u16 = 0x001E;
pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub(super) const RESERVATION_TOKEN: u16 = 0x0022;
pub(super) const CONNECTION_ID: u16 = 0x002A;
pub(super) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub(super) const PASSWORD_ALGORITHMS: u16 = 0x8002;
/// The number of ADDITIONAL-ADDRESS-FAMILY in the draft of it (draft-martinsen-tram-ssoda); not assigned since.
pub(super) const DRAFT_ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8032;
pub(super) const THIRD_PARTY_AUTHORIZATION: u16 = 0x802E;
pub(super) const MOBILITY_TICKET: u16 = 0x8030;
pub(super) const FINGERPRINT: u16 = 0x8028;
/// RFC 5780 section 7.
pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
pub(super) const CHANGE_REQUEST: u16 = 0x0003;
pub(super) const PADDING: u16 = 0x0026;
pub(super) const RESPONSE_PORT: u16 = 0x0027;
pub(super) const RESPONSE_ORIGIN: u16 = 0x802B;
pub(super) const OTHER_ADDRESS: u16 = 0x802C;
