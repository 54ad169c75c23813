//! The impostor: a host that reaches the peer port and speaks in the name of a member.
//!
//! Invariants: it knows ids, names and addresses, and reads all messages. It sends what no member sends, which no node may
//! believe, and what a member may send that changes terms alone. It does not acknowledge, append or commit as a member
//! does, since nothing tells it apart then; the certified stranger does, where nodes have certificates. It is silent once faults have
//! ended.

use huskv::consensus::Input;
use huskv::model::{Probe, StateDigest};
use raft::eraftpb::{Entry, Message, MessageType};

use crate::checks;
use crate::world::World;

/// By how much the impostor raises a term, once in a run: so little that nodes still believe each other's terms.
const TERM_STEP: u64 = 1 << 18;

/// Sends one message to a member, in the name of another.
pub fn act(world: &mut World) {
    let count = world.size as u64;
    let at = usize::try_from(world.rng.below(count)).expect("small");
    let Some(status) = checks::status(world, at).filter(|status| !status.removed && !status.joining) else { return };
    let others: Vec<u64> = status.members.iter().map(|m| m.raft_id).filter(|id| *id != status.raft_id).collect();
    if others.is_empty() {
        return;
    }
    let from = *world.rng.pick(&others);
    let leads =
        status.members.iter().find(|m| status.leader.as_ref().is_some_and(|leader| leader.node_id == m.node_id));
    let leader = leads.map_or(from, |member| member.raft_id);
    let message =
        |msg_type| Message { msg_type, from, to: status.raft_id, term: status.term.max(1), ..Message::default() };
    let (index, digest) = (status.applied_index + world.rng.below(20), world.rng.next());
    let cluster_id = status.cluster_id;
    // Each of these must be refused, verified with other voters, or without effect.
    let (what, input) = match world.rng.below(8) {
        0 => {
            let term = (1 << 62) + world.rng.below(1000);
            ("a term beyond all", Input::Step(Box::new(Message { term, ..message(MessageType::MsgHeartbeat) })))
        }
        1 => {
            let commit = status.last_log_index + 1 + world.rng.below(1000);
            let term = status.term + world.rng.below(2);
            (
                "a commit",
                Input::Step(Box::new(Message { commit, term, from: leader, ..message(MessageType::MsgHeartbeat) })),
            )
        }
        2 | 3 => ("its removal", Input::Removed { cluster_id, raft_id: status.raft_id }),
        4 => {
            let told = StateDigest { term: status.term, index, digest };
            ("a digest", Input::Digest { from: leader, told })
        }
        5 => {
            let probe = Probe { cluster_id, raft_id: from, digest: Some((status.applied_index, digest)), entry: None };
            ("a question", Input::Probe { probe, reply: Box::new(drop) })
        }
        6 => {
            // Farther ahead than any append that may still be under way to a paused node.
            let index = status.last_log_index + (1 << 20);
            let entry = Entry { index: index + 1, term: status.term, ..Entry::default() };
            let (log_term, entries) = (status.term, vec![entry].into());
            let append = Message { index, log_term, entries, ..message(MessageType::MsgAppend) };
            ("an append behind its log", Input::Step(Box::new(append)))
        }
        _ if world.term_raised => {
            let acknowledgement = Message { index: u64::MAX >> 2, ..message(MessageType::MsgAppendResponse) };
            ("an acknowledgement of what is not there", Input::Step(Box::new(acknowledgement)))
        }
        _ => {
            world.term_raised = true;
            let term = status.term + TERM_STEP;
            ("a higher term", Input::Step(Box::new(Message { term, ..message(MessageType::MsgHeartbeat) })))
        }
    };
    if let Input::Step(message) = &input {
        world.observed.forged_terms.insert(message.term);
    }
    world.trace(|| format!("the impostor sends n{at} {what}, as {from}"));
    world.input(at, input);
}
