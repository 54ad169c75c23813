//! Snapshot stream tests without a disk.

use tokio::sync::mpsc;

use super::*;
use crate::consensus::InstallError;
use crate::model::BootHistory;
use crate::storage;
use crate::transport::handshake::dial::{Established, dial};
use crate::transport::handshake::{Hello, Purpose};
use crate::transport::snapshot_stream::pace::Pace;
use crate::transport::snapshot_stream::stream_out;

fn hello(to: u64, purpose: Purpose) -> Hello {
    let (node_id, raft_address) = ("node1".into(), "h:1".into());
    Hello {
        purpose,
        cluster_id: CLUSTER,
        from: 1,
        to,
        node_id,
        raft_address,
        moved: false,
        boot_history: BootHistory::default(),
        known: None,
    }
}

fn snapshot() -> Message {
    Message { msg_type: MessageType::MsgSnapshot, from: 1, to: 2, term: 3, ..Message::default() }
}

#[tokio::test]
async fn a_snapshot_that_the_loop_refuses_fails_with_its_reason() {
    let mut b = Node::start(2);
    b.publish(&[]);
    let Established { stream, .. } =
        dial(&b.address, &hello(2, Purpose::Snapshot), &plain(), TEST_TIMEOUT).await.unwrap();
    // The sender is in the middle of it, and hears the reason all the same.
    let (frames, frames_end) = mpsc::channel(4);
    tokio::spawn(async move { while frames.send(Ok(storage::Frame::Scan(vec![0; 1 << 20]))).await.is_ok() {} });
    let sent = tokio::spawn(stream_out(stream, Arc::default(), snapshot(), (0, Pace::new(0, || false)), frames_end));
    let reply = b.wait(|input| if let Input::Receive { from: 1, reply } = input { Some(reply) } else { None });
    reply.await(Err(InstallError("one copy at a time".into())));
    let result = timeout(TEST_TIMEOUT, sent).await.unwrap().unwrap();
    assert_eq!(result.unwrap_err(), "one copy at a time");
}

#[tokio::test]
async fn an_incomplete_snapshot_is_a_failed_stream() {
    let mut b = Node::start(2);
    b.publish(&[]);
    let Established { stream, .. } =
        dial(&b.address, &hello(2, Purpose::Snapshot), &plain(), TEST_TIMEOUT).await.unwrap();
    let (frames, frames_end) = mpsc::channel(4);
    frames.send(Err("the cut was aborted".into())).await.unwrap();
    let result =
        timeout(TEST_TIMEOUT, stream_out(stream, Arc::default(), snapshot(), (0, Pace::new(0, || false)), frames_end))
            .await
            .unwrap();
    assert_eq!(result.unwrap_err(), "the cut was aborted");
    drop(b.wait(|input| if let Input::Receive { reply, .. } = input { Some(reply) } else { None }).await);
    b.lines.wait("snapshot stream ended").await;
}

#[tokio::test]
async fn a_snapshot_for_another_node_or_cluster_is_refused() {
    let mut b = Node::start(2);
    b.publish(&[]);
    assert!(dial(&b.address, &hello(3, Purpose::Snapshot), &plain(), TEST_TIMEOUT).await.is_err());
    let foreign = Hello { cluster_id: 8, ..hello(2, Purpose::Snapshot) };
    assert!(dial(&b.address, &foreign, &plain(), TEST_TIMEOUT).await.is_err());
    assert!(!b.was_reported());
}
