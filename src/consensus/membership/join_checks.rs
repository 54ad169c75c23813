//! Checks of a join or a move, by the identity of the node that answers at the address.
//!
//! Why: the same POST can mean nothing to do, a moved member, a new node, a wiped one under its old name, or a mistake.
//! The node that answers at the address tells them apart, before anything is written.
//!
//! Invariants: a member is known by its raft id, never by its name or address. A name or an address that belongs to a
//! live member is not taken over. A standalone node's data is not discarded without `force`, and a member's never.
//!
//! See also: the steps that follow (`change_steps`), and the joiner's own checks (`offer_acceptance`).

use super::Membership;
use super::operation::{Stage, Step, refuse};
use crate::consensus::proposals::shared_context::Context;
use crate::model::Millis;
use crate::model::{Code, NodeKind, Refusal, Request, Role, WhoAmI};

/// How long a join waits for the present bearer of its name to count as silent.
const NAME_WAIT: Millis = 2000;

impl Membership {
    pub fn check_move(&self, cx: &Context<'_>, who: WhoAmI, raft_id: u64, raft_address: &str) -> Step {
        if who.raft_id != raft_id || who.cluster_id != cx.core.data_dir.identity().cluster_id {
            return Step::Done(Err(Refusal::not_applied(
                Code::Unreachable,
                format!("{raft_address} is answered by another node ({}); the table stays as it is", who.node_id),
            )));
        }
        let raft_address = raft_address.to_owned();
        Step::Next(Stage::Relocate { raft_id, raft_address, http_address: who.http_address, done: false })
    }

    /// Decides what a join means, given the node that answered.
    pub fn check_join(
        &mut self,
        cx: &mut Context<'_>,
        who: WhoAmI,
        node_id: &str,
        raft_address: &str,
        force: bool,
    ) -> Step {
        // First by raft id: a member is the same whatever its name and address. Then by what the node is to its own
        // cluster. The name comes last, in `check_name`, for nodes that are new here.
        let ours = who.cluster_id == cx.core.data_dir.identity().cluster_id;
        let members = cx.core.state_machine.members();
        if ours && let Some(member) = members.get(who.raft_id) {
            // That a leader reaches itself somewhere says nothing of the others, so only where it says itself that it
            // is.
            let its_place =
                [&member.raft_address, &cx.core.options.raft_address].iter().any(|place| *place == raft_address);
            if who.raft_id == cx.core.raft_id() && (member.name != node_id || !its_place) {
                return refuse(
                    Code::JoinSelf,
                    format!(
                        "{raft_address} is answered by {} itself, which leads; give the address of the node that is to join",
                        member.name
                    ),
                );
            }
            if member.name != node_id {
                return refuse(
                    Code::AddressInUse,
                    format!("{raft_address} is the address of member {}, not of {node_id}", member.name),
                );
            }
            if let Some(refusal) = self.check_moved_member(cx, &who, &member.raft_address, raft_address) {
                return refusal;
            }
            if member.raft_address != raft_address || member.http_address != who.http_address {
                return Step::Next(Stage::Relocate {
                    raft_id: who.raft_id,
                    raft_address: raft_address.to_owned(),
                    http_address: who.http_address,
                    done: false,
                });
            }
            return match member.role {
                Role::Voter => Step::Next(Stage::Confirm { done: false }),
                Role::Learner => Step::Next(Stage::Promote { raft_id: who.raft_id, since: cx.core.now }),
            };
        }
        let removed_here = ours && members.is_tombstone(who.raft_id);
        match who.kind {
            NodeKind::Standalone if !force => {
                return refuse(
                    Code::HasData,
                    format!(
                        "{} at {raft_address} holds data of its own, which a join would give up; \"force\": true does that",
                        who.node_id
                    ),
                );
            }
            NodeKind::Member if !removed_here => {
                return refuse(
                    Code::OtherCluster,
                    format!("{} at {raft_address} is a member of another cluster; remove it there first", who.node_id),
                );
            }
            _ => {}
        }
        self.check_name(cx, node_id, raft_address)
    }

    /// Checks a member that answers at another address than the recorded one: it must be the only node with this
    /// identity, and advertise the address at which it answered, or no peer would admit it.
    fn check_moved_member(&self, cx: &Context<'_>, who: &WhoAmI, listed: &str, raft_address: &str) -> Option<Step> {
        let (me, moved) = (&who.node_id, who.moved && !cx.core.options.follow_moves);
        if moved && cx.live.is_live(cx.core, who.raft_id) {
            return Some(refuse(
                Code::NameInUse,
                format!(
                    "{me} is alive at {listed}, or was a moment ago; what answers at {raft_address} is a copy of its disk \
                     unless it has just moved there. Stop the one that is not wanted and try again"
                ),
            ));
        }
        if moved && who.raft_address != raft_address {
            let told = &who.raft_address;
            return Some(refuse(
                Code::AddressInUse,
                format!("{me} answers at {raft_address}, but tells its peers to dial it at {told}; POST that address"),
            ));
        }
        None
    }

    /// Whether a request that found nothing to do still finds nothing to do.
    pub fn table_is_as_asked(&self, cx: &Context<'_>, request: &Request) -> bool {
        let members = cx.core.state_machine.members();
        match request {
            Request::Join { node_id, raft_address, .. } => members
                .named(node_id)
                .is_some_and(|member| member.role == Role::Voter && member.raft_address == *raft_address),
            Request::Remove { node_id } => members.named(node_id).is_none(),
            Request::Move { .. } | Request::Transfer { .. } | Request::Write(_) => true,
        }
    }

    /// Whether a joiner may have this raft id: not one that is or was a member's.
    pub fn may_be_a_joiner(&self, cx: &Context<'_>, raft_id: u64) -> bool {
        let members = cx.core.state_machine.members();
        raft_id != 0 && !members.is_tombstone(raft_id) && members.get(raft_id).is_none()
    }

    /// Whether a member has the joiner's name by now: a join that was given up may have left its entry in the log,
    /// which was applied since.
    pub fn name_is_taken(&self, cx: &Context<'_>, request: &Request) -> bool {
        matches!(request, Request::Join { node_id, .. } if cx.core.state_machine.members().named(node_id).is_some())
    }

    fn check_name(&self, cx: &Context<'_>, node_id: &str, raft_address: &str) -> Step {
        let members = cx.core.state_machine.members();
        match members.named(node_id) {
            Some(old) if old.raft_id == cx.core.raft_id() => {
                refuse(Code::NameInUse, format!("{node_id} is the name of the leader; give this node another one"))
            }
            // A node with another raft id answers at the address, so the old bearer of the name is not there any more.
            // At another address it may be alive: the join waits up to 2 s for its silence.
            Some(old) if old.raft_address == raft_address => Step::Next(Stage::retire(old.raft_id)),
            Some(old) => Step::Next(Stage::Silence { old: old.raft_id, until: cx.core.now + NAME_WAIT }),
            None => match members.iter().find(|member| member.raft_address == raft_address) {
                Some(member) => refuse(
                    Code::AddressInUse,
                    format!(
                        "{raft_address} is the address of member {}; remove it first, or join under its name",
                        member.name
                    ),
                ),
                None => Step::Next(Stage::Ask),
            },
        }
    }
}
