//! Binding (RFC 8489), and what NAT behaviour discovery (RFC 5780) adds to it where it is on: answers from the other address
//! or port, to another port of the client, and padded.
//!
//! Nobody here has proved an address. So all of it stands behind the limit on unauthenticated answers; padding is never longer
//! than what came; and the port that an answer is turned to is none of those that well-known services have.

use std::time::Instant;

use super::Relay;
use super::contract::{DropReason, Event, Output, RequestMethod};
use super::refusal::Refusal;
use crate::address::{ClientAddr, FiveTuple, Transport};
use crate::stun::{self, Attribute, Message, Outcome};

impl Relay {
    /// RFC 8489 section 6.3.1 and 12: no credentials, no state.
    pub(super) fn binding(&mut self, now: Instant, from: &FiveTuple, mut message: Message<'_>) {
        if !self.may_answer_stranger(now, from, &message) {
            return self.dropped(DropReason::RateLimited);
        }
        let discovery = self.settings.nat_discovery.filter(|_| from.transport == Transport::Udp);
        let other = discovery.and_then(|discovery| discovery.changed(from.server, true, true));
        let (Some(discovery), Some(other)) = (discovery, other) else {
            // RFC 5780 section 6.1: who does not do it does not know the attributes either.
            message.unknown.append(&mut message.discovery.kinds);
            return self.plain_binding(from, &message);
        };
        if !message.unknown.is_empty() {
            return self.refuse_stranger_now(from, &message, Refusal::UnknownAttributes, &[]);
        }
        let asked = &message.discovery;
        // Section 7.6: PADDING and RESPONSE-PORT exclude each other.
        let contradiction = asked.padding.is_some() && asked.response_port.is_some();
        if asked.malformed || contradiction || asked.response_port.is_some_and(|port| port < FIRST_PORT) {
            let refusal =
                Refusal::ClientMalformed("attributes of NAT discovery that are malformed or unsafe");
            return self.refuse_stranger_now(from, &message, refusal, &[]);
        }
        let origin =
            discovery.changed(from.server, asked.change_ip, asked.change_port).unwrap_or(from.server);
        let client = from.client.0;
        let mut attributes = vec![
            Attribute::XorMappedAddress(client),
            Attribute::MappedAddress(client),
            Attribute::ResponseOrigin(origin),
            Attribute::OtherAddress(other),
        ];
        attributes.extend(asked.padding.map(|bytes| Attribute::Padding(bytes.min(MAX_PADDING))));
        let mut to = FiveTuple { server: origin, ..*from };
        if let Some(port) = asked.response_port {
            let mut address = client;
            address.set_port(port);
            to.client = ClientAddr(address);
        }
        self.answer_binding(to, &message, &attributes);
    }

    fn plain_binding(&mut self, from: &FiveTuple, message: &Message<'_>) {
        if !message.unknown.is_empty() {
            return self.refuse_stranger_now(from, message, Refusal::UnknownAttributes, &[]);
        }
        self.answer_binding(*from, message, &[Attribute::XorMappedAddress(from.client.0)]);
    }

    fn answer_binding(&mut self, to: FiveTuple, message: &Message<'_>, attributes: &[Attribute<'_>]) {
        let answer = stun::respond(message.reply_to(), Outcome::Success, attributes, None);
        self.outputs.push(Output::Send { to, message: answer });
        self.outputs.push(Output::Event(Event::Granted(RequestMethod::Binding)));
    }
}

