//! Checkpoints, compaction and the pauses between failed snapshot streams.

use raft::eraftpb::MessageType;

use super::{NOW, Node, message};
use crate::consensus::snapshots::Snapshots;
use crate::consensus::snapshots::reclaim::Reclaim;
use crate::model::Code;
use crate::storage::Error;

#[test]
fn failed_streams_to_a_member_are_spaced_by_a_pause_that_doubles_to_a_minute() {
    let (mut node, mut snapshots) = (Node::leader(2), Snapshots::default());
    for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        let offer = raft::eraftpb::Message { from: 77, to: 2, ..message(MessageType::MsgSnapshot, 77, 1) };
        snapshots.begin_stream(&mut node.core, offer).unwrap();
        snapshots.stream_ended(&mut node.core, 2, Err("the link broke".into()));
        assert_eq!(node.core.raw.store().not_before.get(&2), Some(&(NOW + pause)));
        assert!(!node.core.raw.store().streaming.get());
    }
}

#[test]
fn the_log_behind_a_stream_is_kept_for_its_receiver() {
    let (mut node, mut snapshots) = (Node::leader(2), Snapshots::default());
    let index = node.core.applied();
    snapshots.compact_to = index + 5;
    assert_eq!(snapshots.kept_from(&node.core), index + 5);
    let offer = raft::eraftpb::Message { from: 77, to: 2, ..message(MessageType::MsgSnapshot, 77, 1) };
    snapshots.begin_stream(&mut node.core, offer).unwrap();
    assert_eq!(snapshots.kept_from(&node.core), index);
    let metadata = raft::eraftpb::SnapshotMetadata { index: index + 2, ..Default::default() };
    snapshots.stream_ended(&mut node.core, 2, Ok(metadata));
    assert_eq!(snapshots.kept_from(&node.core), index + 2, "for as long as the receiver needs it");
}

#[test]
fn below_the_floor_a_checkpoint_on_request_is_refused_and_a_stream_fails() {
    // A floor that no disk is above, and none.
    for (reserve, expected) in [(u64::MAX / 2, Some(Err(Code::DiskNearlyFull))), (0, None)] {
        let (mut node, mut snapshots) = (Node::leader_with_reserve(2, Some(reserve)), Snapshots::default());
        let (send, answer) = std::sync::mpsc::channel();
        snapshots.snapshot_now(&node.core, NOW + 1_000, Box::new(move |result| drop(send.send(result))));
        let offer = raft::eraftpb::Message { from: 77, to: 2, ..message(MessageType::MsgSnapshot, 77, 1) };
        snapshots.begin_stream(&mut node.core, offer).unwrap();
        snapshots.run_snapshots(&mut node.core).unwrap();
        assert_eq!(answer.try_recv().ok().map(|result| result.map_err(|refusal| refusal.code)), expected);
        let failure = node.core.raw.store().stream_failures.get(&2);
        assert_eq!(failure.is_some_and(|reason| reason.contains("the sender's disk")), reserve > 0);
        assert_eq!(node.sent.tokens("stream").is_empty(), reserve > 0);
    }
}

#[test]
fn a_snapshot_on_request_waits_for_the_sync_or_its_deadline() {
    let refused = |later| {
        let (mut node, mut snapshots) = (Node::leader(1), Snapshots::default());
        let (send, answer) = std::sync::mpsc::channel();
        snapshots.snapshot_now(&node.core, NOW + 1_000, Box::new(move |result| drop(send.send(result))));
        snapshots.run_snapshots(&mut node.core).unwrap();
        let mark = node.core.state_machine.applied();
        node.core.at(NOW + later);
        if later == 0 {
            snapshots.flushed(&mut node.core, mark, Ok(0)).unwrap();
        }
        snapshots.run_snapshots(&mut node.core).unwrap();
        answer.try_recv().ok().map(|result| result.map_err(|refusal| refusal.code))
    };
    for (later, expected) in [(0, Some(Ok(()))), (999, None), (1_000, Some(Err(Code::Timeout)))] {
        assert_eq!(refused(later), expected, "{later} ms later");
    }
}

#[test]
fn an_error_of_a_rewrite_that_is_in_use_no_more_ends_no_node() {
    let (mut node, mut snapshots) = (Node::leader(2), Snapshots::default());
    let rewrite = |node: &mut Node| Box::new(node.core.data_dir.rewrite(&node.core.state_machine).unwrap());
    let failure = || Error::Damaged { what: "1/machine-2".into(), detail: "it is missing".into(), path: "d".into() };
    // A snapshot was installed while the slice was copied, and the folder of its generation was removed as garbage.
    let abandoned = rewrite(&mut node);
    snapshots.reclaim.sliced(&mut node.core, Some(abandoned), Err(failure())).unwrap();
    let present = rewrite(&mut node);
    snapshots.reclaim = Reclaim::Slicing(present.id(), NOW);
    assert!(snapshots.reclaim.sliced(&mut node.core, Some(present), Err(failure())).is_err());
}

#[test]
fn a_rewrite_has_its_turn_between_flushes_that_follow_each_other() {
    let (mut node, mut snapshots) = (Node::leader(2), Snapshots::default());
    let rewrite = |node: &mut Node| Box::new(node.core.data_dir.rewrite(&node.core.state_machine).unwrap());
    let due = |snapshots: &mut Snapshots, node: &Node| {
        snapshots.snapshot_now(&node.core, NOW + 60_000, Box::new(drop));
    };
    due(&mut snapshots, &node);
    snapshots.run_snapshots(&mut node.core).unwrap();
    let mark = node.core.state_machine.applied();
    node.core.at(NOW + 400);
    snapshots.flushed(&mut node.core, mark, Ok(0)).unwrap();
    // The next flush is due at once. A quarter of the time of the last one is the rewrite's.
    for (ms, slices) in [(400, true), (499, true), (500, false)] {
        node.core.at(NOW + ms);
        due(&mut snapshots, &node);
        snapshots.reclaim = Reclaim::Between(rewrite(&mut node), NOW);
        snapshots.run_snapshots(&mut node.core).unwrap();
        let did = (snapshots.reclaim.is_slicing(), node.core.state_machine.is_flushing());
        assert_eq!(did, (slices, !slices), "{ms} ms after the first flush began");
    }
}
