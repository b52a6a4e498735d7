use dimpl::{Config, DtlsCertificate};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::listen::admission::Rules;
use crate::listen::tls::Certificates;
use crate::operation::certificate::Identity;
use crate::relay::testing::epoch;

#[test]
fn a_hundred_thousand_spoofed_client_hellos_leave_nothing_and_get_less_than_they_sent() {
    let mut bench = Bench::new();
    let hello = bench.client().say(None);
    let (mut sent, mut answered) = (0, 0);
    for n in 0..100_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let client = SocketAddr::from(([10, a, b, c], 1000));
        let Heard::Challenge(answer, _) = bench.sessions.receive(epoch(), client, bench.server, &hello)
        else {
            panic!("a challenge");
        };
        sent += hello.len();
        answered += answer.len();
    }
    assert!(answered <= sent, "{answered} bytes for {sent}");
    assert_eq!(bench.sessions.count(), 0);
    assert_eq!((bench.sessions.slab.capacity(), bench.sessions.by_ends.capacity()), (0, 0));
    assert!(bench.sessions.due.is_empty() && bench.admission.counts_nobody());
}

#[test]
fn a_client_that_repeats_its_cookie_gets_a_session_and_frames_cross_it() {
    let mut bench = Bench::new();
    let (mut client, slot) = bench.connect();
    assert_eq!(bench.exchange(&mut client, Some(b"frame")), [b"frame".to_vec()]);
    bench.sessions.send(slot, b"answer").expect("stands");
    bench.settle(slot, &mut client);
    assert_eq!(client.heard, [b"answer".to_vec()]);
}

#[test]
fn a_cookie_of_another_address_is_answered_with_a_challenge_again() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    let first = client.say(None);
    let Heard::Challenge(challenge, _) = bench.receive(&first) else { panic!("a challenge") };
    let second = client.say(Some(&challenge));
    let elsewhere = "192.0.2.9:1000".parse().expect("an address");
    let heard = bench.sessions.receive(epoch(), elsewhere, bench.server, &second);
    assert!(matches!(heard, Heard::Challenge(..)), "{heard:?}");
    assert_eq!(bench.sessions.count(), 0);
}

#[test]
fn a_handshake_has_until_the_deadline_of_the_first_message_and_speaking_buys_a_minute() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    let first = client.say(None);
    let Heard::Challenge(challenge, _) = bench.receive(&first) else { panic!("a challenge") };
    let second = client.say(Some(&challenge));
    let Heard::Begins { slot, .. } = bench.receive(&second) else { panic!("a session") };
    bench.drain(slot);
    assert_eq!(bench.given_up_by(9), None);
    assert_eq!(bench.given_up_by(10), Some(slot));

    let (mut client, slot) = bench.connect();
    assert_eq!(bench.given_up_by(9), None);
    bench.exchange(&mut client, Some(b"frame"));
    assert_eq!(bench.given_up_by(59), None);
    assert_eq!(bench.given_up_by(60), Some(slot));

    let (mut client, slot) = bench.connect();
    bench.exchange(&mut client, Some(b"frame"));
    let tuple = bench.sessions.tuple_of(slot).expect("stands");
    bench.sessions.set_allocated(epoch(), &tuple, true);
    assert_eq!(bench.given_up_by(3600), None);
    bench.sessions.set_allocated(epoch() + Duration::from_secs(3600), &tuple, false);
    assert_eq!(bench.given_up_by(3720), Some(slot));
}

#[test]
fn sessions_of_one_address_are_bounded_and_give_their_places_back() {
    let mut bench = Bench::new();
    let held: Vec<_> = (0..2).map(|port| bench.connect_from(1000 + port).1).collect();
    let mut client = bench.client();
    let first = client.say(None);
    bench.from = "192.0.2.1:2000".parse().expect("an address");
    let Heard::Challenge(challenge, _) = bench.receive(&first) else { panic!("a challenge") };
    let second = client.say(Some(&challenge));
    assert_eq!(bench.receive(&second), Heard::Full);
    for slot in held {
        bench.sessions.remove(slot).expect("was there");
    }
    assert!(bench.admission.counts_nobody());
    assert!(matches!(bench.receive(&second), Heard::Begins { .. }));
}