/// RFC 6335 section 6: below are the system ports, where an unasked answer could mean something.
const FIRST_PORT: u16 = 1024;
/// RFC 5780 section 7.6: more than the MTU of the way out, so that the answer comes in fragments. Ethernet's is 1,500.
const MAX_PADDING: usize = 1504;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::testing::*;
    use super::super::*;
    use crate::address::Transport;

    const CHANGE_REQUEST: u16 = 0x0003;
    const PADDING: u16 = 0x0026;
    const RESPONSE_PORT: u16 = 0x0027;
    const MAPPED: u16 = 0x0001;
    const RESPONSE_ORIGIN: u16 = 0x802B;
    const OTHER_ADDRESS: u16 = 0x802C;

    const ADDRESSES: [&str; 4] =
        ["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478", "198.51.100.2:3479"];

    fn world() -> World {
        let discovery = NatDiscovery { primary: addr(ADDRESSES[0]), alternate: addr(ADDRESSES[3]) };
        World::with(RelaySettings { nat_discovery: Some(discovery), ..settings() }, 1)
    }

    fn at(server: &str) -> FiveTuple {
        FiveTuple { server: addr(server), ..tuple(1) }
    }

    /// Where the answer went, through which of our addresses, and the answer.
    fn ask(world: &mut World, from: &FiveTuple, draft: Draft) -> (FiveTuple, Answer) {
        world.send(from, &draft.bytes());
        world.sent.last().cloned().expect("an answer")
    }

    fn address(answer: &Answer, kind: u16) -> Option<SocketAddr> {
        let value = answer.attribute(kind)?;
        let ip: [u8; 4] = value[4..8].try_into().unwrap();
        Some((ip, u16::from_be_bytes([value[2], value[3]])).into())
    }

    #[test]
    fn discovery_answers_from_the_address_and_port_that_are_asked_for() {
        let mut world = world();
        // Which of the four answers, by the flags "change IP" and "change port", for each of the four that are asked.
        let flags = [0x00, 0x02, 0x04, 0x06];
        for (asked, answering) in [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]].iter().enumerate()
        {
            for (flag, expected) in flags.iter().zip(answering) {
                let draft = Draft::new(BINDING, 1).with(CHANGE_REQUEST, &[0, 0, 0, *flag]);
                let (to, answer) = ask(&mut world, &at(ADDRESSES[asked]), draft);
                let expected = addr(ADDRESSES[*expected]);
                assert_eq!((to.client, to.server), (tuple(1).client, expected), "{asked} {flag}");
                assert_eq!(address(&answer, RESPONSE_ORIGIN), Some(expected));
                assert_eq!(address(&answer, OTHER_ADDRESS), Some(addr(ADDRESSES[3 - asked])));
                assert_eq!(address(&answer, MAPPED), Some(tuple(1).client.0));
            }
        }
    }

    #[test]
    fn discovery_pads_no_more_than_it_was_sent_and_turns_to_no_system_port() {
        let mut world = world();
        for (sent, returned) in [(0, 0), (700, 700), (1504, 1504), (3000, 1504)] {
            let draft = Draft::new(BINDING, 1).with(PADDING, &vec![0; sent]);
            let (_, answer) = ask(&mut world, &at(ADDRESSES[0]), draft);
            assert_eq!(answer.attribute(PADDING).map(|padding| padding.len()), Some(returned));
        }
        let to_port = |port: u16| {
            Draft::new(BINDING, 1).with(RESPONSE_PORT, &[&port.to_be_bytes()[..], &[0, 0]].concat())
        };
        let (to, answer) = ask(&mut world, &at(ADDRESSES[0]), to_port(4000));
        assert!(answer.is_success());
        assert_eq!(to.client.0, SocketAddr::new(tuple(1).client.0.ip(), 4000));
        let (to, answer) = ask(&mut world, &at(ADDRESSES[0]), to_port(53));
        assert_eq!((to.client, answer.code()), (tuple(1).client, 400));
        let both = to_port(4000).with(PADDING, &[0; 8]);
        assert_eq!(ask(&mut world, &at(ADDRESSES[0]), both).1.code(), 400);
        let short = Draft::new(BINDING, 1).with(CHANGE_REQUEST, &[0, 0]);
        assert_eq!(ask(&mut world, &at(ADDRESSES[0]), short).1.code(), 400);
    }

    #[test]
    fn without_discovery_or_at_another_address_or_over_tcp_its_attributes_are_unknown() {
        let draft = || Draft::new(BINDING, 1).with(CHANGE_REQUEST, &[0, 0, 0, 6]);
        let mut off = World::new();
        let elsewhere = at("198.51.100.3:3478");
        let stream = FiveTuple { transport: Transport::Tcp, ..at(ADDRESSES[0]) };
        let asked = [
            ask(&mut off, &tuple(1), draft()),
            ask(&mut world(), &elsewhere, draft()),
            ask(&mut world(), &stream, draft()),
        ];
        for (_, answer) in asked {
            assert_eq!(answer.code(), 420);
            assert_eq!(answer.attribute(0x000A), Some(vec![0, 3]));
        }
        let (_, answer) = ask(&mut world(), &elsewhere, Draft::new(BINDING, 1));
        assert_eq!((answer.is_success(), answer.attribute(OTHER_ADDRESS)), (true, None));
    }

    #[test]
    fn discovery_is_limited_like_any_answer_to_a_stranger() {
        let mut world = world();
        let change = Draft::new(BINDING, 1).with(CHANGE_REQUEST, &[0, 0, 0, 6]).bytes();
        for _ in 0..1000 {
            world.send(&at(ADDRESSES[0]), &change);
        }
        assert_eq!(world.sent.len(), 400);
    }
}
