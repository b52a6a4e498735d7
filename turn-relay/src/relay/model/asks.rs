//! What clients of the model ask for.

use std::net::SocketAddr;

use rand::RngExt as _;

use super::{Asked, Intent, Model, named};
use crate::address::FiveTuple;
use crate::relay::testing::*;

impl Model {
    fn lifetime(&mut self, draft: Draft) -> Draft {
        match self.rng.random_range(0..4) {
            0 => draft,
            1 => draft.lifetime(2000),
            2 => draft.lifetime(900),
            _ => draft.lifetime(100_000),
        }
    }

    pub(super) fn ask_allocate(&mut self) {
        let mut from = self.client();
        if self.known.contains_key(&from) && self.rng.random_bool(0.7) {
            from = self.client();
        }
        let draft = self.lifetime(Draft::new(ALLOCATE, 0).udp());
        let fresh = self.tokens.last().filter(|(_, _, at)| self.world.now < *at + secs(40)).cloned();
        if let Some((token, who, _)) = fresh.filter(|_| self.rng.random_bool(0.7)) {
            let who = self.rng.random_bool(0.9).then(|| named(&who));
            return self.ask_as(from, who, draft.with(0x0022, &token), Intent::Allocate);
        }
        let draft = match self.rng.random_range(0..11) {
            8..=10 => draft.with(0x8000, &[2, 0, 0, 0]),
            0 => draft.with(0x0018, &[0]),
            1..=3 => draft.with(0x0018, &[0x80]),
            4 => draft.with(0x0022, &self.rng.random::<[u8; 8]>()),
            5 => draft.with(0x0017, &[2, 0, 0, 0]),
            _ => draft,
        };
        self.ask(from, draft, Intent::Allocate);
    }

    pub(super) fn ask_refresh(&mut self) {
        let from = self.settled_client();
        let draft = Draft::new(REFRESH, 0);
        let draft = if self.rng.random_bool(0.5) { draft.lifetime(0) } else { self.lifetime(draft) };
        self.ask(from, draft, Intent::Refresh);
    }

    pub(super) fn ask_permit(&mut self) {
        let from = self.settled_client();
        let peers: Vec<SocketAddr> = (0..self.rng.random_range(1..3)).map(|_| self.peer()).collect();
        let draft =
            peers.iter().fold(Draft::new(CREATE_PERMISSION, 0), |draft, peer| draft.peer(&peer.to_string()));
        self.ask(from, draft, Intent::Permit(peers));
    }

    pub(super) fn ask_bind(&mut self) {
        let (from, peer, number) = (self.settled_client(), self.peer(), self.channel());
        let draft = Draft::new(CHANNEL_BIND, 0).channel(number).peer(&peer.to_string());
        self.ask(from, draft, Intent::Bind(number, peer));
    }

    fn ask(&mut self, from: FiveTuple, draft: Draft, intent: Intent) {
        self.ask_as(from, None, draft, intent);
    }

    fn ask_as(&mut self, from: FiveTuple, who: Option<Account>, draft: Draft, intent: Intent) {
        // Mostly the owner of the allocation, so that requests are refused for better reasons than a wrong name.
        let owner =
            self.known.get(&from).filter(|_| self.rng.random_bool(0.9)).map(|known| named(&known.who));
        let who = who.or(owner).unwrap_or_else(|| self.account());
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[4..].copy_from_slice(&self.transactions.to_be_bytes());
        let nonce = self.nonce(&from);
        let bytes = draft.retarget(transaction).sign(&who, &nonce).bytes();
        let asked = Asked { who: who.name, intent, bytes: bytes.clone(), answer: None };
        self.asked.insert((from, transaction), asked);
        self.last_asked.push((from, transaction));
        self.deliver(from, &bytes);
    }
}
