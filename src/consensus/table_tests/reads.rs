//! Reads: answered, refused, or waiting for a round of ReadIndex.

use std::sync::mpsc::{Receiver, channel};

use raft::ReadState;

use super::{NOW, Node};
use crate::consensus::input::{Bounds, Consistency, ReadGrant};
use crate::consensus::liveness::readiness::Lag;
use crate::consensus::reads::{Reader, Reads, RoundEnd, View};
use crate::model::{Code, Refusal};

type Outcome = Receiver<Result<ReadGrant, Refusal>>;

fn reader(consistency: Consistency, max_stale_ms: Option<u64>) -> (Reader, Outcome) {
    let (send, answer) = channel();
    let reply = Box::new(move |result| drop(send.send(result)));
    let bounds = Bounds { min_index: 0, max_stale_ms };
    (Reader { consistency, bounds, deadline: NOW + 1_000, reply }, answer)
}

fn view<'a>(node: &'a Node, lag: &'a Lag) -> View<'a> {
    View { core: &node.core, live: &node.live, lag, time: 0 }
}

#[test]
fn a_read_is_answered_or_refused_or_waits_by_its_consistency() {
    use Consistency::{Linearizable, Stale};
    let behind = || {
        let mut lag = Lag::default();
        lag.leader_committed(u64::MAX);
        lag
    };
    let stopping = || Refusal::not_applied(Code::Stopping, "");
    for (case, leads, consistency, bound, lags, unavailable, expected) in [
        ("stale", true, Stale, None, false, None, Some(Ok(()))),
        ("linearizable, no round yet", true, Linearizable, None, false, None, None),
        ("linearizable, on a follower", false, Linearizable, None, false, None, None),
        ("linearizable, on a node that lags", false, Linearizable, None, true, None, Some(Err(Code::Lagging))),
        ("stale, on a node that lags", false, Stale, None, true, None, Some(Ok(()))),
        ("stale within a bound, nothing proven, lags", false, Stale, Some(10), true, None, Some(Err(Code::TooStale))),
        ("stale within a bound waits for a round", false, Stale, Some(10), false, None, None),
        ("on a node that stops", true, Stale, None, false, Some(stopping()), Some(Err(Code::Stopping))),
    ] {
        let node = if leads { Node::leader(2) } else { Node::follower(2) };
        let mut lag = behind();
        if lags {
            let began = (0..=node.core.options.election_ticks).filter(|_| lag.update_lag(&node.core, false)).count();
            assert_eq!(began, 1, "{case}: that it lags is told once");
        }
        let (mut reads, (reader, answer)) = (Reads::new((1, 1)), reader(consistency, bound));
        reads.read(view(&node, &lag), reader, unavailable);
        reads.release_reads(view(&node, &lag));
        let outcome = answer.try_recv().ok().map(|result| result.map(drop).map_err(|refusal| refusal.code));
        assert_eq!(outcome, expected, "{case}");
    }
}

