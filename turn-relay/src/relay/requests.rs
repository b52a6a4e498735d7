//! Requests: who asks, may they, and what they get for an answer.

use std::time::{Duration, Instant, SystemTime};

use super::answers::Question;
use super::authenticate::Proved;
use super::contract::{DropReason, Event, Output, RequestMethod};
use super::refusal::Refusal;
use super::{Relay, Seat};
use crate::address::{FiveTuple, Subscriber};
use crate::credentials::{Authorization, Key, ThirdParty, holder, is_same_user};
use crate::frame::TransactionId;
use crate::stun::{self, Attribute, Message, NotARequest, Outcome, ReplyTo, Request};

/// Where an answer goes, and how it is signed and kept.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) from: FiveTuple,
    pub(super) method: RequestMethod,
    pub(super) username: Box<str>,
    pub(super) key: Key,
    pub(super) reply_to: ReplyTo,
    question: Question,
    /// When its credential ends what is granted.
    pub(super) until: Option<Instant>,
    /// When the request came.
    asked: Instant,
}

/// When a request came, by both clocks. It may have waited for the authorization hook since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
}

impl Asker {
    /// Whose address its allocations count for.
    pub(super) fn subscriber(&self) -> Subscriber {
        self.from.client.0.ip().into()
    }

    /// A lifetime, or what is left of the credential if that is less.
    pub(super) fn at_most(&self, now: Instant, lifetime: Duration) -> Duration {
        self.until.map_or(lifetime, |until| lifetime.min(until.saturating_duration_since(now)))
    }
}

impl Relay {
    /// `authorization` is what the hook said about the user, if it was asked.
    pub(super) fn message(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        bytes: &[u8],
        arrival: Arrival,
        authorization: Option<&Authorization>,
    ) {
        let mut message = match stun::parse(bytes) {
            Ok(message) => message,
            Err(NotARequest::OtherClass | NotARequest::OtherMethod) => {
                return self.dropped(DropReason::Unexpected);
            }
            Err(NotARequest::Malformed | NotARequest::WrongFingerprint) => {
                return self.dropped(DropReason::Malformed);
            }
        };
        if message.request == Request::Binding {
            return self.binding(now, from, message);
        }
        if self.settings.credentials.third_party().is_none() {
            message.without_access_token();
        }
        let question = self.answers.question(from, bytes);
        if let Some(answer) = self.answers.find(now, question) {
            return self.outputs.push(Output::Send { to: *from, message: answer });
        }
        // Its answer is under way, whatever became of its nonce meanwhile.
        if self.opening_of(from).is_some_and(|opening| opening.asker.question == question) {
            return self.dropped(DropReason::InProgress);
        }
        let proved = match self.authenticate(now, from, &message, arrival.wall, authorization) {
            Ok(proved) => proved,
            Err(Refusal::AskHook) => {
                let user = (message.username.unwrap_or_default(), message.transaction);
                return self.park(now, from, bytes, arrival, user);
            }
            Err(refusal) => return self.refuse_stranger(now, from, &message, refusal),
        };
        if message.access_token.is_some() {
            self.adopt(now, from, &proved);
        }
        let Proved { username, key, until } = proved;
        let method = method(&message.request);
        let reply_to = message.reply_to();
        let asker =
            Asker { from: *from, method, username, key, reply_to, question, until, asked: arrival.at };
        if self.shared.revocations().holds(now, &asker.username) {
            return self.refuse(now, &asker, Refusal::Revoked, &[]);
        }
        if let Err(refusal) = self.grant(now, &asker, message) {
            self.refuse(now, &asker, refusal, &[]);
        }
    }

    fn grant(&mut self, now: Instant, asker: &Asker, message: Message<'_>) -> Result<(), Refusal> {
        if !message.unknown.is_empty() {
            self.refuse(
                now,
                asker,
                Refusal::UnknownAttributes,
                &[Attribute::UnknownAttributes(&message.unknown)],
            );
            return Ok(());
        }
        if message.malformed {
            return Err(Refusal::ClientMalformed("an attribute has a wrong size or value"));
        }
        match message.request {
            Request::Allocate(request) => self.allocate(now, asker, &request),
            Request::Refresh(request) => self.refresh(now, asker, &request),
            Request::CreatePermission(peers) => self.create_permission(now, asker, &peers),
            Request::ChannelBind(request) => self.channel_bind(now, asker, &request),
            Request::Connect(to) => self.connect(now, asker, to),
            Request::ConnectionBind(id) => self.connection_bind(now, asker, id, message.bytes()),
            Request::Binding => Err(Refusal::ClientMalformed("Binding was answered before")),
        }
    }

    /// The allocation that the asker may change: its own, on this five-tuple.
    pub(super) fn own_allocation(&mut self, now: Instant, asker: &Asker) -> Result<usize, Refusal> {
        let index =
            self.standing(now, &asker.from).ok_or(Refusal::AllocationMismatch("there is no allocation"))?;
        // RFC 8656 section 5: the credentials that made it, and no others.
        if !is_same_user(&self.allocations[index].username, &asker.username) {
            return Err(Refusal::WrongCredentials);
        }
        // A signed request proves the new five-tuple of a client that moved at least as well as data does.
        self.settle_in_from(index, &asker.from);
        Ok(index)
    }

