//! Identity conflicts, and changed addresses of this node.
//!
//! Why: a copy of a member's disk says the same of itself as the member does. What it cannot have is the member's
//! address while the member is there, and the lives that others have spoken to since. So a node that finds itself
//! elsewhere than its cluster has recorded waits for an operator, and a conflict of incarnations is shown in the status
//! of the node.
//!
//! Invariants: nothing is concluded from a peer's word that this node is refused: it may be wrong, and the connection
//! is not had anyway. Where a majority refuses it, no quorum can be had with this node, so it neither leads, nor
//! commits, nor confirms a read.
//!
//! See also: the rule (`model::BootHistory`), what is known (`storage::Peers`), and who is let in (`transport`).

use std::collections::BTreeMap;

use slog::warn;

use crate::consensus::core::client_request::ClientRequest;
use crate::consensus::core::{Core, Phase};
use crate::consensus::input::Hop;
use crate::model::Millis;
use crate::model::Request;
use crate::storage::Error;

/// How often a member that moved asks the leader to note it.
const ANNOUNCE_EVERY: Millis = 2_000;

/// How often the log says what has to be done where no member follows it.
const REMIND_EVERY: Millis = 10_000;

/// How long a conflict is shown after it was heard of last; connections are tried more often than that.
const SHOWN: Millis = 30_000;

/// Conflicts that were heard of lately, by the peer and whether it is this node that is refused; and what was said of
/// this node's address.
#[derive(Default)]
pub(crate) struct Identities {
    conflicts: BTreeMap<(u64, bool), (String, Millis)>,
    announced: Option<Millis>,
}

impl Identities {
    /// A conflict with this peer has been found, here or there.
    pub fn identity_conflict(&mut self, core: &Core, raft_id: u64, of_this_node: bool, detail: String) {
        if core.state_machine.members().get(raft_id).is_some() {
            self.conflicts.insert((raft_id, of_this_node), (detail, core.now));
        }
    }

    /// The connection to this peer is up, so both are who they are.
    pub fn identity_agreed(&mut self, raft_id: u64) {
        self.conflicts.retain(|(peer, _), _| *peer != raft_id);
    }

    /// What is to be shown, a line each.
    pub fn identity_conflicts(&self, core: &Core) -> Vec<String> {
        let recent = self.conflicts.iter().filter(|(_, (_, heard))| core.now < heard + SHOWN);
        recent
            .map(|((raft_id, of_this_node), (detail, _))| {
                let peer = core.name_of(*raft_id);
                if *of_this_node {
                    format!("{peer} refuses this node: its {detail}")
                } else {
                    format!("what speaks as {peer} is refused: its {detail}")
                }
            })
            .collect()
    }

    /// A member that was started on other addresses than it last advertised has the table say so: by its own word where
    /// it is followed, where it leads, or where only its clients' address is another; else an operator has to POST it.
    pub fn announce_addresses(&mut self, core: &mut Core) -> Result<Option<ClientRequest>, Error> {
        let Some(row) = core.state_machine.members().get(core.raft_id()).cloned() else { return Ok(None) };
        // A move that was asked for long ago may be recorded after a later one, or after the way back.
        let overtaken = row.raft_address != core.options.raft_address && (core.options.follow_moves || core.leads());
        let moved = core.has_moved() || overtaken;
        let http_address = core.options.http_address.clone();
        if core.phase != Phase::Member {
            return Ok(None);
        }
        if !moved && row.http_address == http_address {
            return addresses_are_recorded(core).map(|()| None);
        }
        // Which address has moved decides who may say so. The clients' address: the node itself. The raft address: a
        // leader itself, a follower only with cluster.follow_moves; otherwise an operator, since a copy of its disk
        // would say the same.
        let waits = moved && !core.options.follow_moves && !core.leads();
        let every = if waits { REMIND_EVERY } else { ANNOUNCE_EVERY };
        if self.announced.is_some_and(|at| core.now < at + every) {
            return Ok(None);
        }
        if waits {
            self.announced = Some(core.now);
            warn!(core.log, "this node's raft address is not the one that its cluster has for it, and no member follows it by its \
                own word; start it at the old address again, or POST the new one on a member: /raft/join \
                {{\"node_id\": \"{}\", \"raft_address\": \"{}\"}}", row.name, core.options.raft_address;
                "recorded" => &row.raft_address);
            return Ok(None);
        }
        if core.raw.raft.leader_id == 0 {
            return Ok(None);
        }
        self.announced = Some(core.now);
        let raft_address = if moved { core.options.raft_address.clone() } else { row.raft_address };
        let log = core.log.clone();
        Ok(Some(ClientRequest {
            request: Request::Move { raft_id: row.raft_id, raft_address, http_address },
            since: core.now,
            deadline: core.now + 4 * ANNOUNCE_EVERY,
            hop: Hop::Client,
            maybe_applied: false,
            reply: Box::new(move |result| {
                if let Err(refusal) = result {
                    warn!(log, "the cluster has not noted this node's new addresses yet"; "detail" => refusal.detail);
                }
            }),
        }))
    }
}

/// The table has this node where it is: that is what it tells others from now on.
fn addresses_are_recorded(core: &mut Core) -> Result<(), Error> {
    let (raft_address, http_address) = (&core.options.raft_address, &core.options.http_address);
    let identity = core.data_dir.identity();
    if identity.raft_address == *raft_address && identity.http_address == *http_address {
        return Ok(());
    }
    let (raft_address, http_address) = (raft_address.clone(), http_address.clone());
    core.data_dir.update(|identity| {
        identity.raft_address = raft_address;
        identity.http_address = http_address;
    })?;
    core.publish();
    Ok(())
}
