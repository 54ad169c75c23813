//! Clients' requests and the cluster's time.

use raft::eraftpb::Entry;

use super::{NOW, Node, request};
use crate::consensus::proposals::Proposals;
use crate::model::{Code, Command, Condition, DiskSpace, Outcome, Proposal, Refusal, Request, Ttl, Value};
use crate::storage::{Applied, Operation};

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
fn a_forwarded_join_without_an_answer_can_be_resumed() {
    let (mut node, mut proposals) = (Node::follower(3), Proposals::default());
    let (waiting, answer) = request(Request::Join { node_id: "n4".into(), raft_address: "h:9".into(), force: false });
    proposals.request(&mut node.context(), waiting, None);
    let token = node.sent.tokens("forward")[0];
    node.core.at(NOW + 10_000);
    proposals.forward_ended(&mut node.context(), token, Err(Refusal::unknown(Code::Timeout, "no answer")));
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert_eq!((refusal.code, refusal.outcome), (Code::JoinUnfinished, Outcome::Unknown));
    assert_eq!(refusal.detail, "no answer; the join may go on there, and the same POST resumes it");
}

#[test]
fn a_leader_takes_what_it_may_propose() {
    let has = |mib: u64| Some(DiskSpace { free_bytes: mib << 20, reserve_bytes: 64 << 20 });
    let write = |command: Command| Request::Write(command.into());
    let delete = || write(Command::delete("k"));
    let prefix = || write(Command::DeletePrefix { prefix: "k".into() });
    let touch = || write(Command::Touch { key: "k".into(), ttl: Ttl(5), condition: Condition::Always });
    let removal = || Request::Remove { node_id: "n3".into() };
    let full = Some(Code::DiskNearlyFull);
    for (case, wanted, late, space, expected) in [
        ("a write", put(), 0, None, None),
        ("a write past its deadline", put(), 10_000, None, Some(Code::Timeout)),
        ("a put above the reserve", put(), 0, has(65), None),
        ("a put at the reserve", put(), 0, has(64), full),
        ("a put below the reserve", put(), 0, has(63), full),
        ("a delete below the reserve", delete(), 0, has(63), None),
        ("a delete by prefix at the floor", prefix(), 0, has(32), None),
        ("a touch at the floor", touch(), 0, has(32), None),
        ("a put below the floor", put(), 0, has(31), full),
        ("a delete below the floor", delete(), 0, has(31), full),
        ("a delete by prefix below the floor", prefix(), 0, has(31), full),
        ("a touch below the floor", touch(), 0, has(31), full),
        ("a removal of a member below the floor", removal(), 0, has(0), None),
    ] {
        let (mut node, mut proposals) = (Node::leader(3), Proposals::default());
        node.core.at(NOW + late);
        if let Some(space) = space {
            node.space.record_space(&node.core, 2, space);
        }
        let (waiting, answer) = request(wanted);
        proposals.request(&mut node.context(), waiting, None);
        assert_eq!(answer.try_recv().ok().map(|result| result.unwrap_err().code), expected, "{case}");
        let last = node.core.raw.raft.raft_log.last_index();
        proposals.propose_writes(&mut node.context());
        let proposed = node.core.raw.raft.raft_log.last_index() > last;
        let goes_on = proposed || proposals.take_changes().len() == 1;
        assert_eq!(goes_on, expected.is_none(), "{case}");
    }
}

#[test]
fn a_refusal_for_want_of_space_names_the_node_and_what_goes_on() {
    for (free, words) in [(63, "Reads, deletes, touches and membership"), (31, "below 32.0 MiB deletes and touches")] {
        let (mut node, mut proposals) = (Node::leader(3), Proposals::default());
        let full = DiskSpace { free_bytes: free << 20, reserve_bytes: 64 << 20 };
        node.space.record_space(&node.core, 2, full);
        let (waiting, answer) = request(put());
        proposals.request(&mut node.context(), waiting, None);
        let Refusal { outcome, detail, .. } = answer.try_recv().unwrap().unwrap_err();
        assert_eq!(outcome, Outcome::NotApplied);
        for word in ["n2", "storage.reserve_mb", "free some", "remove n2", words] {
            assert!(detail.contains(word), "{word:?} is missing: {detail}");
        }
    }
}

#[test]
fn a_lone_voter_is_not_told_to_remove_itself() {
    let (mut node, mut proposals) = (Node::leader_with_reserve(1, Some(u64::MAX / 2)), Proposals::default());
    let (waiting, answer) = request(put());
    proposals.request(&mut node.context(), waiting, None);
    proposals.propose_writes(&mut node.context());
    let detail = answer.try_recv().unwrap().unwrap_err().detail;
    assert!(detail.contains("make it larger. ") && !detail.contains("remove"), "{detail}");
}

