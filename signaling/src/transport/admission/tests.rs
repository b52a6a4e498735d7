use std::net::Ipv4Addr;

use super::*;

impl Admission {
    fn admit(&self, ip: IpAddr) -> Result<Admitted, Refusal> {
        self.count(Some(accountable(ip)), InTotal::OneMore)
    }
}

fn admission(total: usize, pending_per_address: usize) -> Admission {
    Admission::new(ConnectionLimits {
        total,
        per_address: 3,
        pending_per_address,
        ..ConnectionLimits::default()
    })
}

#[test]
fn a_request_that_a_proxy_brings_takes_a_place_of_its_client_and_none_in_total() {
    let admission = admission(1, 8);
    let client = "203.0.113.7".parse().expect("an address");
    let connection = admission.count(None, InTotal::OneMore).expect("there is room");
    let requests: Vec<Admitted> =
        (0..3).map(|_| admission.count(Some(client), InTotal::Already).expect("there is room")).collect();
    assert_eq!(admission.count(Some(client), InTotal::Already).err(), Some(Refusal::Address));
    drop(requests);
    assert!(admission.count(Some(client), InTotal::Already).is_ok());
    assert_eq!(admission.count(None, InTotal::OneMore).err(), Some(Refusal::Total));
    drop(connection);
    assert!(admission.count(None, InTotal::OneMore).is_ok());
}

#[test]
fn one_address_holds_only_so_many_connections_whatever_they_said() {
    let admission = admission(100, 2);
    let here = "192.0.2.1".parse().expect("an address");
    let mut held: Vec<Admitted> = (0..3)
        .map(|_| {
            let admitted = admission.admit(here).expect("admitted");
            admitted.greeted();
            admitted
        })
        .collect();
    assert_eq!(admission.admit(here).err(), Some(Refusal::Address));
    assert!(admission.admit("192.0.2.2".parse().expect("an address")).is_ok());
    held.pop();
    assert!(admission.admit(here).is_ok());
}

#[test]
fn one_address_holds_only_so_many_connections_without_a_hello() {
    let admission = admission(100, 2);
    let here = "192.0.2.1".parse().expect("an address");
    let first = admission.admit(here).expect("admitted");
    let _second = admission.admit(here).expect("admitted");
    assert_eq!(admission.admit(here).err(), Some(Refusal::Address));
    assert!(admission.admit("192.0.2.2".parse().expect("an address")).is_ok());
    first.greeted();
    assert!(admission.admit(here).is_ok());
}

#[test]
fn addresses_of_one_ipv6_network_are_one_and_mapped_ipv4_is_ipv4() {
    let admission = admission(100, 1);
    let _held = admission.admit("2001:db8::1".parse().expect("an address")).expect("admitted");
    assert!(admission.admit("2001:db8::ffff".parse().expect("an address")).is_err());
    let _held = admission.admit("::ffff:192.0.2.1".parse().expect("an address")).expect("admitted");
    assert!(admission.admit("192.0.2.1".parse().expect("an address")).is_err());
}

#[test]
fn a_dropped_connection_gives_both_counts_back() {
    let admission = admission(1, 1);
    let here = "192.0.2.1".parse().expect("an address");
    let greeted = admission.admit(here).expect("admitted");
    greeted.greeted();
    assert_eq!(admission.admit(here).err(), Some(Refusal::Total));
    drop(greeted);
    drop(admission.admit(here).expect("admitted again"));
    let counts = admission.0.lock();
    let address = lock(&counts.addresses[&here]);
    let counted = [counts.total, counts.pending, address.open, address.pending, address.sessions];
    assert_eq!(counted, [0; 5]);
}

