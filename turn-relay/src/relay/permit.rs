//! CreatePermission (RFC 8656 section 10) and ChannelBind (section 12.2): who may be reached through an allocation.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Relay;
use super::allocation::{Protocol, Unbindable};
use super::peers::Reach;
use super::refusal::Refusal;
use super::requests::Asker;
use crate::address::PeerAddr;
use crate::stun::ChannelBind;

/// RFC 8656 section 12; RFC 5766 ended the range at 0x7FFF.
const RFC8656_LAST_CHANNEL: u16 = 0x4FFF;

impl Relay {
    /// All of the peers or none.
    pub(super) fn create_permission(
        &mut self,
        now: Instant,
        asker: &Asker,
        peers: &[SocketAddr],
    ) -> Result<(), Refusal> {
        let index = self.own_allocation(now, asker)?;
        if peers.is_empty() {
            return Err(Refusal::ClientMalformed("CreatePermission without XOR-PEER-ADDRESS"));
        }
        let mut permitted = Vec::with_capacity(peers.len());
        for peer in peers {
            let peer = self.peers.inward(*peer);
            permitted.push((peer.ip(), self.reach(index, peer)?));
        }
        self.meet(now, index, permitted.iter().map(|(ip, _)| (*ip, 0)))?;
        self.install(now, index, &permitted)?;
        self.touch(index);
        self.succeed(now, asker, &[]);
        Ok(())
    }

    pub(super) fn channel_bind(
        &mut self,
        now: Instant,
        asker: &Asker,
        request: &ChannelBind,
    ) -> Result<(), Refusal> {
        let index = self.own_allocation(now, asker)?;
        if self.allocations[index].protocol != Protocol::Udp {
            return Err(Refusal::NoChannels);
        }
        let (Some(number), Some(peer)) = (request.channel, request.peer) else {
            return Err(Refusal::ClientMalformed("ChannelBind without CHANNEL-NUMBER or XOR-PEER-ADDRESS"));
        };
        if self.settings.strict_channels && number.get() > RFC8656_LAST_CHANNEL {
            return Err(Refusal::ClientMalformed("the channel number is above 0x4FFF"));
        }
        let peer = self.peers.inward(peer);
        let reach = self.reach(index, peer)?;
        if !self.peers.may_reach(reach, peer, Protocol::Udp, &self.shared) {
            return Err(Refusal::PeerForbidden);
        }
        let limit = self.settings.limits.channels;
        self.allocations[index].check_bind(now, number, peer, limit).map_err(unbindable)?;
        self.meet(now, index, [(peer.ip(), peer.port())].into_iter())?;
        self.install(now, index, &[(peer.ip(), reach)])?;
        self.allocations[index].bind(now, number, peer);
        self.touch(index);
        self.succeed(now, asker, &[]);
        Ok(())
    }

    pub(super) fn reach(&self, index: usize, peer: PeerAddr) -> Result<Reach, Refusal> {
        if self.allocations[index].relayed.towards(peer.ip()).is_none() {
            return Err(Refusal::PeerFamilyMismatch);
        }
        self.peers.reach(peer.ip()).ok_or(Refusal::PeerForbidden)
    }

    /// Counts the peers that are new.
    pub(super) fn meet(
        &mut self,
        now: Instant,
        index: usize,
        peers: impl Iterator<Item = (IpAddr, u16)>,
    ) -> Result<(), Refusal> {
        let allocation = &mut self.allocations[index];
        if self.rates.may_meet(now, &mut allocation.meter, allocation.user, peers) {
            return Ok(());
        }
        Err(Refusal::Capacity("more new peers in a minute than one may have"))
    }

    fn install(&mut self, now: Instant, index: usize, permitted: &[(IpAddr, Reach)]) -> Result<(), Refusal> {
        let limit = self.settings.limits.permissions;
        self.allocations[index].permit(now, permitted, limit).map_err(unbindable)
    }
}

fn unbindable(why: Unbindable) -> Refusal {
    match why {
        Unbindable::NumberTaken => Refusal::ClientMalformed("the channel is bound to another peer"),
        Unbindable::PeerTaken => Refusal::ClientMalformed("the peer is bound to another channel"),
        Unbindable::TooMany => {
            Refusal::Capacity("the allocation has as many permissions or channels as one may have")
        }
    }
}
