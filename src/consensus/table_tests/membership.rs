//! Membership requests on a leader: refused, begun, or answered at once.

use super::{NOW, Node, request};
use crate::consensus::membership::Membership;
use crate::consensus::membership::operation::Effect;
use crate::model::{Code, Request};

/// What the first turn makes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Refused(Code),
    /// An entry was proposed.
    Proposed,
    /// Leadership moves first.
    Transfers,
    Answered,
    Waits,
}

fn remove(name: &str) -> Request {
    Request::Remove { node_id: name.into() }
}

fn transfer(name: &str) -> Request {
    Request::Transfer { node_id: Some(name.into()) }
}

fn outcome(node: &mut Node, wanted: Request) -> Outcome {
    let (mut membership, (waiting, answer)) = (Membership::default(), request(wanted));
    let last = node.core.raw.raft.raft_log.last_index();
    assert!(membership.enqueue(waiting).is_ok());
    membership.drive_membership(&mut node.context());
    if let Ok(Err(refusal)) = answer.try_recv() {
        Outcome::Refused(refusal.code)
    } else if matches!(membership.take_effects().as_slice(), [Effect::Answer(..)]) {
        Outcome::Answered
    } else if node.core.raw.raft.lead_transferee.is_some() {
        Outcome::Transfers
    } else if node.core.raw.raft.raft_log.last_index() > last {
        Outcome::Proposed
    } else {
        Outcome::Waits
    }
}

#[test]
fn a_change_is_begun_or_refused_by_who_is_live() {
    for (case, voters, silent, wanted, expected) in [
        (
            "three voters, one silent, remove the other: 409",
            3,
            vec![3],
            remove("n2"),
            Outcome::Refused(Code::QuorumLoss),
        ),
        ("three voters, one silent, remove it", 3, vec![3], remove("n3"), Outcome::Proposed),
        ("three voters, all live", 3, vec![], remove("n3"), Outcome::Proposed),
        ("two voters, the other one silent", 2, vec![2], remove("n2"), Outcome::Refused(Code::QuorumLoss)),
        ("the last voter", 1, vec![], remove("n1"), Outcome::Refused(Code::LastVoter)),
        ("the leader of three", 3, vec![], remove("n1"), Outcome::Transfers),
        ("a name that no member has is proven by an entry", 3, vec![], remove("n9"), Outcome::Proposed),
        ("a transfer to no member", 3, vec![], transfer("n9"), Outcome::Refused(Code::UnknownMember)),
        ("a transfer to a silent voter", 3, vec![2], transfer("n2"), Outcome::Refused(Code::NotAVoter)),
        ("a transfer to a live voter", 3, vec![2], transfer("n3"), Outcome::Transfers),
        ("a transfer to the leader", 3, vec![], transfer("n1"), Outcome::Answered),
        (
            "a transfer by a node alone",
            1,
            vec![],
            Request::Transfer { node_id: None },
            Outcome::Refused(Code::NotAVoter),
        ),
    ] {
        let mut node = Node::leader(voters).silence(&silent);
        assert_eq!(outcome(&mut node, wanted), expected, "{case}");
    }
}

#[test]
fn a_new_leader_waits_for_the_members_before_it_refuses() {
    let mut node = Node::leader(3).silence(&[2, 3]);
    node.live.led_since = Some(NOW);
    assert_eq!(outcome(&mut node, remove("n2")), Outcome::Waits);
}

#[test]
fn a_node_that_no_longer_leads_gives_its_requests_back() {
    let (mut membership, mut node) = (Membership::default(), Node::follower(3));
    assert!(membership.enqueue(request(remove("n3")).0).is_ok());
    membership.drive_membership(&mut node.context());
    let effects = membership.take_effects();
    assert!(matches!(effects.as_slice(), [Effect::Retry(waiting)] if !waiting.maybe_applied));
}

#[test]
fn one_change_is_under_way_at_a_time() {
    let (mut membership, mut node) = (Membership::default(), Node::leader(4));
    for name in ["n3", "n4"] {
        assert!(membership.enqueue(request(remove(name)).0).is_ok());
    }
    let last = node.core.raw.raft.raft_log.last_index();
    (0..3).for_each(|_| membership.drive_membership(&mut node.context()));
    assert_eq!(node.core.raw.raft.raft_log.last_index(), last + 1);
}