#[test]
fn a_round_confirms_all_reads_before_it_and_another_context_none() {
    let (mut node, lag) = (Node::leader(1), Lag::default());
    let (mut reads, (reader, answer)) = (Reads::new((1, 1)), reader(Consistency::Linearizable, None));
    reads.read(view(&node, &lag), reader, None);
    reads.issue_read_index(&mut node.core, &lag);
    let context = |counter: u64| [1, 1, counter].iter().flat_map(|part: &u64| part.to_be_bytes()).collect::<Vec<_>>();
    let state = |counter, index| vec![ReadState { index, request_ctx: context(counter) }];
    let applied = node.core.applied();
    assert!(reads.read_states(state(2, applied)).is_none());
    assert!(
        matches!(reads.read_states(state(1, applied)), Some(RoundEnd::Confirmed { index, .. }) if index == applied)
    );
    reads.release_reads(view(&node, &lag));
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn a_round_that_a_leader_leaves_unanswered_ends_the_wait_of_its_reads_and_goes_on() {
    for (case, heard_until, refused_at) in
        [("a leader that goes on", 30, Some(10)), ("a leader that is silent from then on", 9, None)]
    {
        let (mut node, mut lag) = (Node::follower(2), Lag::default());
        let (mut reads, (reader, answer)) = (Reads::new((1, 1)), reader(Consistency::Linearizable, None));
        reads.read(view(&node, &lag), reader, None);
        let refused = (1..=30).find(|tick| {
            reads.issue_read_index(&mut node.core, &lag);
            node.core.at(NOW + tick * 100);
            node.live.leader_seen = Some(NOW + heard_until.min(*tick) * 100);
            let is_late = reads.tick_round(&node.core, &node.live);
            let begins = lag.update_lag(&node.core, is_late);
            if begins {
                reads.refuse_reads_that_lag(view(&node, &lag));
            }
            begins
        });
        assert_eq!(refused, refused_at, "{case}");
        assert_eq!((lag.lagging(&node.core).is_some(), lag.asks(&node.core)), (refused.is_some(), refused.is_some()));
        let Some(Err(refusal)) = answer.try_recv().ok() else {
            assert_eq!(refused, None, "{case}: the read waits");
            continue;
        };
        assert_eq!((refusal.code, refusal.leader.unwrap().node_id.as_str()), (Code::Lagging, "n2"));
        assert!(refusal.detail.contains("n2 leads and has not confirmed within 1000 ms"), "{}", refusal.detail);
        // The round goes on, though no client waits for it.
        (node.live.leader_seen, _) = (Some(NOW + 20_000), node.core.at(NOW + 20_000));
        reads.expire_reads(view(&node, &lag));
        assert!(reads.tick_round(&node.core, &node.live));
    }
}

#[test]
fn reads_that_came_while_a_node_that_lags_knew_no_leader_are_refused_once_it_knows_one() {
    let (mut node, mut lag) = (Node::follower(2), Lag::default());
    lag.leader_committed(u64::MAX);
    while !lag.update_lag(&node.core, false) {}
    let leader = std::mem::take(&mut node.core.raw.raft.leader_id);
    let (mut reads, (reader, answer)) = (Reads::new((1, 1)), reader(Consistency::Linearizable, None));
    reads.read(view(&node, &lag), reader, None);
    assert!(!lag.update_lag(&node.core, false) && answer.try_recv().is_err(), "it waits for a leader");
    node.core.raw.raft.leader_id = leader;
    assert!(lag.update_lag(&node.core, false));
    reads.refuse_reads_that_lag(view(&node, &lag));
    assert_eq!(answer.try_recv().unwrap().map(drop).unwrap_err().code, Code::Lagging);
}

#[test]
fn a_member_that_has_started_asks_by_itself_and_is_not_ready_before_it_has_what_its_leader_has_committed() {
    let (node, mut lag) = (Node::follower(2), Lag::default());
    let applied = node.core.applied();
    assert!(!lag.asks(&node.core) && lag.starting(&node.core).is_none(), "one that has joined asks for nothing");
    lag.starts();
    assert!(lag.asks(&node.core));
    assert_eq!(lag.starting(&node.core).unwrap().code, Code::Starting);
    assert!(lag.lagging(&node.core).is_none(), "its reads wait");
    lag.answered(applied + 1, true);
    lag.note_applied(&node.core);
    assert!(lag.starting(&node.core).is_some() && !lag.asks(&node.core), "one entry is missing");

    let (leader, mut lag) = (Node::leader(1), Lag::default());
    lag.starts();
    assert_eq!(lag.starting(&leader.core).unwrap().code, Code::Starting, "it leads, and its log may not be applied");
    assert!(!lag.asks(&leader.core), "it is the one to say");
    lag.note_applied(&leader.core);
    assert!(lag.starting(&leader.core).is_none(), "it has applied what it has committed in its term");
    lag.starts();
    lag.answered(leader.core.applied() + 1, true);
    lag.note_applied(&leader.core);
    assert!(lag.starting(&leader.core).is_some(), "one entry is missing");
}

#[test]
fn a_leader_that_confirms_less_than_is_applied_here_has_lost_what_was_committed() {
    let (mut node, lag) = (Node::leader(1), Lag::default());
    let (mut reads, (reader, answer)) = (Reads::new((1, 1)), reader(Consistency::Linearizable, None));
    reads.read(view(&node, &lag), reader, None);
    reads.issue_read_index(&mut node.core, &lag);
    let request_ctx = [1_u64, 1, 1].iter().flat_map(|part| part.to_be_bytes()).collect();
    let end = reads.read_states(vec![ReadState { index: 0, request_ctx }]);
    assert!(matches!(end, Some(RoundEnd::LeaderLacks { confirmed: 0, readers, .. }) if readers.len() == 1));
    assert!(answer.try_recv().is_err(), "what becomes of the read is for the driver to say");
}