#[test]
fn what_anybody_may_have_sent_does_not_touch_a_session() {
    let mut bench = Bench::new();
    let (mut client, slot) = bench.connect();
    // A ClientHello out of nowhere is challenged and changes nothing (RFC 6347 section 4.2.8).
    let stranger = bench.client().say(None);
    assert!(matches!(bench.receive(&stranger), Heard::Challenge(..)));
    // Alerts, handshake messages and data in the clear.
    for kind in [20, 21, 22, 23] {
        let forged = [kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 99, 0, 2, 2, 40];
        assert_eq!(bench.receive(&forged), Heard::Nothing, "{kind}");
    }
    // Encrypted rubbish.
    for kind in [20, 21, 22, 23] {
        let mut forged = vec![kind, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 99, 0, 40];
        forged.resize(53, 7);
        assert_eq!(bench.receive(&forged), Heard::Session(slot), "{kind}");
        assert!(bench.drain(slot).is_empty());
    }
    assert_eq!(bench.exchange(&mut client, Some(b"still here")), [b"still here".to_vec()]);
}

#[test]
fn a_client_that_begins_anew_at_its_old_address_replaces_its_session() {
    let mut bench = Bench::new();
    let (_, old) = bench.connect();
    let mut client = bench.client();
    let first = client.say(None);
    let Heard::Challenge(challenge, _) = bench.receive(&first) else { panic!("a challenge") };
    let second = client.say(Some(&challenge));
    let heard = bench.receive(&second);
    let Heard::Begins { slot, instead_of } = heard else { panic!("{heard:?}") };
    assert_eq!(instead_of, Some(old));
    let tuple = bench.sessions.remove(old).expect("was there");
    assert_eq!(bench.sessions.slot_of(&tuple), Some(slot));
}

#[test]
fn frames_that_wait_are_bounded_and_the_session_survives_it() {
    let mut bench = Bench::new();
    let (mut client, slot) = bench.connect();
    let taken = (0..200).filter(|_| bench.sessions.send(slot, &[7; 1200]).is_ok()).count();
    assert_eq!(taken, MAX_UNSENT);
    assert_eq!(bench.sessions.send(slot, &[7; MAX_RECORD + 1]), Err(Refused::Full));
    bench.settle(slot, &mut client);
    assert_eq!(client.heard.len(), MAX_UNSENT);
    assert_eq!(bench.sessions.send(slot, b"again"), Ok(()));
}

#[test]
fn keys_that_the_library_does_not_know_turn_dtls_off_and_others_are_found_behind_them() {
    let (ed25519, ecdsa) = (identity(&PKCS_ED25519), identity(&PKCS_ECDSA_P256_SHA256));
    assert!(offer::Offer::of(&[Arc::clone(&ed25519)]).is_none());
    assert!(offer::Offer::of(&[ed25519, ecdsa]).is_some());
}

fn identity(algorithm: &'static SignatureAlgorithm) -> Arc<Identity> {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let cert = params.self_signed(&key).expect("signed");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Arc::new(Identity::new(vec![cert.der().clone()], key.into()).expect("a pair"))
}

