//! Why a leader lost its lead, and why a follower has another one, by what was noted before.

use raft::eraftpb::{Message, MessageType};

use super::{NOW, Node, message};
use crate::consensus::liveness::leader_history::LeaderHistory;
use crate::model::Millis;
use crate::telemetry::node_events::{LeaderChange, Reason};

/// The time of a tick of these tests.
const TICK: Millis = 100;

/// Lets time pass in ticks, in which these peers send messages.
fn pass(node: &mut Node, history: &mut LeaderHistory, ms: Millis, present: &[u64]) {
    let begin = node.core.now;
    for now in (begin + TICK..=begin + ms).step_by(100) {
        node.core.at(now);
        history.tick(&node.core, &node.live);
        present.iter().for_each(|peer| node.live.contacted(&node.core, *peer));
    }
}

/// A leader of three that has led for a while, and its history.
fn leading() -> (Node, LeaderHistory) {
    let (mut node, mut history) = (Node::leader(3), LeaderHistory::default());
    history.tick(&node.core, &node.live);
    assert_eq!(history.leader_known(&node.core).map(|change| change.reason), Some(Reason::Restart));
    pass(&mut node, &mut history, 5_000, &[2, 3]);
    (node, history)
}

fn lost((node, mut history): (Node, LeaderHistory)) -> LeaderChange {
    let lost = history.lost_lead(&node.core, &node.live);
    assert_eq!((lost.from.as_deref(), lost.to.as_deref()), (Some("n1"), None));
    lost
}

#[test]
fn a_leader_that_gives_way_in_contact_with_all_steps_down() {
    let lost = lost(leading());
    assert_eq!((lost.reason, lost.last_contact_ms, lost.stalled_ms), (Reason::SteppedDown, Some(0), None));
}

#[test]
fn a_leader_without_a_majority_is_partitioned_and_names_its_last_contact() {
    let (mut node, mut history) = leading();
    pass(&mut node, &mut history, 300, &[3]);
    pass(&mut node, &mut history, 1_500, &[]);
    // The message that says so is the first contact.
    node.live.contacted(&node.core, 2);
    let lost = lost((node, history));
    assert_eq!((lost.reason, lost.last_contact_ms), (Reason::Partition, Some(1_500)));
    assert_eq!(lost.last_contact.as_deref(), Some("n3"));
}

#[test]
fn a_leader_that_stood_still_missed_heartbeats_or_had_a_slow_sync() {
    for (sync, reason) in
        [(None, Reason::MissedHeartbeats), (Some(40), Reason::MissedHeartbeats), (Some(2_900), Reason::SlowSync)]
    {
        for ticks_before in [true, false] {
            let (mut node, mut history) = leading();
            node.core.at(node.core.now + 3_000);
            if let Some(sync) = sync {
                node.core.syncs.note(node.core.now, sync, 5_000);
            }
            if ticks_before {
                history.tick(&node.core, &node.live);
            }
            node.live.contacted(&node.core, 2);
            let lost = lost((node, history));
            assert_eq!((lost.reason, lost.stalled_ms, lost.longest_sync_ms), (reason, Some(3_000), sync), "{lost:?}");
        }
    }
    // It was long ago.
    let (mut node, mut history) = leading();
    node.core.at(node.core.now + 3_000);
    pass(&mut node, &mut history, 5_000, &[2, 3]);
    assert_eq!(lost((node, history)).reason, Reason::SteppedDown);
}

#[test]
fn a_transfer_is_one_for_who_hands_over_and_for_who_takes_over() {
    let (mut node, mut history) = leading();
    let term = node.core.raw.raft.term + 1;
    let asks =
        Message { context: b"CampaignTransfer".to_vec().into(), ..message(MessageType::MsgRequestVote, 2, term) };
    history.received(&node.core, &asks);
    node.core.raw.step(asks).unwrap();
    assert!(!node.core.leads());
    assert_eq!(lost((node, history)).reason, Reason::Transfer);
}

