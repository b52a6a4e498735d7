use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::address::{ClientAddr, Transport};

proptest! {
    /// Against what may be said of any batch.
    #[test]
    fn runs_lose_nothing_and_keep_the_order_of_each_flow(
        batch in prop::collection::vec((0..4_usize, prop::sample::select(&[0, 1, 160, 1000, 1000, 1200, 1472, 1473, 65_000][..])), 0..=WAITING),
        runs: bool,
    ) {
        let mut outgoing = Outgoing::new(runs);
        for (place, (flow, len)) in batch.iter().enumerate() {
            outgoing.push(Packet { way: way(*flow), place, start: 56, len: *len, payload: *len });
        }
        let mut taken = vec![];
        loop {
            let run = outgoing.take_run();
            let Some((first, rest)) = run.split_first() else { break };
            // The oldest that is left comes first, whosever it is.
            let left = (0..batch.len()).find(|place| !taken.contains(place));
            prop_assert_eq!(Some(first.place), left);
            if let Some((last, middle)) = rest.split_last() {
                prop_assert!(runs && run.len() <= RUN);
                prop_assert!(run.iter().all(|packet| packet.way == first.way && packet.len > 0));
                prop_assert!(middle.iter().all(|packet| packet.len == first.len) && last.len <= first.len);
                prop_assert!(first.len <= LONGEST_OF_A_RUN);
                prop_assert!(run.iter().map(|packet| packet.len).sum::<usize>() <= RUN_BYTES);
            }
            taken.extend(run.iter().map(|packet| packet.place));
        }
        for flow in 0..4 {
            let of_flow = |places: &mut dyn Iterator<Item = usize>| places.filter(|place| batch[*place].0 == flow).collect::<Vec<_>>();
            prop_assert_eq!(of_flow(&mut taken.iter().copied()), of_flow(&mut (0..batch.len())));
        }
    }
}

#[test]
fn interleaved_bursts_become_one_run_each() {
    let mut outgoing = Outgoing::new(true);
    for place in 0..24 {
        outgoing.push(Packet { way: way(place % 3), place, start: 0, len: 1100, payload: 1100 });
    }
    for flow in 0..3 {
        let run: Vec<_> = outgoing.take_run().iter().map(|packet| packet.place).collect();
        assert_eq!(run, (0..8).map(|n| flow + 3 * n).collect::<Vec<_>>());
    }
    assert!(outgoing.take_run().is_empty());
}

/// To two peers through one socket, with another class, and to a client.
fn way(flow: usize) -> Way {
    let peer = |port| PeerAddr(SocketAddr::from(([192, 0, 2, 1], port)));
    let to_peer = |port| To::Peer { via: SocketSlot(1), peer: peer(port), dont_fragment: false };
    match flow {
        0 => Way { to: to_peer(1), traffic_class: 0 },
        1 => Way { to: to_peer(2), traffic_class: 0 },
        2 => Way { to: to_peer(1), traffic_class: 0xB8 },
        _ => {
            let client = ClientAddr(([198, 51, 100, 1], 1).into());
            let to = FiveTuple { transport: Transport::Udp, client, server: ([203, 0, 113, 1], 3478).into() };
            Way { to: To::Client(to), traffic_class: 0 }
        }
    }
}
