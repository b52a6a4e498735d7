//! Why a connection is closed and why a frame is refused, and what a client is to do about it.
//!
//! Close codes lie in three ranges, and the range alone tells a client what to do; a code that it does not know is
//! treated by its range. [`CloseCode::ALL`] is the table, and the server's `PROTOCOL.md` is tested against it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reason for the end of a connection: the WebSocket close code and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseCode {
    /// 1000: the client said `bye`.
    Normal,
    /// 4000: the server shuts down or restarts.
    GoingAway,
    /// 4001: nothing was heard from the client for the ping interval plus the deadline.
    PingTimeout,
    /// 4002: the client reads more slowly than others write to it.
    SlowReader,
    /// 4003: no `hello` arrived in time.
    HelloTimeout,
    /// 4100: the server holds as many rooms or sessions as it may.
    Overloaded,
    /// 4101: too many frames in too short a time. Nothing is lost: the session stands and can be resumed.
    RateLimited,
    /// 4102: the room holds as many peers as it may.
    RoomFull,
    /// 4103: whoever says who may enter cannot be asked.
    Unverified,
    /// 4104: somebody inside is asked; come back for the answer.
    Knocking,
    /// 4200: a frame that is not JSON, has the wrong shape, or breaks the sequence.
    BadFrame,
    /// 4201: a frame above the size limit.
    TooLarge,
    /// 4202: the first frame is not an acceptable `hello`.
    BadHello,
    /// 4203: another connection took this session over, or a new session took its place.
    Replaced,
    /// 4204: a moderator or the operator removed the client; it may come back by hand.
    Kicked,
    /// 4205: removed, or turned away, for a time.
    Banned,
    /// 4206: the room takes no newcomers.
    Locked,
    /// 4207: no token, or one that does not open this room.
    Unauthorized,
    /// 4208: the token expired and no other was shown.
    TokenExpired,
    /// 4209: nobody inside lets the client in.
    Denied,
    /// 4210: the room has a password, and this is not it.
    WrongPassword,
    /// 4211: the same user is here already by another device.
    AlreadyHere,
}

/// What a client does after its connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Come back at once, with back-off and jitter from the second attempt on (4000-4099).
    Now,
    /// Come back after `retry_after_ms` of the `error` frame that preceded the close (4100-4199).
    After,
    /// Do not come back by itself (4200-4299, and 1000).
    Never,
}

impl CloseCode {
    /// Every code, in ascending order.
    pub const ALL: [Self; 22] = [
        Self::Normal,
        Self::GoingAway,
        Self::PingTimeout,
        Self::SlowReader,
        Self::HelloTimeout,
        Self::Overloaded,
        Self::RateLimited,
        Self::RoomFull,
        Self::Unverified,
        Self::Knocking,
        Self::BadFrame,
        Self::TooLarge,
        Self::BadHello,
        Self::Replaced,
        Self::Kicked,
        Self::Banned,
        Self::Locked,
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Denied,
        Self::WrongPassword,
        Self::AlreadyHere,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 4000,
            Self::PingTimeout => 4001,
            Self::SlowReader => 4002,
            Self::HelloTimeout => 4003,
            Self::Overloaded => 4100,
            Self::RateLimited => 4101,
            Self::RoomFull => 4102,
            Self::Unverified => 4103,
            Self::Knocking => 4104,
            Self::BadFrame => 4200,
            Self::TooLarge => 4201,
            Self::BadHello => 4202,
            Self::Replaced => 4203,
            Self::Kicked => 4204,
            Self::Banned => 4205,
            Self::Locked => 4206,
            Self::Unauthorized => 4207,
            Self::TokenExpired => 4208,
            Self::Denied => 4209,
            Self::WrongPassword => 4210,
            Self::AlreadyHere => 4211,
        }
    }

    /// The name: the reason text of the close frame, the `code` of the `error` frame before it, the metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::GoingAway => "going_away",
            Self::PingTimeout => "ping_timeout",
            Self::SlowReader => "slow_reader",
            Self::HelloTimeout => "hello_timeout",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::RoomFull => "room_full",
            Self::Unverified => "unverified",
            Self::Knocking => "knocking",
            Self::BadFrame => "bad_frame",
            Self::TooLarge => "too_large",
            Self::BadHello => "bad_hello",
            Self::Replaced => "replaced",
            Self::Kicked => "kicked",
            Self::Banned => "banned",
            Self::Locked => "locked",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Denied => "denied",
            Self::WrongPassword => "wrong_password",
            Self::AlreadyHere => "already_here",
        }
    }

    /// What the client is to do, which follows from the range of the code.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self.code() {
            4000..=4099 => Retry::Now,
            4100..=4199 => Retry::After,
            _ => Retry::Never,
        }
    }

    /// Code of the `error` frame that the server sends immediately before it closes; none before 1000.
    #[must_use]
    pub const fn error(self) -> Option<ErrorCode> {
        Some(match self {
            Self::Normal => return None,
            Self::GoingAway => ErrorCode::GoingAway,
            Self::PingTimeout => ErrorCode::PingTimeout,
            Self::SlowReader => ErrorCode::SlowReader,
            Self::HelloTimeout => ErrorCode::HelloTimeout,
            Self::Overloaded => ErrorCode::Overloaded,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::RoomFull => ErrorCode::RoomFull,
            Self::Unverified => ErrorCode::Unverified,
            Self::Knocking => ErrorCode::Knocking,
            Self::BadFrame => ErrorCode::BadFrame,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::BadHello => ErrorCode::BadHello,
            Self::Replaced => ErrorCode::Replaced,
            Self::Kicked => ErrorCode::Kicked,
            Self::Banned => ErrorCode::Banned,
            Self::Locked => ErrorCode::Locked,
            Self::Unauthorized => ErrorCode::Unauthorized,
            Self::TokenExpired => ErrorCode::TokenExpired,
            Self::Denied => ErrorCode::Denied,
            Self::WrongPassword => ErrorCode::WrongPassword,
            Self::AlreadyHere => ErrorCode::AlreadyHere,
        })
    }
}