/// A request for a vote, as a transfer to node 3 causes it.
fn transfer_election(term: u64) -> Message {
    Message { context: b"CampaignTransfer".to_vec().into(), ..message(MessageType::MsgRequestVote, 3, term) }
}

#[test]
fn what_ends_a_lead_that_a_transfer_began_is_no_transfer() {
    let (mut node, mut history) = (Node::leader(3), LeaderHistory::default());
    history.received(&node.core, &transfer_election(node.core.raw.raft.term));
    history.leader_known(&node.core).expect("a leader");
    pass(&mut node, &mut history, 300, &[2, 3]);
    pass(&mut node, &mut history, 1_500, &[]);
    node.live.contacted(&node.core, 2);
    assert_eq!(lost((node, history)).reason, Reason::Partition);

    let (mut node, mut history) = (Node::follower(3), LeaderHistory::default());
    history.leader_contact(&node.core);
    history.leader_known(&node.core).expect("a leader");
    let term = node.core.raw.raft.term + 1;
    history.received(&node.core, &transfer_election(term));
    node.core.raw.step(message(MessageType::MsgHeartbeat, 3, term)).unwrap();
    history.leader_contact(&node.core);
    assert_eq!(history.leader_known(&node.core).map(|change| change.reason), Some(Reason::Transfer));
    pass(&mut node, &mut history, 1_500, &[2]);
    let (reason, silence, _) = history.stands(&node.core).expect("the first attempt");
    assert_eq!((reason, silence), (Reason::MissedHeartbeats, Some(1_500)));
}

#[test]
fn a_follower_says_how_long_it_missed_its_leader() {
    for (silence, reason) in [(1_500, Reason::MissedHeartbeats), (200, Reason::SteppedDown)] {
        let (mut node, mut history) = (Node::follower(3), LeaderHistory::default());
        history.leader_contact(&node.core);
        assert_eq!(history.leader_known(&node.core).map(|change| change.to), Some(Some("n2".into())));
        assert!(history.leader_known(&node.core).is_none(), "the same leader in the same term is no change");
        pass(&mut node, &mut history, silence, &[3]);
        let (before, term) = (node.core.now, node.core.raw.raft.term + 1);
        node.core.raw.step(message(MessageType::MsgHeartbeat, 3, term)).unwrap();
        history.leader_contact(&node.core);
        let change = history.leader_known(&node.core).expect("another leader");
        assert_eq!((change.from.as_deref(), change.to.as_deref()), (Some("n2"), Some("n3")));
        assert_eq!((change.reason, change.last_contact_ms), (reason, Some(before - NOW)), "{change:?}");
    }
}

/// A follower of node 2, and its history.
fn following() -> (Node, LeaderHistory) {
    let (node, mut history) = (Node::follower(3), LeaderHistory::default());
    history.tick(&node.core, &node.live);
    history.leader_contact(&node.core);
    history.leader_known(&node.core).expect("a leader");
    (node, history)
}

/// Node 3 leads in the next term.
fn succeeded(node: &mut Node, history: &mut LeaderHistory) -> LeaderChange {
    let term = node.core.raw.raft.term + 1;
    node.core.raw.step(message(MessageType::MsgHeartbeat, 3, term)).unwrap();
    history.leader_contact(&node.core);
    history.leader_known(&node.core).expect("another leader")
}

#[test]
fn a_leader_that_stood_still_before_it_was_cut_off_is_partitioned() {
    for (awake, present, reason) in
        [(700, &[2_u64, 3][..], Reason::Partition), (0, &[], Reason::Partition), (1_500, &[2, 3], Reason::Partition)]
    {
        let (mut node, mut history) = leading();
        node.core.at(node.core.now + 900);
        history.tick(&node.core, &node.live);
        // What had arrived meanwhile.
        [2, 3].iter().for_each(|peer| node.live.contacted(&node.core, *peer));
        pass(&mut node, &mut history, awake, present);
        pass(&mut node, &mut history, 1_200, &[]);
        node.live.contacted(&node.core, 2);
        let lost = lost((node, history));
        assert_eq!(lost.reason, reason, "{lost:?}");
    }
    // In contact with all again for a while: another node's higher term is not of the stall.
    let (mut node, mut history) = leading();
    node.core.at(node.core.now + 900);
    pass(&mut node, &mut history, 1_500, &[2, 3]);
    assert_eq!(lost((node, history)).reason, Reason::SteppedDown);
}

