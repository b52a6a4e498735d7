use prometheus_client::registry::Registry;

use super::*;
use crate::address::{ClientAddr, Transport};
use crate::metrics::Totals;
use crate::relay::DropReason;

/// The label sets of a server that had this many users, with everything happening that can happen to each.
fn label_sets_after(users: u32) -> Vec<String> {
    let counters = [Arc::<Counters>::default(), Arc::default()];
    let mut journals = counters.clone().map(|counters| Journal::new(counters, false));
    let now = Instant::now();
    for user in 0..users {
        let journal = &mut journals[user as usize % 2];
        for event in events_of(user) {
            journal.record(now, event);
        }
    }
    assert!(
        journals.iter().all(|journal| journal.refusals.len() <= 10),
        "the journal keeps something per user"
    );
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Totals(counters.to_vec())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    assert!(!text.contains("someone"), "a username is in\n{text}");
    let name = |line: &str| line.rsplit_once(' ').map(|(name, _)| name.to_owned());
    text.lines().filter(|line| !line.starts_with('#')).filter_map(name).collect()
}

fn events_of(user: u32) -> Vec<Event> {
    let username: Box<str> = format!("1800000000:someone-{user}").into();
    let id = AllocationId(user.into());
    let address = SocketAddr::from(([198, 51, 100, 1], 3478));
    let mut events =
        vec![Event::Dropped(DropReason::NoPermission), Event::Challenged(RequestMethod::Allocate)];
    for transport in Transport::ALL {
        let client = FiveTuple {
            transport,
            client: ClientAddr(SocketAddr::from((user.to_be_bytes(), 9))),
            server: address,
        };
        for relayed in [SocketAddr::from(([192, 0, 2, 1], 50_000)), SocketAddr::from(([1; 16], 50_000))] {
            let (username, duration) = (username.clone(), Duration::from_secs(user.into()));
            events.push(Event::AllocationStarted {
                id,
                client,
                username: username.clone(),
                relayed,
                lifetime: duration,
                additional: None,
            });
            let (reason, traffic) = (EndReason::Expired, Traffic::default());
            events.push(Event::AllocationEnded {
                id,
                client,
                username,
                relayed,
                reason,
                duration,
                traffic,
                additional: None,
            });
        }
        for why in Unauthenticated::ALL {
            events.push(Event::Refused {
                client,
                method: RequestMethod::Allocate,
                code: 401,
                reason: why.reason(),
            });
        }
    }
    events
}

#[test]
fn hundred_thousand_users_have_the_labels_of_one() {
    let one = label_sets_after(1);
    assert!(one.len() > 60, "{one:?}");
    assert_eq!(label_sets_after(100_000), one);
}