#[test]
fn connections_that_say_nothing_are_bounded_for_all_addresses_together() {
    let admission = Admission::new(ConnectionLimits { pending: 2, ..ConnectionLimits::default() });
    let address = |last: u8| IpAddr::from([192, 0, 2, last]);
    let first = admission.admit(address(1)).expect("admitted");
    let _second = admission.admit(address(2)).expect("admitted");
    assert_eq!(admission.admit(address(3)).err(), Some(Refusal::Pending));
    first.greeted();
    drop(admission.admit(address(3)).expect("one of them said hello"));
    let _proxy = [(); 3].map(|()| admission.count(None, InTotal::OneMore).expect("a proxy of ours"));
    assert!(admission.admit(address(4)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_goes_on_as_soon_as_there_is_some() {
    let admission = Admission::new(ConnectionLimits { pending: 1, ..ConnectionLimits::default() });
    admission.room().await;
    let first = admission.admit(IpAddr::from([192, 0, 2, 1])).expect("admitted");
    let waiting = tokio::spawn({
        let admission = admission.clone();
        async move { admission.room().await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    first.greeted();
    waiting.await.expect("no panic");
}

#[test]
fn an_address_that_connects_too_often_is_refused_also_if_it_holds_nothing() {
    let handshakes_per_address = Rate { per_second: 1, burst: 3 };
    let admission =
        Admission::new(ConnectionLimits { handshakes_per_address, ..ConnectionLimits::default() });
    let here = "192.0.2.1".parse().expect("an address");
    for _ in 0..3 {
        drop(admission.admit(here).expect("admitted"));
    }
    assert_eq!(admission.admit(here).err(), Some(Refusal::Rate));
    assert!(admission.admit("192.0.2.2".parse().expect("an address")).is_ok());
    let brought = admission.count(Some(here), InTotal::Already);
    assert!(brought.is_ok(), "requests that a proxy brings are no handshakes");
}

#[test]
fn a_connection_that_a_proxy_introduces_counts_like_one_of_its_client() {
    let limits = ConnectionLimits { pending: 2, pending_per_address: 1, ..ConnectionLimits::default() };
    let admission = Admission::new(limits);
    let client = |last: u8| IpAddr::from([203, 0, 113, last]);
    let mut introduced = [(); 4].map(|()| admission.count(None, InTotal::OneMore).expect("a proxy's"));
    let [first, second, third, fourth] = &mut introduced;
    assert_eq!(first.identify(client(1)), Ok(()));
    assert_eq!(second.identify(client(1)), Err(Refusal::Address));
    assert_eq!(third.identify(client(2)), Ok(()));
    assert_eq!(fourth.identify(client(3)), Err(Refusal::Pending));
    first.greeted();
    assert_eq!(second.identify(client(1)), Ok(()));
    drop(introduced);
    let counts = admission.0.lock();
    let open: usize = counts.addresses.values().map(|address| lock(address).open).sum();
    let pending: usize = counts.addresses.values().map(|address| lock(address).pending).sum();
    assert_eq!((counts.total, counts.pending, open, pending), (0, 0, 0, 0));
}

#[test]
fn connections_within_one_that_say_nothing_are_bounded_like_others() {
    let admission = Admission::new(ConnectionLimits { pending: 2, ..ConnectionLimits::default() });
    let here = "192.0.2.1".parse().expect("an address");
    let connection = admission.admit(here).expect("admitted");
    let _waits = admission.admit("192.0.2.2".parse().expect("an address")).expect("admitted");
    let first = connection.another().expect("it has waited with its connection");
    assert_eq!(connection.another().err(), Some(Refusal::Pending));
    first.greeted();
    connection.greeted();
    assert!(connection.another().is_ok());
}

#[test]
fn handshakes_of_an_address_are_counted_whatever_brings_them() {
    let handshakes_per_address = Rate { per_second: 1, burst: 3 };
    let limits = ConnectionLimits { handshakes_per_address, ..ConnectionLimits::default() };
    let here = "192.0.2.1".parse().expect("an address");

    let connection = Admission::new(limits).admit(here).expect("admitted");
    assert_eq!(connection.handshake(), Ok(()), "this one is counted already");
    for _ in 0..2 {
        assert!(connection.another().is_ok());
    }
    assert_eq!(connection.another().err(), Some(Refusal::Rate));

    let proxy = Admission::new(limits).count(None, InTotal::OneMore).expect("a proxy of ours");
    let brought = || proxy.for_client(here).expect("no handshake");
    for _ in 0..3 {
        assert_eq!(brought().handshake(), Ok(()));
    }
    assert_eq!(brought().handshake(), Err(Refusal::Rate));
    assert_eq!(brought().another().err(), Some(Refusal::Rate));
}

#[test]
fn handshakes_beyond_the_rate_wait() {
    let handshakes = Rate { per_second: 1, burst: 2 };
    let admission = Admission::new(ConnectionLimits { handshakes, ..ConnectionLimits::default() });
    assert_eq!([admission.pace(), admission.pace()], [Ok(()), Ok(())]);
    assert!(admission.pace().is_err_and(|wait| wait <= Duration::from_secs(1)));
}

#[test]
fn an_address_holds_only_so_many_sessions() {
    let admission =
        Admission::new(ConnectionLimits { sessions_per_address: 1, ..ConnectionLimits::default() });
    let here = "192.0.2.1".parse().expect("an address");
    let (one, two) = (admission.admit(here).expect("admitted"), admission.admit(here).expect("admitted"));
    let place = one.place();
    assert!(place.is_some() && two.place().is_none());
    drop(one);
    assert!(two.place().is_none(), "the session stands without its connection");
    drop(place);
    assert!(two.place().is_some());
}

#[test]
fn all_clients_of_an_address_share_its_rate_of_frames() {
    let frames_per_address = Rate { per_second: 1, burst: 2 };
    let admission = Admission::new(ConnectionLimits { frames_per_address, ..ConnectionLimits::default() });
    let here = "192.0.2.1".parse().expect("an address");
    let (one, two) = (admission.admit(here).expect("admitted"), admission.admit(here).expect("admitted"));
    assert_eq!([one.frame(), two.frame()], [Ok(()), Ok(())]);
    assert!(one.frame().is_err() && two.frame().is_err());
    drop((one, two));
    let again = admission.admit(here).expect("admitted");
    assert!(again.frame().is_err(), "coming back does not fill the bucket");
}

#[test]
fn addresses_that_are_forgiven_are_forgotten() {
    let admission = Admission::new(ConnectionLimits {
        handshakes_per_address: Rate { per_second: 1_000_000, burst: 1 },
        ..ConnectionLimits::default()
    });
    let held = admission.admit(IpAddr::from([198, 51, 100, 1])).expect("admitted");
    for number in 0..20_000_u32 {
        drop(admission.admit(Ipv4Addr::from_bits(0x0a00_0000 + number).into()).expect("admitted"));
    }
    let counts = admission.0.lock();
    assert!(counts.addresses.len() <= 2 * FEW_ADDRESSES, "{}", counts.addresses.len());
    assert!(counts.addresses.contains_key(&IpAddr::from([198, 51, 100, 1])));
    drop((counts, held));
}
