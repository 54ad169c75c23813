//! Clients' requests and the cluster's time.

use super::{NOW, Node, request};
use crate::consensus::proposals::Proposals;
use crate::model::{Code, Command, DiskSpace, Outcome, Refusal, Request};

fn put() -> Request {
    Request::Write(Command::put("k", "v").into())
}

#[test]
fn a_forward_that_failed_is_tried_again_only_where_nothing_was_done() {
    let remove = || Request::Remove { node_id: "n3".into() };
    for (case, wanted, refusal, later, expected) in [
        ("never left", put(), Refusal::not_applied(Code::NoLeader, ""), 0, None),
        ("the leader was removed", put(), Refusal::not_applied(Code::Removed, ""), 0, None),
        ("the leader refuses it", put(), Refusal::not_applied(Code::TooLarge, ""), 0, Some(Outcome::NotApplied)),
        ("a write with an unknown outcome", put(), Refusal::unknown(Code::Timeout, ""), 0, Some(Outcome::Unknown)),
        ("a removal with an unknown outcome", remove(), Refusal::unknown(Code::Timeout, ""), 0, None),
        ("the deadline has passed", put(), Refusal::not_applied(Code::NoLeader, ""), 10_000, Some(Outcome::NotApplied)),
    ] {
        let (mut node, mut proposals) = (Node::follower(3), Proposals::default());
        let (waiting, answer) = request(wanted);
        proposals.request(&mut node.context(), waiting, None);
        let token = node.sent.tokens("forward")[0];
        node.core.at(NOW + later);
        proposals.forward_ended(&mut node.context(), token, Err(refusal));
        assert_eq!(answer.try_recv().ok().map(|result| result.unwrap_err().outcome), expected, "{case}");
        proposals.route_waiting(&mut node.context());
        let again = node.sent.tokens("forward").len() == 2;
        assert_eq!(again, expected.is_none(), "{case}");
    }
}

#[test]
fn a_retried_request_whose_first_try_may_have_worked_is_never_refused_as_not_applied() {
    let (mut node, mut proposals) = (Node::follower(3), Proposals::default());
    let (waiting, answer) = request(Request::Remove { node_id: "n3".into() });
    proposals.request(&mut node.context(), waiting, None);
    let token = node.sent.tokens("forward")[0];
    proposals.forward_ended(&mut node.context(), token, Err(Refusal::unknown(Code::Timeout, "")));
    node.core.at(NOW + 10_000);
    proposals.expire_requests(&mut node.context());
    assert_eq!(answer.try_recv().unwrap().unwrap_err().outcome, Outcome::Unknown);
}

#[test]
fn a_leader_takes_what_it_may_propose() {
    let full = DiskSpace { free_bytes: 1, reserve_bytes: 2 };
    let delete = || Request::Write(Command::delete("k").into());
    for (case, wanted, late, space, expected) in [
        ("a write", put(), 0, None, None),
        ("a write past its deadline", put(), 10_000, None, Some(Code::Timeout)),
        ("a write while the disk of a voter is nearly full", put(), 0, Some(full), Some(Code::DiskNearlyFull)),
        ("a delete while the disk of a voter is nearly full", delete(), 0, Some(full), None),
    ] {
        let (mut node, mut proposals) = (Node::leader(3), Proposals::default());
        node.core.at(NOW + late);
        if let Some(space) = space {
            node.space.told_space(&node.core, 2, space);
        }
        let (waiting, answer) = request(wanted);
        proposals.request(&mut node.context(), waiting, None);
        assert_eq!(answer.try_recv().ok().map(|result| result.unwrap_err().code), expected, "{case}");
        let last = node.core.raw.raft.raft_log.last_index();
        proposals.propose_writes(&mut node.context());
        let proposed = node.core.raw.raft.raft_log.last_index() > last;
        assert_eq!(proposed, expected.is_none(), "{case}");
    }
}

#[test]
fn a_leader_refuses_large_writes_behind_a_backlog_that_has_waited_a_second() {
    let (mut node, mut proposals) = (Node::leader(3), Proposals::default());
    let large = || Request::Write(Command::put("k", vec![b'x'; 1 << 20]).into());
    let mut take = |later, wanted| {
        node.core.at(NOW + later);
        let (waiting, answer) = request(wanted);
        proposals.request(&mut node.context(), waiting, None);
        answer.try_recv().ok().map(|result| result.unwrap_err())
    };
    assert_eq!(take(0, large()), None);
    for number in 0..7 {
        assert_eq!(take(1_000, large()), None, "{number}: there is no backlog in bytes yet");
    }
    let refusal = take(1_000, large()).unwrap();
    assert_eq!((refusal.code, refusal.outcome), (Code::Overloaded, Outcome::NotApplied));
    assert_eq!(take(1_000, put()), None, "a small one is taken");
}

#[test]
fn a_report_of_disk_space_counts_for_ten_seconds() {
    let mut node = Node::leader(2);
    node.space.told_space(&node.core, 2, DiskSpace { free_bytes: 1, reserve_bytes: 2 });
    for (later, counts) in [(9_999, true), (10_000, false)] {
        node.core.at(NOW + later);
        assert_eq!(node.space.space_of(&node.core, 2).is_some(), counts, "{later} ms later");
    }
}

#[test]
fn the_time_of_a_leader_goes_on_from_what_is_applied_and_that_of_a_follower_stands_still() {
    let mut leader = Node::leader(1);
    let began = leader.clock.stamp(&leader.core);
    for later in [1, 500, 5_000] {
        leader.core.at(NOW + later);
        assert_eq!(leader.clock.cluster_time(&leader.core), began + later);
    }
    let mut follower = Node::follower(2);
    let applied = follower.clock.cluster_time(&follower.core);
    follower.core.at(NOW + 5_000);
    assert_eq!(follower.clock.cluster_time(&follower.core), applied);
}
