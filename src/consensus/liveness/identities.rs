//! Whether this node and its peers are the members they say they are, and where they are.
//!
//! Why: a copy of a member's disk says the same of itself as the member does. What it cannot have is the member's address
//! while the member is there, and the lives that others have spoken to since. So a node that finds itself elsewhere than its
//! cluster has recorded waits for somebody's word, and a conflict of lives is told to whoever looks at the node.
//!
//! Laws: nothing is concluded from a peer's word that this node is refused: it may be wrong, and the connection is not had
//! anyway. Where a majority refuses it, no quorum can be had with this node, so it neither leads, nor commits, nor confirms a
//! read.
//!
//! Not here: the rule (`model::BootHistory`), what is known (`storage::Peers`), and who is let in (`transport`).

use std::collections::BTreeMap;

use slog::warn;

use crate::consensus::core::Phase;
use crate::consensus::core::client_request::ClientRequest;
use crate::consensus::driver::Driver;
use crate::consensus::input::Hop;
use crate::model::Millis;
use crate::model::Request;
use crate::storage::Error;

/// How often a member that moved asks the leader to note it.
const ANNOUNCE_EVERY: Millis = 2_000;

/// How often the log says what has to be done where nobody follows it.
const REMIND_EVERY: Millis = 10_000;

/// How long a conflict is shown after it was heard of last; connections are tried more often than that.
const SHOWN: Millis = 30_000;

/// Conflicts that were heard of lately, by the peer and whether it is this node that is refused; and what was said of this
/// node's address.
#[derive(Default)]
pub(crate) struct Identities {
    conflicts: BTreeMap<(u64, bool), (String, Millis)>,
    announced: Option<Millis>,
}

impl Driver {
    /// A conflict with this peer has been found, here or there.
    pub(crate) fn identity_conflict(&mut self, raft_id: u64, of_this_node: bool, detail: String) {
        if self.core.state_machine.members().get(raft_id).is_some() {
            self.identities.conflicts.insert((raft_id, of_this_node), (detail, self.core.now));
        }
    }

    /// The connection to this peer is up, so both are who they are.
    pub(crate) fn identity_agreed(&mut self, raft_id: u64) {
        self.identities.conflicts.retain(|(peer, _), _| *peer != raft_id);
    }

    /// What is to be shown, a line each.
    pub(crate) fn identity_conflicts(&self) -> Vec<String> {
        let recent = self.identities.conflicts.iter().filter(|(_, (_, heard))| self.core.now < heard + SHOWN);
        recent
            .map(|((raft_id, of_this_node), (detail, _))| {
                let peer = self.core.name_of(*raft_id);
                if *of_this_node {
                    format!("{peer} refuses this node: its {detail}")
                } else {
                    format!("what speaks as {peer} is refused: its {detail}")
                }
            })
            .collect()
    }

    /// A member that was started on other addresses than it last advertised has the table say so: by its own word where it
    /// is followed, where it leads, or where only its clients' address is another; else somebody has to give theirs.
    pub(crate) fn announce_addresses(&mut self) -> Result<(), Error> {
        let Some(row) = self.core.state_machine.members().get(self.core.raft_id()).cloned() else { return Ok(()) };
        // A move that was asked for long ago may be recorded after a later one, or after the way back.
        let overtaken =
            row.raft_address != self.core.options.raft_address && (self.core.options.follow_moves || self.core.leads());
        let moved = self.core.has_moved() || overtaken;
        let http_address = self.core.options.http_address.clone();
        if self.core.phase != Phase::Member {
            return Ok(());
        }
        if !moved && row.http_address == http_address {
            return self.addresses_are_recorded();
        }
        let waits = moved && !self.core.options.follow_moves && !self.core.leads();
        let every = if waits { REMIND_EVERY } else { ANNOUNCE_EVERY };
        if self.identities.announced.is_some_and(|at| self.core.now < at + every) {
            return Ok(());
        }
        if waits {
            self.identities.announced = Some(self.core.now);
            warn!(self.core.log, "this node's raft address is not the one that its cluster has for it, and nobody follows it by its \
                own word; start it at the old address again, or POST the new one on a member: /raft/join \
                {{\"node_id\": \"{}\", \"raft_address\": \"{}\"}}", row.name, self.core.options.raft_address;
                "recorded" => &row.raft_address);
            return Ok(());
        }
        if self.core.raw.raft.leader_id == 0 {
            return Ok(());
        }
        self.identities.announced = Some(self.core.now);
        let raft_address = if moved { self.core.options.raft_address.clone() } else { row.raft_address };
        let log = self.core.log.clone();
        self.request(ClientRequest {
            request: Request::Move { raft_id: row.raft_id, raft_address, http_address },
            deadline: self.core.now + 4 * ANNOUNCE_EVERY,
            hop: Hop::Client,
            doubt: false,
            reply: Box::new(move |result| {
                if let Err(refusal) = result {
                    warn!(log, "the cluster has not noted this node's new addresses yet"; "detail" => refusal.detail);
                }
            }),
        });
        Ok(())
    }

    /// The table has this node where it is: that is what it tells others from now on.
    fn addresses_are_recorded(&mut self) -> Result<(), Error> {
        let (raft_address, http_address) = (&self.core.options.raft_address, &self.core.options.http_address);
        let identity = self.core.data_dir.identity();
        if identity.raft_address == *raft_address && identity.http_address == *http_address {
            return Ok(());
        }
        let (raft_address, http_address) = (raft_address.clone(), http_address.clone());
        self.core.data_dir.update(|identity| {
            identity.raft_address = raft_address;
            identity.http_address = http_address;
        })?;
        self.core.publish();
        Ok(())
    }
}
