//! A schedule: what people and the network between them do, drawn from a seed. It says nothing about how: the virtual
//! network and real sockets play the same steps.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How the frames of one connection travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Socket,
    Events,
    Polls,
}

/// One thing that happens. `who` is an index into the people.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Signals to somebody in the room: the `to`th of those that are seen.
    Say {
        who: usize,
        to: usize,
        count: u8,
    },
    /// Asks who is kept out.
    Ask {
        who: usize,
    },
    /// Removes the `to`th of those that are seen.
    Kick {
        who: usize,
        to: usize,
    },
    /// The network works for a while.
    Carry(u8),
    /// So many milliseconds pass.
    Wait(u16),
    /// The connection breaks; of what is under way about so much of 255 still arrives. Nobody is told yet.
    Cut {
        who: usize,
        arrives: u8,
    },
    /// Nothing passes any more, and nobody is told.
    HalfOpen {
        who: usize,
    },
    /// The client notices that its connection is broken.
    Notice {
        who: usize,
    },
    /// The client takes another connection, beside the present one.
    Move {
        who: usize,
        way: Way,
    },
    /// What the client writes is held up on its way, a hello too, until [`Self::Release`].
    Stall {
        who: usize,
    },
    Release,
    /// The answer to a poll is lost whole; the client is told of it, or asks again.
    LoseAnswer {
        who: usize,
        told: bool,
    },
    /// The frame or the request that was sent last is sent again by somebody on the way.
    Repeat {
        who: usize,
    },
    /// The page is loaded anew: all is forgotten but the secret.
    Reload {
        who: usize,
    },
    Bye {
        who: usize,
    },
}

#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) people: usize,
    /// The hub keeps little and takes little, and graces are short: sessions may end by themselves.
    pub(super) tight: bool,
    /// People reload, leave, and remove each other.
    pub(super) restless: bool,
    pub(super) steps: Vec<Step>,
}

impl Schedule {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let people = rng.random_range(2..=4);
        let restless = rng.random_bool(0.4);
        let steps = rng.random_range(20..100);
        let steps = (0..steps).map(|_| step(&mut rng, people, restless)).collect();
        Self { seed, people, tight: rng.random_bool(0.4), restless, steps }
    }

    /// Whether something may end a session, so that something may be lost.
    pub(super) const fn may_lose(&self) -> bool {
        self.tight || self.restless
    }
}

impl Way {
    pub(super) fn any(rng: &mut ChaCha8Rng) -> Self {
        [Self::Socket, Self::Events, Self::Polls][rng.random_range(0..3)]
    }
}

fn step(rng: &mut ChaCha8Rng, people: usize, restless: bool) -> Step {
    let who = rng.random_range(0..people);
    match rng.random_range(0..100) {
        0..28 => Step::Say { who, to: rng.random_range(0..people), count: rng.random_range(1..8) },
        28..30 => Step::Ask { who },
        30..60 => Step::Carry(rng.random_range(1..25)),
        60..63 => Step::Wait(rng.random_range(0..1500)),
        63..65 => Step::Wait(rng.random_range(0..20_000)),
        65..70 => Step::Cut { who, arrives: rng.random() },
        70..73 => Step::HalfOpen { who },
        73..79 => Step::Notice { who },
        79..86 => Step::Move { who, way: Way::any(rng) },
        86..89 => Step::Stall { who },
        89..91 => Step::Release,
        91..94 => Step::LoseAnswer { who, told: rng.random() },
        94..96 => Step::Repeat { who },
        96 if restless => Step::Kick { who, to: rng.random_range(0..people) },
        97..99 if restless => Step::Reload { who },
        99 if restless => Step::Bye { who },
        _ => Step::Carry(40),
    }
}