    /// Whether an allocation is being opened for this five-tuple.
    pub(super) fn opening_of(&self, from: &FiveTuple) -> Option<&super::Opening> {
        match self.seats.get(&from.key())? {
            Seat::Opening(open) => self.openings.get(open),
            Seat::Allocation(_) => None,
        }
    }

    pub(super) fn succeed(&mut self, now: Instant, asker: &Asker, attributes: &[Attribute<'_>]) {
        self.answer(now, asker, Outcome::Success, attributes);
        self.outputs.push(Output::Event(Event::Granted(asker.method)));
    }

    pub(super) fn refuse(
        &mut self,
        now: Instant,
        asker: &Asker,
        refusal: Refusal,
        attributes: &[Attribute<'_>],
    ) {
        self.answer(now, asker, Outcome::Error(refusal.code(), refusal.phrase()), attributes);
        self.report(&asker.from, asker.method, refusal);
    }

    fn answer(&mut self, now: Instant, asker: &Asker, outcome: Outcome, attributes: &[Attribute<'_>]) {
        let message = stun::respond(asker.reply_to, outcome, attributes, Some(&asker.key));
        self.answers.keep(now, asker.question, holder(&asker.username), &message);
        self.outputs.push(Output::Send { to: asker.from, message });
        if asker.method == RequestMethod::Allocate {
            self.outputs.push(Output::Event(Event::AllocateAnswered { asked: asker.asked }));
        }
    }

    /// Who holds an allocation over a connection proved both an address and an account.
    pub(super) fn may_answer_stranger(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
    ) -> bool {
        let proved = from.transport.is_connected() && self.standing(now, from).is_some();
        proved || self.limiter.allows(now, from, message.transaction)
    }

    /// Whether somebody who may have forged its address gets an answer that is not the core's own, a DTLS challenge: from the
    /// allowance of its prefix. By `attempt` it is known again when it repeats itself.
    pub fn may_challenge(&mut self, now: Instant, from: &FiveTuple, attempt: TransactionId) -> bool {
        self.limiter.allows(now, from, attempt)
    }

    /// An answer to somebody who may have forged the address it goes to: limited in rate, unsigned, as short as can be.
    fn refuse_stranger(&mut self, now: Instant, from: &FiveTuple, message: &Message<'_>, refusal: Refusal) {
        if !self.may_answer_stranger(now, from, message) {
            return self.dropped(DropReason::RateLimited);
        }
        if !refusal.challenges() {
            return self.refuse_stranger_now(from, message, refusal, &[]);
        }
        let settings = self.settings.clone();
        let features = settings.credentials.features();
        let nonce = self.nonces.issue(now, from, features);
        let mut challenge = vec![Attribute::Realm(settings.credentials.realm()), Attribute::Nonce(&nonce)];
        // An empty PASSWORD-ALGORITHMS would offer nothing.
        if !features.password_algorithms.is_empty() {
            challenge.push(Attribute::PasswordAlgorithms(features.password_algorithms));
        }
        let third_party = settings.credentials.third_party().map(ThirdParty::server_name);
        challenge.extend(third_party.map(Attribute::ThirdPartyAuthorization));
        self.refuse_stranger_now(from, message, refusal, &challenge);
    }

    pub(super) fn refuse_stranger_now(
        &mut self,
        from: &FiveTuple,
        message: &Message<'_>,
        refusal: Refusal,
        attributes: &[Attribute<'_>],
    ) {
        let unknown = Attribute::UnknownAttributes(&message.unknown);
        let attributes = if refusal == Refusal::UnknownAttributes { &[unknown] } else { attributes };
        let outcome = Outcome::Error(refusal.code(), "");
        let answer = stun::respond(message.reply_to(), outcome, attributes, None);
        self.outputs.push(Output::Send { to: *from, message: answer });
        self.report(from, method(&message.request), refusal);
    }

    fn report(&mut self, client: &FiveTuple, method: RequestMethod, refusal: Refusal) {
        let event = if refusal == Refusal::Challenge {
            Event::Challenged(method)
        } else {
            Event::Refused { client: *client, method, code: refusal.code(), reason: refusal.reason() }
        };
        self.outputs.push(Output::Event(event));
    }

    pub(super) fn dropped(&mut self, reason: DropReason) {
        self.outputs.push(Output::Event(Event::Dropped(reason)));
    }
}

fn method(request: &Request) -> RequestMethod {
    match request {
        Request::Binding => RequestMethod::Binding,
        Request::Allocate(_) => RequestMethod::Allocate,
        Request::Refresh(_) => RequestMethod::Refresh,
        Request::CreatePermission(_) => RequestMethod::CreatePermission,
        Request::ChannelBind(_) => RequestMethod::ChannelBind,
        Request::Connect(_) => RequestMethod::Connect,
        Request::ConnectionBind(_) => RequestMethod::ConnectionBind,
    }
}
