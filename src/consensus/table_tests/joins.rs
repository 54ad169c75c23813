//! The joiner's side: which offers a node takes, and when it goes back.

use super::{ME, NOW, Node};
use crate::consensus::membership::offer_acceptance::{Busy, Joiner};
use crate::model::{Code, JoinOffer, NodeKind};

const IDLE: Busy = Busy { writes: false, join: false };

fn offer(node: &Node) -> JoinOffer {
    JoinOffer {
        cluster_id: node.core.data_dir.identity().cluster_id + 1,
        leader_id: 5,
        offer: 9,
        leader_name: "m1".into(),
        leader_address: "m1:1".into(),
        node_id: "m2".into(),
        raft_address: "n1:1".into(),
        force: false,
        prepare: false,
        tombstones: Vec::new(),
    }
}

#[test]
fn an_offer_is_looked_into_only_by_a_node_that_has_nothing_to_lose() {
    let own = |node: &Node| node.core.data_dir.identity().cluster_id;
    type Change = Box<dyn Fn(&Node, &mut JoinOffer)>;
    let cases: Vec<(&str, u64, Busy, Change, Option<Code>)> = vec![
        ("a pristine node", 1, IDLE, Box::new(|_, _| ()), None),
        ("a node that writes", 1, Busy { writes: true, ..IDLE }, Box::new(|_, _| ()), Some(Code::HasData)),
        (
            "a node that writes, by force",
            1,
            Busy { writes: true, ..IDLE },
            Box::new(|_, offer| offer.force = true),
            None,
        ),
        ("a node that leads a join", 1, Busy { join: true, ..IDLE }, Box::new(|_, _| ()), Some(Code::JoinInProgress)),
        ("a member of a cluster", 3, IDLE, Box::new(|_, offer| offer.force = true), Some(Code::OtherCluster)),
        (
            "a leader that is the node itself",
            1,
            IDLE,
            Box::new(|_, offer| offer.leader_id = ME),
            Some(Code::BadRequest),
        ),
        (
            "a copy of the leader's directory",
            1,
            IDLE,
            Box::new(move |node, offer| offer.cluster_id = own(node)),
            Some(Code::OtherCluster),
        ),
    ];
    for (case, voters, busy, change, expected) in cases {
        let (mut node, mut joiner) = (Node::leader(voters), Joiner::default());
        let mut offer = offer(&node);
        change(&node, &mut offer);
        let (send, answer) = std::sync::mpsc::channel();
        joiner.receive_offer(&mut node.core, &node.live, busy, offer, Box::new(move |result| drop(send.send(result))));
        let refused = answer.try_recv().ok().map(|result| result.unwrap_err().code);
        assert_eq!(refused, expected, "{case}");
        assert_eq!(
            node.sent.tokens("identify").len(),
            usize::from(expected.is_none()),
            "{case}: the leader is dialled"
        );
    }
}

#[test]
fn a_node_alone_is_pristine_until_something_is_written() {
    for (voters, busy, kind) in [
        (1, IDLE, NodeKind::Pristine),
        (1, Busy { writes: true, ..IDLE }, NodeKind::Standalone),
        (2, IDLE, NodeKind::Member),
    ] {
        let node = Node::leader(voters);
        assert_eq!(Joiner::default().kind(&node.core, busy), kind);
    }
}

#[test]
fn a_member_never_goes_back() {
    let mut node = Node::leader(1);
    node.core.at(NOW + 1_000_000);
    assert_eq!(Joiner::default().goes_back(&node.core, &node.live), None);
}
