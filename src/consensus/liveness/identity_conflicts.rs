//! Identity conflicts (two processes with one member's identity), and changed addresses of this node.
//!
//! Why: a clone of a member's disk has the same identity. It cannot have the member's address while the member is
//! running, nor the boot ids that others have recorded since. So a node at another address than the recorded one waits
//! for an operator, and an identity conflict is shown in the status.
//!
//! Invariants: a peer's report that this node is refused has no further effect: it may be wrong, and there is no
//! connection anyway. A node that a majority refuses gets no quorum, so it neither leads, nor commits, nor confirms a
//! read.
//!
//! See also: `model::BootHistory` (the rule), `storage::Peers` (the records), `transport` (admission).

use std::collections::BTreeMap;

use slog::warn;

use crate::consensus::core::pending_request::ClientRequest;
use crate::consensus::core::{Core, Phase};
use crate::consensus::input::Hop;
use crate::model::Millis;
use crate::model::Request;
use crate::storage::Error;

/// The interval at which a moved member asks the leader to record its address.
const ANNOUNCE_EVERY: Millis = 2_000;

/// The interval of the log line for a moved member that no member follows.
const REMIND_EVERY: Millis = 10_000;

/// How long a conflict is shown after its last report; connections are tried more often.
const SHOWN: Millis = 30_000;

/// Recent conflicts by peer and whether this node is the refused one; and when this node's address was last announced.
#[derive(Default)]
pub(crate) struct Identities {
    conflicts: BTreeMap<(u64, bool), (String, Millis)>,
    announced: Option<Millis>,
}

impl Identities {
    /// Records an identity conflict with this peer.
    pub fn identity_conflict(&mut self, core: &Core, raft_id: u64, of_this_node: bool, detail: String) {
        if core.state_machine.members().get(raft_id).is_some() {
            self.conflicts.insert((raft_id, of_this_node), (detail, core.now));
        }
    }

    /// Clears the conflicts with this peer, whose connection is up.
    pub fn identity_agreed(&mut self, raft_id: u64) {
        self.conflicts.retain(|(peer, _), _| *peer != raft_id);
    }

    /// Returns the recent conflicts, a line each.
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

    /// Returns the request to record new addresses of this node, if one is due: by its own report if it is followed, if
    /// it leads, or if only its client address has changed; otherwise an operator has to POST it.
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

/// Stores the recorded addresses in the identity file, once the table has them.
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
