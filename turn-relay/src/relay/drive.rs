//! The whole core driven by bytes, freely or in step with a reference model: what the fuzz targets call. Compiled for them (feature `fuzz`) and for the tests alone.

use std::net::SocketAddr;

use super::testing::*;
use super::*;

/// Steps per script: a longer one finds nothing that a short one does not.
const MAX_STEPS: u64 = 256;

/// The first byte says what the others are: free input, or the decisions of one of the models: of requests and data, of
/// allocations that move, of TCP allocations.
///
/// # Panics
/// If the core does, if it does not what the model says, if data passes that was not permitted, or if a port, socket or
/// allocation is left over.
pub fn drive(script: &[u8]) {
    let Some((kind, script)) = script.split_first() else { return };
    let steps = MAX_STEPS;
    match kind % 4 {
        0 => drive_freely(script),
        1 => drop(model::play(1, Choices::read(script), steps)),
        2 => drop(moves_model::play(1, Choices::read(script), steps)),
        _ => drop(tcp::model::play(1, Choices::read(script), steps)),
    }
}

/// Reads `script` as requests (signed with a key that is good, so that fuzzing gets behind the authentication), raw frames,
/// peers' datagrams and jumps of the clock, and checks afterwards that nothing remains.
fn drive_freely(script: &[u8]) {
    let settings = RelaySettings {
        ports: (50_000, 50_007),
        limits: Limits { unauthenticated_answers: 0, ..Limits::default() },
        ..settings()
    };
    let mut world = World::seeded(settings, 2, 1);
    let mut script = Script(script);
    for _ in 0..MAX_STEPS {
        if step(&mut world, &mut script).is_none() {
            break;
        }
    }
    world.advance(secs(3601));
    world.assert_empty();
}

fn step(world: &mut World, script: &mut Script<'_>) -> Option<()> {
    let op = script.byte()?;
    let client = script.byte()? % 4;
    let from = if client == 3 { tcp("203.0.3.7:3000") } else { tuple(client) };
    let worker = usize::from(client % 2);
    match op % 8 {
        0 => {
            let frame = script.block()?.to_vec();
            frame_from_client(world, worker, from, &frame);
        }
        1..=3 => {
            let method = u16::from(script.byte()?) & 0x0F;
            let transaction = script.byte()?;
            let attributes = script.block()?.to_vec();
            let nonce = world.nonce(worker, &from);
            let draft = Draft::new(method, transaction).raw(&attributes).sign(&Account::alice(), &nonce);
            frame_from_client(world, worker, from, &draft.bytes());
        }
        4 => {
            let len = script.byte()?;
            let frame = channel_data(0x4000 + u16::from(script.byte()? % 4), &vec![0; len.into()]);
            frame_from_client(world, worker, from, &frame);
        }
        5 => {
            let slot = SocketSlot((script.byte()? % 8).into());
            let peer = PeerAddr(SocketAddr::from(([8, 8, 8, script.byte()?], 1)));
            let verdict = world.workers[worker].route_peer(world.now, slot, peer, 100);
            assert!(matches!(verdict, Verdict::ToClient { .. } | Verdict::Drop(_)), "{verdict:?}");
        }
        6 => world.advance(secs(u64::from(script.byte()?) * 3)),
        _ if from.transport.is_connected() => {
            world.input(worker, Input::ClientGone(from));
            world.settle();
        }
        _ => world.taken = script.block()?.iter().map(|port| 50_000 + u16::from(*port % 8)).collect(),
    }
    Some(())
}

fn frame_from_client(world: &mut World, worker: usize, from: FiveTuple, frame: &[u8]) {
    match world.workers[worker].route_client(world.now, &from, frame) {
        Verdict::ToPeer { to, start, len, .. } => {
            assert!(usize::from(start) + usize::from(len) <= frame.len(), "payload outside of the frame");
            let live = world.sockets.iter().flatten().any(|(_, bound)| SocketAddr::from(*bound) == to.0);
            assert!(settings().policy.permits(to.ip()) || live, "a forbidden peer: {to:?}");
        }
        Verdict::Control => {
            let wall = world.wall();
            world.input(worker, Input::Message { from, bytes: frame, wall });
            world.settle();
        }
        Verdict::Drop(_) => {}
        Verdict::ToClient { .. } => panic!("a client's frame was sent to a client"),
    }
}

/// Bytes read from the front.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A length and as many bytes, or what is left of them.
    fn block(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?).min(self.0.len());
        let (block, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn random_scripts_leave_nothing_behind() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        for _ in 0..400 {
            let mut script = vec![0; rng.random_range(0..1000)];
            rng.fill_bytes(&mut script);
            drive(&script);
        }
    }

    #[test]
    fn script_of_well_formed_requests_gets_behind_the_authentication() {
        let allocate = [&[1, 0, 3, 1, 8][..], &[0, 0x19, 0, 4, 17, 0, 0, 0]].concat();
        let channel = Draft::new(CHANNEL_BIND, 2).channel(0x4000).peer("8.8.8.8:1").bytes();
        let bind = [&[1, 0, 9, 2, 20][..], &channel[20..]].concat();
        let (mut world, script) = (World::with(settings(), 2), [allocate, bind].concat());
        let mut script = Script(&script);
        while step(&mut world, &mut script).is_some() {}
        let verdict = world.workers[0].route_client(world.now, &tuple(0), &channel_data(0x4000, b"x"));
        assert!(matches!(verdict, Verdict::ToPeer { .. }), "{verdict:?}");
    }
}
