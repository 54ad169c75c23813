//! Claims that would end this node, and messages that are not believed.

use raft::eraftpb::{Message, MessageType};

use super::{NOW, Node, message};
use crate::consensus::claim_verification::plausibility::{Belief, TermBound};
use crate::consensus::claim_verification::state_divergence::{Comparison, Digests};
use crate::consensus::claim_verification::{Claim, ClaimOutcome, Verification};
use crate::model::{ProbeReply, Recorded, StateDigest};

fn reply(raft_id: u64, asker: Recorded, acknowledged: Option<u64>) -> ProbeReply {
    ProbeReply {
        raft_id,
        is_member: true,
        term: 1,
        last_index: 900,
        commit_index: 900,
        asker,
        acknowledged,
        digest: None,
        entry_committed: false,
    }
}

#[test]
fn a_removal_or_a_lost_log_is_true_where_most_of_the_other_voters_say_so() {
    use Recorded::{Member, Tombstone, Unknown};
    let lost = Claim::LogLost { index: 800 };
    for (case, voters, claim, replies, ends) in [
        ("one of two others", 3, Claim::Removed, vec![reply(2, Tombstone, None)], false),
        ("both of two others", 3, Claim::Removed, vec![reply(2, Tombstone, None), reply(3, Tombstone, None)], true),
        ("the only other one", 2, Claim::Removed, vec![reply(2, Tombstone, None)], true),
        (
            "they have this node as a member",
            3,
            Claim::Removed,
            vec![reply(2, Member, None), reply(3, Member, None)],
            false,
        ),
        ("they do not know", 3, Claim::Removed, vec![reply(2, Unknown, None), reply(3, Unknown, None)], false),
        ("the log, with the leader's word", 3, lost, vec![reply(2, Member, Some(800)), reply(3, Member, None)], true),
        ("the log, without it", 3, lost, vec![reply(2, Member, None), reply(3, Member, None)], false),
        ("the log, against it", 3, lost, vec![reply(2, Member, Some(700)), reply(3, Member, None)], false),
    ] {
        let (mut node, mut verification) = (Node::follower(voters), Verification::default());
        verification.verify(&mut node.core, claim);
        let tokens = node.sent.tokens("probe");
        let ended = tokens.into_iter().zip(replies).any(|(token, reply)| {
            !matches!(verification.probed(&node.core, token, Ok(reply)), Ok(ClaimOutcome::GoesOn))
        });
        assert_eq!(ended, ends, "{case}");
    }
}

#[test]
fn a_claim_that_is_not_confirmed_holds_clients_up_for_five_seconds() {
    let (mut node, mut verification) = (Node::follower(3), Verification::default());
    verification.verify(&mut node.core, Claim::Removed);
    for (later, refuses) in [(4_999, true), (5_000, false)] {
        node.core.at(NOW + later);
        assert_eq!(verification.tick_verification(&mut node.core).unwrap(), ClaimOutcome::GoesOn);
        assert_eq!(verification.refusal().is_some(), refuses, "{later} ms later");
    }
    verification.verify(&mut node.core, Claim::Removed);
    assert!(verification.refusal().is_none(), "the next claim of its kind waits");
}

#[test]
fn raft_sees_only_messages_that_can_be_true() {
    let heartbeat = |term, commit| Message { commit, ..message(MessageType::MsgHeartbeat, 2, term) };
    let append = |term, log_term| Message { log_term, ..message(MessageType::MsgAppend, 2, term) };
    for (case, message, expected) in [
        ("a heartbeat", heartbeat(9, 0), Belief::Yes),
        ("a term far above", heartbeat(1 << 40, 0), Belief::No),
        ("entries above its own term", append(9, 10), Belief::No),
        ("a request for a snapshot", Message { request_snapshot: 1, ..append(9, 1) }, Belief::No),
        ("a commit that this log does not have", heartbeat(9, 900), Belief::LogLost { index: 900 }),
    ] {
        let (mut node, mut bound) = (Node::follower(3), TermBound::default());
        assert_eq!(bound.believes(&mut node.core, &message).unwrap(), expected, "{case}");
    }
}

#[test]
fn digests_are_compared_at_an_equal_index_of_the_present_leader() {
    let node = Node::follower(3);
    let (term, applied, own) = (node.core.raw.raft.term, node.core.applied(), node.core.state_machine.digest());
    let told = |term, index, digest| StateDigest { term, index, digest };
    let differs = Comparison::Differs { index: applied, digest: own };
    for (case, from, told, expected) in [
        ("the same", 2, told(term, applied, own), Some(Comparison::Agrees)),
        ("another one", 2, told(term, applied, own ^ 1), Some(differs)),
        ("not applied yet", 2, told(term, applied + 1, own), None),
        ("of a node that does not lead", 3, told(term, applied, own ^ 1), None),
        ("of another term", 2, told(term - 1, applied, own ^ 1), None),
    ] {
        let mut digests = Digests::default();
        let counts = digests.counts(&node.core, from, told);
        let comparison = counts.then(|| digests.compare_received(&node.core, told)).flatten();
        assert_eq!(comparison, expected, "{case}");
    }
}