/// Appends an entry of so many MiB to the log of a node under test.
fn append(node: &mut Node, mib: usize) {
    let raft = &mut node.core.raw.raft;
    let (term, index) = (raft.term, raft.raft_log.last_index() + 1);
    let entry = Entry { term, index, data: vec![b'x'; mib << 20].into(), ..Entry::default() };
    let hard_state = raft.hard_state();
    raft.mut_store().journal.append(&[entry], &hard_state).unwrap();
}

#[test]
fn what_is_under_way_since_a_report_counts_three_times_against_the_free_space() {
    let small = put;
    let put = |mib: usize| Request::Write(Command::put("k", vec![b'x'; mib << 20]).into());
    let delete = || Request::Write(Command::delete("k").into());
    // MiB free above a reserve of 64, MiB in the log since the report, the requests, and how many of them are refused.
    for (case, room, since, requests, refused) in [
        ("nothing is under way", 7, 0, vec![put(2)], 0),
        ("the write alone takes the room", 6, 0, vec![put(2)], 1),
        ("a small write fits", 1, 0, vec![small()], 0),
        ("the log takes the room", 30, 9, vec![put(2)], 1),
        ("the log leaves room", 40, 9, vec![put(2)], 0),
        ("the log leaves no room for a small write", 26, 9, vec![small()], 1),
        ("a delete needs no room", 1, 9, vec![delete()], 0),
        ("the room is enough for the first two", 14, 0, vec![put(2), put(2), put(2), delete()], 1),
        ("much is free", 1 << 20, 9, vec![put(2), put(2), put(2)], 0),
    ] {
        let (mut node, mut proposals) = (Node::leader(3), Proposals::default());
        let space = DiskSpace { free_bytes: (64 + room) << 20, reserve_bytes: 64 << 20 };
        node.space.record_space(&node.core, 2, space);
        if since > 0 {
            append(&mut node, since);
        }
        let mut answers = Vec::new();
        for wanted in requests {
            let (waiting, answer) = request(wanted);
            proposals.request(&mut node.context(), waiting, None);
            answers.push(answer);
        }
        proposals.propose_writes(&mut node.context());
        let refusals: Vec<_> = answers.iter().filter_map(|answer| answer.try_recv().ok()?.err()).collect();
        assert_eq!(refusals.len(), refused, "{case}");
        for Refusal { code, outcome, detail, .. } in refusals {
            assert_eq!((code, outcome), (Code::DiskNearlyFull, Outcome::NotApplied), "{case}");
            assert!(detail.contains("under way may need"), "{case}: {detail}");
        }
    }
}

#[test]
fn the_log_counts_until_a_report_that_was_measured_after_it_was_written() {
    // The second voter appends and applies 9 MiB right after its report, or nothing of it.
    for (appends, taken_at) in [(true, Some(2_000)), (false, None)] {
        let mut node = Node::leader(3);
        let space = DiskSpace { free_bytes: (64 + 20) << 20, reserve_bytes: 64 << 20 };
        node.space.record_space(&node.core, 2, space);
        append(&mut node, 9);
        let last = node.core.raw.raft.raft_log.last_index();
        node.core.raw.raft.raft_log.committed = last;
        if appends {
            node.core.raw.raft.mut_prs().get_mut(2).unwrap().matched = last;
        }
        // The report after half a second is an early one; that after a second may have been measured before the append.
        for later in [0, 500, 1_000, 2_000] {
            node.core.at(NOW + later);
            if later > 0 {
                node.space.record_space(&node.core, 2, space);
            }
            let (waiting, answer) = request(put());
            Proposals::default().request(&mut node.context(), waiting, None);
            let refused = answer.try_recv().ok().map(|result| result.unwrap_err().code);
            let expected = taken_at.is_none_or(|at| later < at).then_some(Code::DiskNearlyFull);
            assert_eq!(refused, expected, "{later} ms later, appended: {appends}");
        }
    }
}

#[test]
fn a_key_expires_only_while_no_voter_is_below_its_floor() {
    for (free, expires) in [(31, false), (32, true)] {
        let mut node = Node::leader(2);
        let (index, term) = node.core.state_machine.applied();
        let stamp = node.clock.stamp(&node.core);
        let put = Command::Put {
            key: "k".into(),
            value: Value::binary("1"),
            condition: Condition::Always,
            ttl: Some(Ttl(1)),
        };
        let operation = Operation::Command(Proposal { stamp, write: put.into() });
        node.core.state_machine.apply(vec![Applied { index: index + 1, term, operation }], 1).unwrap();
        node.core.at(NOW + 5_000);
        node.space.record_space(&node.core, 2, DiskSpace { free_bytes: free << 20, reserve_bytes: 64 << 20 });
        let last = node.core.raw.raft.raft_log.last_index();
        node.clock.expire_keys(&mut node.core, &node.space).unwrap();
        assert_eq!(node.core.raw.raft.raft_log.last_index() > last, expires, "{free} MiB are free");
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
    node.space.record_space(&node.core, 2, DiskSpace { free_bytes: 1, reserve_bytes: 2 });
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
