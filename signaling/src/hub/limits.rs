//! What a hub allows, and the token bucket.

use std::time::{Duration, Instant};

use signaling_protocol::Door;

/// Bounds of one hub. `Default` gives the documented defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sustained frames per second of one client. Default 100.
    pub messages_per_second: u32,
    /// Frames that one client may send at once after a quiet time. Default 200.
    pub message_burst: u32,
    /// Frames that a `hello` counts for when its peer has a session already, since it makes the hub tell the whole
    /// room or replay; half of the burst at most. Default 10.
    pub hello_frames: u32,
    /// Peers in a room, those that are away included. Default 50.
    pub peers_per_room: usize,
    /// Rooms of this hub. Default 10,000.
    pub rooms: usize,
    /// Sessions of this hub, those that are away included. Default 50,000.
    pub sessions: usize,
    /// Unacknowledged frames kept for one session. Default 1,024: a joiner to a room of 50 gets about 500 frames
    /// (49 descriptions with some ten candidates each) before its first acknowledgement is back.
    pub replay_messages: usize,
    /// Bytes of unacknowledged frames kept for one session. Default 256 KiB.
    pub replay_bytes: usize,
    /// Bytes of unacknowledged frames kept for all sessions of this hub. Beyond it a session is kept no more than
    /// [`Self::replay_reserve`], so that whoever holds much pays for it and the others do not notice. Default 128 MiB.
    pub replay_total_bytes: usize,
    /// Bytes that every session may hold whatever the others hold: an offer and its candidates. Default 16 KiB.
    pub replay_reserve: usize,
    /// Time between pings. Default 10 s.
    pub ping_interval: Duration,
    /// Silence beyond the interval after which a connection is given up. Default 5 s.
    pub ping_deadline: Duration,
    /// How long a session stands without a connection. Default 30 s.
    pub grace: Duration,
    /// Longest time until a client's frame is acknowledged. Default 1 s.
    pub ack_delay: Duration,
    /// Most frames of a client that wait for one acknowledgement. Default 16.
    pub ack_every: u64,
    /// Frames of unknown type that one connection may send before it is closed. Default 8.
    pub unknown_types: u8,
    /// Bans of one room. Beyond it the one that would have ended first gives way. Default 200.
    pub bans_per_room: usize,
    /// Bans of this hub, likewise. Default 10,000.
    pub bans: usize,
    /// How long a session that was removed is told so, and not let in, if its client wants to resume it. Default 1 h.
    pub kick_memory: Duration,
    /// The door of a room that begins. Default open.
    pub door: Door,
    /// Wrong passwords that may be tried in a room at once. Default 10.
    pub guesses: u32,
    /// Time until one of them is forgotten. Default 6 s.
    pub guess_interval: Duration,
    /// Newcomers that wait before the door of a room. Default 20.
    pub knocks: usize,
    /// When one of them may ask again. Default 3 s.
    pub knock_again: Duration,
    /// How long one is kept that does not. Default 15 s.
    pub knock_patience: Duration,
    /// How long one may wait in all. Default 10 min.
    pub knock_longest: Duration,
    /// How long an answer to one holds. Default 60 s.
    pub answer_memory: Duration,
    /// When a client that was turned away because the server or the room is full may try again. Default 5 s.
    pub retry_after_full: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_second: 100,
            message_burst: 200,
            hello_frames: 10,
            peers_per_room: 50,
            rooms: 10_000,
            sessions: 50_000,
            replay_messages: 1024,
            replay_bytes: 256 * 1024,
            replay_total_bytes: 128 * 1024 * 1024,
            replay_reserve: 16 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_deadline: Duration::from_secs(5),
            grace: Duration::from_secs(30),
            ack_delay: Duration::from_secs(1),
            ack_every: 16,
            unknown_types: 8,
            bans_per_room: 200,
            bans: 10_000,
            kick_memory: Duration::from_secs(3600),
            door: Door::Open,
            guesses: 10,
            guess_interval: Duration::from_secs(6),
            knocks: 20,
            knock_again: Duration::from_secs(3),
            knock_patience: Duration::from_secs(15),
            knock_longest: Duration::from_secs(600),
            answer_memory: Duration::from_secs(60),
            retry_after_full: Duration::from_secs(5),
        }
    }
}

/// Token bucket in one word of state: the time at which it would be full again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    full_at: Instant,
}

/// How often something may happen: on average, and at once after a quiet time. Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

impl Bucket {
    pub(crate) const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes one token, or says how long it takes until the bucket is full.
    pub(super) fn take(&mut self, now: Instant, limits: &Limits) -> Result<(), Duration> {
        self.take_or_wait_for_all(now, limits.rate())
    }

    /// Takes what a hello costs, likewise.
    pub(super) fn take_hello(&mut self, now: Instant, limits: &Limits) -> Result<(), Duration> {
        let tokens = limits.hello_frames.min(limits.message_burst / 2).max(1);
        self.take_many(now, tokens, limits.rate()).map_err(|_| self.full_at - now)
    }

    /// Takes one token, or says how long it takes until the bucket is full.
    pub(crate) fn take_or_wait_for_all(&mut self, now: Instant, rate: Rate) -> Result<(), Duration> {
        self.take_many(now, 1, rate).map_err(|_| self.full_at - now)
    }

    /// Takes one token, or says how long it takes until there is one.
    pub(crate) fn take_one(&mut self, now: Instant, rate: Rate) -> Result<(), Duration> {
        self.take_many(now, 1, rate)
    }

    /// Takes so many, or says how long it takes until there are as many.
    pub(crate) fn take_many(&mut self, now: Instant, tokens: u32, rate: Rate) -> Result<(), Duration> {
        let one = Duration::from_secs(1) / rate.per_second.max(1);
        let full_at = self.full_at.max(now) + one * tokens;
        let (takes, all) = (full_at - now, one * rate.burst.max(1));
        if takes > all {
            return Err(takes - all);
        }
        self.full_at = full_at;
        Ok(())
    }
}

impl Limits {
    const fn rate(&self) -> Rate {
        Rate { per_second: self.messages_per_second, burst: self.message_burst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_whole_and_then_one_token_comes_back_every_interval() {
        let limits = Limits { messages_per_second: 10, message_burst: 3, ..Limits::default() };
        let start = super::super::tests::start();
        let mut bucket = Bucket::full(start);

        for _ in 0..3 {
            assert_eq!(bucket.take(start, &limits), Ok(()));
        }
        assert_eq!(bucket.take(start, &limits), Err(Duration::from_millis(300)));
        assert!(bucket.take(start + Duration::from_millis(99), &limits).is_err());
        assert_eq!(bucket.take(start + Duration::from_millis(100), &limits), Ok(()));
        assert!(bucket.take(start + Duration::from_millis(100), &limits).is_err());
    }
}