#[test]
fn a_follower_that_stood_still_says_so_and_was_not_cut_off() {
    for (sync, reason) in [(None, Reason::MissedHeartbeats), (Some(2_900), Reason::SlowSync)] {
        let (mut node, mut history) = following();
        pass(&mut node, &mut history, 300, &[2, 3]);
        history.leader_contact(&node.core);
        node.core.at(node.core.now + 3_000);
        if let Some(sync) = sync {
            node.core.syncs.note(node.core.now, sync, 5_000);
        }
        pass(&mut node, &mut history, 100, &[3]);
        let change = succeeded(&mut node, &mut history);
        assert_eq!((change.reason, change.stalled_ms), (reason, Some(3_100)), "{change:?}");
        assert!(change.detail().contains("for 3100 ms, and it heard nothing of n2 meanwhile"), "{}", change.detail());
    }
    // Messages of a dead leader that had arrived meanwhile, then those of its successor.
    let (mut node, mut history) = following();
    node.core.at(node.core.now + 3_000);
    history.leader_contact(&node.core);
    let change = succeeded(&mut node, &mut history);
    assert_eq!((change.reason, change.stalled_ms), (Reason::MissedHeartbeats, Some(3_000)), "{change:?}");
    assert_eq!(change.last_contact_ms, Some(3_000));
    // On a busy machine these messages are handled late.
    let (mut node, mut history) = following();
    node.core.at(node.core.now + 6_000);
    pass(&mut node, &mut history, 400, &[2, 3]);
    history.leader_contact(&node.core);
    pass(&mut node, &mut history, 900, &[3]);
    let (_, silence, _) = history.stands(&node.core).unwrap();
    assert!(silence >= Some(7_000), "{silence:?}");
    let change = succeeded(&mut node, &mut history);
    assert_eq!((change.reason, change.stalled_ms), (Reason::MissedHeartbeats, Some(6_100)), "{change:?}");
    assert!(change.last_contact_ms >= Some(7_000), "{change:?}");
    // The leader was heard again after the stall.
    let (mut node, mut history) = following();
    node.core.at(node.core.now + 1_500);
    pass(&mut node, &mut history, 600, &[2, 3]);
    history.leader_contact(&node.core);
    pass(&mut node, &mut history, 1_200, &[3]);
    let change = succeeded(&mut node, &mut history);
    assert_eq!((change.reason, change.stalled_ms), (Reason::MissedHeartbeats, None), "{change:?}");
    assert_eq!(change.last_contact_ms, Some(1_200));
    // The silence of all others went on after the stall.
    let (mut node, mut history) = following();
    node.core.at(node.core.now + 3_000);
    pass(&mut node, &mut history, 2_000, &[]);
    let change = succeeded(&mut node, &mut history);
    assert_eq!((change.reason, change.stalled_ms), (Reason::Partition, None), "{change:?}");
}

#[test]
fn a_leader_that_leads_again_does_not_speak_of_itself_as_of_another_node() {
    let (mut node, mut history) = leading();
    pass(&mut node, &mut history, 1_500, &[]);
    history.lost_lead(&node.core, &node.live);
    assert_eq!(history.last_leader(&node.core), (Some("n1".into()), true));
    let term = node.core.raw.raft.term + 1;
    node.core.raw.raft.become_follower(term, 0);
    node.core.raw.raft.become_candidate();
    node.core.raw.raft.become_leader();
    let detail = history.leader_known(&node.core).expect("a new term").detail();
    assert!(detail.starts_with("n1 leads again: no contact with a majority"), "{detail}");
}
