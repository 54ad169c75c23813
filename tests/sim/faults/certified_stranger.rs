//! The certified stranger: a node with a certificate of the cluster's authority that is no member, or another one than it says.
//!
//! Why: what an impostor without a certificate cannot do any more (acknowledge, append, commit, vote as a member does) would
//! lose acknowledged writes at once, so the rule that refuses it is worth an attack.
//!
//! Invariants: it attacks only where nodes have certificates, and knows ids, names, terms and logs. Nothing of it reaches a
//! node, but one that joins and has forgotten the leader that made its offer.
//!
//! See also: `impostor` (what a host without a certificate sends).

use huskv::consensus::Input;
use raft::eraftpb::{Entry, Message, MessageType};

use crate::checks;
use crate::world::handshake::certificate_name;
use crate::world::{Event, World};

/// The name of a node that is no member of any cluster, and its raft id.
const STRANGER: (&str, u64) = ("n9", 4713);

/// Speaks to some node as a member, or as a node that it does not know.
pub fn act(world: &mut World) {
    let pause = 20 + world.stranger_rng.below(200);
    world.after(pause, Event::CertifiedStranger);
    if !world.faults || !world.secure {
        return;
    }
    let count = world.size as u64;
    let at = usize::try_from(world.stranger_rng.below(count)).expect("small");
    let Some(status) = checks::status(world, at).filter(|status| !status.removed && !status.joining) else { return };
    let rng = &mut world.stranger_rng;
    let others: Vec<_> = status.members.iter().filter(|member| member.raft_id != status.raft_id).collect();
    if others.is_empty() {
        return;
    }
    let member = rng.pick(&others);
    // A stranger in the name of a member, a member in the name of another, a stranger in its own.
    let (certified, from) = match rng.below(3) {
        0 => (STRANGER.0.to_owned(), member.raft_id),
        1 => {
            let name = certificate_name(usize::try_from(rng.below(count)).expect("small"));
            (name, member.raft_id)
        }
        _ => (STRANGER.0.to_owned(), STRANGER.1),
    };
    if certified == member.node_id {
        // What a member may say in its own name.
        return;
    }
    let last = status.last_log_index;
    let term = status.term.max(1) + rng.below(2);
    let message = |msg_type| Message { msg_type, from, to: status.raft_id, term, ..Message::default() };
    let message = match rng.below(4) {
        0 => Message { index: last, ..message(MessageType::MsgAppendResponse) },
        1 => {
            let entry = Entry { index: last + 1, term, ..Entry::default() };
            let (log_term, entries) = (status.last_log_term, vec![entry].into());
            Message { index: last, log_term, commit: last + 1, entries, ..message(MessageType::MsgAppend) }
        }
        2 => Message { commit: last, ..message(MessageType::MsgHeartbeat) },
        _ => message(MessageType::MsgRequestVoteResponse),
    };
    if world.is_certified_as(&certified, from, at) {
        world.trace(|| format!("{certified} speaks to n{at} as {from}: {:?}", message.msg_type));
        world.input(at, Input::Step(Box::new(message)));
    }
}
