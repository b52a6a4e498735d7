//! Seeded schedules of everything that a network does to a session, played by the SDK's core against the hub in virtual time,
//! and against the server over real sockets.
//!
//! Every schedule ends with a healed network and shows: each signal arrived once and in order, or its sender was told by the
//! recipient's resync or leaving, by its own resync, or by an error; whoever was removed was so by somebody's wish, once for each, and every wish
//! and question had its effect or answer, unless its sender was told as of a signal; everybody sees the room as it is; nobody keeps what was
//! seen; and when all have left, nothing remains.
//!
//! Real sockets take their time, so only the virtual network makes graces end, and nothing overflows on real ones. On a busy
//! machine a bye may come too late even so: then the grace is waited for.
//!
//! `SIMULATION_SEED=n` plays that one schedule and tells what happens, `SIMULATION_SCHEDULES=n` so many of them. A million, in minutes:
//!
//!     SIMULATION_SCHEDULES=1000000 cargo test --release -p signaling --test sockets simulation::virt -- --nocapture

mod link;
mod network;
mod person;
mod schedule;
mod sockets;
mod wire;

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::{PATIENCE, admission::guarded, config, metric_becomes_within};
use network::Network;
use person::Tally;
use schedule::Schedule;
use sockets::{BYE_IS_LOST, Sockets};

/// Says which schedule it was.
struct Playing(u64);

impl Drop for Playing {
    #[expect(clippy::print_stdout, reason = "of a test that fails")]
    fn drop(&mut self) {
        if thread::panicking() {
            println!("to see it again: SIMULATION_SEED={}", self.0);
        }
    }
}

#[test]
fn virtual_networks_of_every_kind_lose_repeat_and_reorder_nothing_in_silence() {
    let (seeds, start) = (seeds(20_000), Instant::now());
    let (all, aloud) = (seeds.clone(), seeds.end - seeds.start == 1);
    let next = AtomicU64::new(seeds.start);
    let play = || {
        let mut tally = Tally::default();
        while let seed = next.fetch_add(1, Ordering::Relaxed)
            && all.contains(&seed)
        {
            let _playing = Playing(seed);
            tally.add(Network::play(&Schedule::of(seed), start, aloud));
        }
        tally
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut total = Tally::default();
    thread::scope(|scope| {
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        for player in players {
            total.add(player.join().expect("no schedule fails"));
        }
    });
    println!("schedules {seeds:?} in {:.1} s: {total:?}", start.elapsed().as_secs_f64());
    let many = seeds.end - seeds.start;
    let enough = total.signals > many * 20 && total.resumed > many && total.lost > many / 100;
    let enough = enough && total.answered > many / 2 && total.removed > many / 20;
    assert!(many < 1_000 || enough, "the schedules did too little to prove anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_sockets_of_every_kind_lose_repeat_and_reorder_nothing_in_silence() {
    const AT_ONCE: usize = 16;
    // Nothing here is about the rate, and all come from one address.
    let server = guarded(signaling::Config {
        messages_per_second: Some(100_000),
        message_burst: Some(100_000),
        max_connections_per_address: Some(10_000),
        max_pending_per_address: Some(10_000),
        max_sessions_per_address: Some(100_000),
        handshakes_per_second_per_address: Some(10_000),
        messages_per_second_per_address: Some(1_000_000),
        ..config()
    });
    let began = Instant::now();
    let seeds = seeds(1_000);
    let total = stream::iter(seeds.clone())
        .map(|seed| {
            let server = &server;
            async move {
                let schedule = Schedule::of(seed);
                let tally = std::panic::AssertUnwindSafe(Sockets::play(server, &schedule));
                tally.catch_unwind().await.unwrap_or_else(|panic| {
                    println!("to see it again: SIMULATION_SEED={seed}");
                    std::panic::resume_unwind(panic)
                })
            }
        })
        .buffer_unordered(AT_ONCE)
        .fold(Tally::default(), |mut total, tally| async move {
            total.add(tally);
            total
        })
        .await;
    println!("schedules {seeds:?} in {:.1} s: {total:?}", began.elapsed().as_secs_f64());
    let many = seeds.end - seeds.start;
    assert!(
        many < 100
            || total.signals > many * 20
                && total.resumed > many
                && total.answered > many / 2
                && total.removed > many / 20,
        "too little was done to prove anything"
    );
    for gauge in ["sessions", "rooms", "replay_bytes", "outbox_bytes", "connections"] {
        metric_becomes_within(BYE_IS_LOST + PATIENCE, &server, &format!("signaling_{gauge}"), 0).await;
    }
}

fn seeds(default: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SCHEDULES").unwrap_or(default),
    }
}