/// The `code` of an `error` frame. The first six answer one frame and the connection stays; all others
/// precede the close of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The peer named by `to` is not in the room, or is the sender itself.
    NoSuchPeer,
    /// The peer named by `to` is away and its replay buffer has overflowed; it will come back by a resync.
    NotDelivered,
    /// The server does not know this `type`.
    UnknownType,
    /// The client's grant does not cover this.
    NotPermitted,
    /// A further token is not good for this session, which goes on until the one before expires.
    TokenRefused,
    /// A further token could not be verified for now.
    TokenUnverified,
    /// See [`CloseCode::GoingAway`].
    GoingAway,
    /// See [`CloseCode::PingTimeout`].
    PingTimeout,
    /// See [`CloseCode::SlowReader`].
    SlowReader,
    /// See [`CloseCode::HelloTimeout`].
    HelloTimeout,
    /// See [`CloseCode::Overloaded`].
    Overloaded,
    /// See [`CloseCode::RateLimited`].
    RateLimited,
    /// See [`CloseCode::RoomFull`].
    RoomFull,
    /// See [`CloseCode::Unverified`].
    Unverified,
    /// See [`CloseCode::Knocking`].
    Knocking,
    /// See [`CloseCode::BadFrame`].
    BadFrame,
    /// See [`CloseCode::TooLarge`].
    TooLarge,
    /// See [`CloseCode::BadHello`].
    BadHello,
    /// See [`CloseCode::Replaced`].
    Replaced,
    /// See [`CloseCode::Kicked`].
    Kicked,
    /// See [`CloseCode::Banned`].
    Banned,
    /// See [`CloseCode::Locked`].
    Locked,
    /// See [`CloseCode::Unauthorized`].
    Unauthorized,
    /// See [`CloseCode::TokenExpired`].
    TokenExpired,
    /// See [`CloseCode::Denied`].
    Denied,
    /// See [`CloseCode::WrongPassword`].
    WrongPassword,
    /// See [`CloseCode::AlreadyHere`].
    AlreadyHere,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_is_in_the_range_that_says_what_the_client_does() {
        for code in CloseCode::ALL {
            let expected = match code.code() / 100 {
                40 => Retry::Now,
                41 => Retry::After,
                _ => Retry::Never,
            };
            assert_eq!(code.retry(), expected, "{}", code.name());
        }
    }

    #[test]
    fn codes_ascend_and_names_are_unique() {
        for pair in CloseCode::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code());
            assert_ne!(pair[0].name(), pair[1].name());
        }
    }

    #[test]
    fn the_error_before_a_close_has_the_name_of_the_close() {
        for code in CloseCode::ALL {
            let Some(error) = code.error() else { continue };
            assert_eq!(serde_json::to_string(&error).unwrap(), format!("\"{}\"", code.name()));
        }
    }
}
