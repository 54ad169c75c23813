//! Authentication: what a connection proves about the peer at its other end.
//!
//! Why: with TLS the certificate says who a peer is; which raft ids it may use follows from the member table, and for nodes that the
//! table does not have yet, from members and leaders that are known.
//!
//! Invariants: a member that has spoken TLS is taken, and dialled, in no other way again. Without TLS nothing is proven, and nothing
//! is checked.
//!
//! See also: `admission` (the rules themselves), [`crate::trust::peer_tls`] (the handshake).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::dial::Target;
use super::{Denial, Hello, InboundPeer};
use crate::model::PeerTable;
use crate::storage::Peers;
use crate::transport::admission::{check_certified, is_member};
use crate::trust::Mode;
use crate::trust::peer_tls::PeerTls;

/// Who may speak on which connection.
pub struct Authentication {
    /// TLS of the peer port.
    pub tls: Option<Arc<PeerTls>>,
    peers: Arc<Peers>,
    introductions: Mutex<Introductions>,
}

/// What known nodes have said of others.
#[derive(Default)]
struct Introductions {
    /// The raft id and the certified name of the leader whose offer this node has accepted last: a joiner has no table that
    /// names it.
    offered_by: Option<(u64, String)>,
    /// The members, raft id and name, that each member has told this node of.
    members: BTreeMap<u64, Vec<(u64, String)>>,
}

impl Introductions {
    /// Whether this node believes a peer about other members: it is one, or the leader whose offer a joiner has accepted.
    fn is_believed(&self, table: &PeerTable, raft_id: u64) -> bool {
        let offered = || self.offered_by.as_ref().is_some_and(|(leader, _)| *leader == raft_id);
        table.lists(raft_id) || table.joining && offered()
    }

    /// Whether a present member has told of another one.
    fn is_told_of(&self, table: &PeerTable, raft_id: u64, name: &str) -> bool {
        self.members.iter().any(|(member, members)| {
            self.is_believed(table, *member)
                && members.iter().any(|(id, other)| (*id, other.as_str()) == (raft_id, name))
        })
    }
}

impl Authentication {
    /// With TLS or without; `peers` has which members have spoken it.
    pub fn new(tls: Option<Arc<PeerTls>>, peers: Arc<Peers>) -> Self {
        Self { tls, peers, introductions: Mutex::default() }
    }

    fn introductions(&self) -> MutexGuard<'_, Introductions> {
        self.introductions.lock().expect("no panic while the lock is held")
    }

    /// Whom a dial of the member `raft_id` means, or of any node of the cluster.
    pub fn target(&self, table: Option<&PeerTable>, raft_id: Option<u64>) -> Target {
        let name = raft_id.and_then(|raft_id| table?.name_of(raft_id).cloned());
        let by_name = name.as_ref().is_some_and(|name| self.peers.spoke_tls_as(name));
        let spoke_tls = by_name || raft_id.is_some_and(|raft_id| self.peers.spoke_tls(raft_id));
        Target { tls: self.tls.clone(), name, spoke_tls }
    }

    /// Whom a dial of a node means that is no member yet and is called `name`.
    pub fn target_named(&self, name: &str) -> Target {
        Target { tls: self.tls.clone(), name: Some(name.to_owned()), spoke_tls: self.peers.spoke_tls_as(name) }
    }

    /// Whether a node that has answered in plain cannot be the one of this name, because that has spoken TLS before.
    pub fn is_downgrade(&self, name: &str, certified: Option<&str>) -> bool {
        self.tls.is_some() && certified.is_none() && self.peers.spoke_tls_as(name)
    }

    /// Remembers the certified leader whose offer was accepted.
    pub fn accepted_offer_of(&self, raft_id: u64, name: &str) {
        self.introductions().offered_by = Some((raft_id, name.to_owned()));
    }

    /// Stores the members that the member `from` has told this node of.
    pub fn told_members(&self, table: &PeerTable, from: u64, members: Vec<(u64, String)>) {
        let mut introductions = self.introductions();
        if introductions.is_believed(table, from) {
            introductions.members.retain(|member, _| table.lists(*member));
            introductions.members.insert(from, members);
        }
    }

    /// Checks what the kind of connection and the certificate prove, whatever the peer wants.
    ///
    /// # Errors
    /// [`Denial`], to be sent back.
    pub fn check(&self, table: Option<&PeerTable>, peer: &InboundPeer) -> Result<(), Denial> {
        if peer.certified.is_none() {
            // A member that has spoken TLS speaks it for ever: a plain connection in its name is another's, or passes through one.
            let Hello { from, node_id, .. } = &peer.hello;
            let spoke = || self.peers.spoke_tls(*from) || self.peers.spoke_tls_as(node_id);
            let required = self.tls.as_ref().is_some_and(|tls| tls.mode() == Mode::On || spoke());
            return if required { Err(Denial::TlsRequired) } else { Ok(()) };
        }
        check_certified(table, peer)
    }

    /// As [`Authentication::check`], and that it may speak as a member.
    ///
    /// # Errors
    /// [`Denial`], to be sent back.
    pub fn check_member(&self, table: Option<&PeerTable>, peer: &InboundPeer) -> Result<(), Denial> {
        self.check(table, peer)?;
        let (Some(certified), Some(table)) = (&peer.certified, table) else { return Ok(()) };
        let (from, introductions) = (peer.hello.from, self.introductions());
        let leader = introductions.offered_by.as_ref().map(|(raft_id, name)| (*raft_id, name.as_str()));
        if is_member(table, from, certified, leader, || introductions.is_told_of(table, from, certified)) {
            return Ok(());
        }
        Err(Denial::Unlisted)
    }
}