struct Bench {
    sessions: Sessions,
    admission: Arc<Admission>,
    identity: Arc<Identity>,
    from: SocketAddr,
    server: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let identity = identity(&PKCS_ECDSA_P256_SHA256);
        let certificates = Certificates::new(&[Arc::clone(&identity)]).expect("randomness");
        let rules = Rules { per_address: 2, ..Rules::default() };
        let admission = Arc::new(Admission::new(rules, certificates));
        Self {
            sessions: Sessions::new(Arc::clone(&admission), epoch(), [7; 32]),
            admission,
            identity,
            from: "192.0.2.1:1000".parse().expect("an address"),
            server: "198.51.100.1:3478".parse().expect("an address"),
        }
    }

    fn client(&self) -> Client {
        let certificate = DtlsCertificate {
            certificate: self.identity.chain()[0].to_vec(),
            private_key: self.identity.key().secret_der().to_vec(),
        };
        let config = Arc::new(Config::builder().build().expect("defaults"));
        let mut engine = Dtls::new_12(config, certificate, epoch());
        engine.set_active(true);
        engine.handle_timeout(epoch()).expect("begins");
        Client { engine, heard: Vec::new(), said: Vec::new() }
    }

    fn receive(&mut self, datagram: &[u8]) -> Heard {
        self.sessions.receive(epoch(), self.from, self.server, datagram)
    }

    fn connect_from(&mut self, port: u16) -> (Client, usize) {
        self.from.set_port(port);
        self.connect()
    }

    /// A client whose handshake is complete.
    fn connect(&mut self) -> (Client, usize) {
        let mut client = self.client();
        let first = client.say(None);
        let Heard::Challenge(challenge, _) = self.receive(&first) else { panic!("a challenge") };
        let second = client.say(Some(&challenge));
        let heard = self.receive(&second);
        let Heard::Begins { slot, .. } = heard else { panic!("{heard:?}") };
        while self.sessions.is_handshaking(slot) {
            self.settle(slot, &mut client);
            self.exchange(&mut client, None);
        }
        self.settle(slot, &mut client);
        (client, slot)
    }

    /// What the client says reaches the session; what came of it as frames.
    fn exchange(&mut self, client: &mut Client, frame: Option<&[u8]>) -> Vec<Vec<u8>> {
        if let Some(frame) = frame {
            client.engine.send_application_data(frame).expect("stands");
            client.poll();
        }
        let mut frames = Vec::new();
        for datagram in std::mem::take(&mut client.said) {
            if let Heard::Session(slot) = self.receive(&datagram) {
                for (is_frame, bytes) in self.drain(slot) {
                    if is_frame { frames.push(bytes) } else { client.hear(&bytes) }
                }
            }
        }
        frames
    }

    /// What the session says reaches the client.
    fn settle(&mut self, slot: usize, client: &mut Client) {
        for (is_frame, bytes) in self.drain(slot) {
            assert!(!is_frame, "nothing was asked");
            client.hear(&bytes);
        }
    }

    fn drain(&mut self, slot: usize) -> Vec<(bool, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let mut wanted = Vec::new();
        loop {
            match self.sessions.poll(slot, &mut buffer) {
                Wants::Sent(len) => wanted.push((false, buffer[..len].to_vec())),
                Wants::Heard(len) => wanted.push((true, buffer[..len].to_vec())),
                Wants::Removed | Wants::Nothing => return wanted,
            }
        }
    }

    /// Which session is given up, when everything until then is looked at in time.
    fn given_up_by(&mut self, seconds: u64) -> Option<usize> {
        let now = epoch() + Duration::from_secs(seconds);
        while let Some(heard) = self.sessions.overdue(now) {
            match heard {
                Heard::Session(slot) => drop(self.drain(slot)),
                Heard::Broken(slot) => {
                    self.sessions.remove(slot);
                    return Some(slot);
                }
                Heard::Challenge(..) | Heard::Begins { .. } | Heard::Full | Heard::Nothing => {
                    panic!("{heard:?}")
                }
            }
        }
        None
    }
}

/// The other end, in memory.
struct Client {
    engine: Dtls,
    heard: Vec<Vec<u8>>,
    said: Vec<Vec<u8>>,
}

impl Client {
    /// Its one datagram after hearing `answer`.
    fn say(&mut self, answer: Option<&[u8]>) -> Vec<u8> {
        if let Some(answer) = answer {
            self.engine.handle_packet(answer).expect("understood");
        }
        self.poll();
        assert_eq!(self.said.len(), 1, "one ClientHello");
        self.said.remove(0)
    }

    fn hear(&mut self, datagram: &[u8]) {
        self.engine.handle_packet(datagram).expect("understood");
        self.poll();
    }

    fn poll(&mut self) {
        let mut buffer = vec![0; 65_536];
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(bytes) => self.said.push(bytes.to_vec()),
                Output::ApplicationData(bytes) => self.heard.push(bytes.to_vec()),
                Output::Timeout(_) => return,
                Output::BufferTooSmall { .. }
                | Output::Connected
                | Output::PeerCert(_)
                | Output::KeyingMaterial(..)
                | Output::CloseNotify
                | _ => {}
            }
        }
    }
}
