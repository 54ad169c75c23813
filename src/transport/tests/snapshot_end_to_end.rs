//! Snapshot streams between real disks: the receiver has the sender's state, or the stream has failed.

use std::path::Path;

use raft::eraftpb::SnapshotMetadata;
use tokio::sync::oneshot;

use super::*;
use crate::consensus::{InstallError, Reply};
use crate::model::Command;
use crate::storage::{
    Applied, DataDir, Incarnation, OpenOptions, Operation, ReceivedSnapshot, SledEngine, Spooled, StateMachine,
};

type Scanned = oneshot::Receiver<()>;

/// How many keys of 1 KiB a test's machine has.
const KEYS: u64 = 3_000;
/// What a copy may take on disk.
const SPOOL_BYTES: u64 = 64 << 20;

fn data_dir(dir: &Path, name: &str) -> (DataDir, Incarnation) {
    let mut next = name.len() as u64;
    let mint = move || {
        next += 1;
        next
    };
    let boot = OpenOptions {
        name: name.into(),
        raft_address: "127.0.0.1:1".into(),
        http_address: "127.0.0.1:2".into(),
        cache_bytes: 8 << 20,
        picked_http_port: None,
        picked_raft_port: None,
        random: Box::new(mint),
    };
    DataDir::open(Arc::new(SledEngine::new(dir).unwrap()), boot).unwrap()
}

fn key(number: u64) -> Vec<u8> {
    format!("key{number:05}").into_bytes()
}

fn fill(state_machine: &mut StateMachine, keys: std::ops::Range<u64>) {
    let mut index = state_machine.applied().0;
    let entries = keys.map(|number| {
        index += 1;
        let put = Command::put(key(number), vec![b'0' + (number % 10) as u8; 1_000]);
        Applied { index, term: 1, operation: Operation::Command(put.into()) }
    });
    state_machine.apply(entries.collect(), usize::MAX).unwrap();
}

/// Begins to stream a copy of `state_machine` from `a` to node 2. What is applied meanwhile is spooled on a thread, which tells
/// when the scan is at its end: only then may the machine end the copy.
fn stream(
    a: &mut Node,
    data_dir: &DataDir,
    state_machine: &mut StateMachine,
) -> (std::thread::JoinHandle<()>, Scanned) {
    let (scanned, scan_end) = oneshot::channel();
    let scratch = data_dir.engine().scratch().unwrap();
    let (mut spooler, reader) = state_machine.begin_snapshot(scratch, SPOOL_BYTES);
    let mut message = Message { msg_type: MessageType::MsgSnapshot, from: 1, to: 2, term: 1, ..Message::default() };
    // What raft asked for is older than what is sent in the end.
    message.mut_snapshot().set_metadata(SnapshotMetadata { index: 1, term: 1, ..Default::default() });
    a.post.stream(2, message, reader);
    let making = std::thread::spawn(move || {
        let mut scanned = Some(scanned);
        // An error is what the aborted ones end in.
        while let Ok(done) = spooler.wait()
            && done != Spooled::Complete
        {
            if let Some(scanned) = scanned.take_if(|_| done == Spooled::Scanned) {
                _ = scanned.send(());
            }
        }
    });
    (making, scan_end)
}

/// Takes the next stream into `data_dir`.
async fn accept(b: &mut Node, data_dir: &mut DataDir) {
    let reply = b.wait(|input| if let Input::Receive { from: 1, reply } = input { Some(reply) } else { None }).await;
    reply(data_dir.reserve_generation().map_err(|error| InstallError(error.to_string())));
}

async fn install(b: &mut Node) -> (Box<Message>, ReceivedSnapshot, Reply<Result<(), InstallError>>) {
    b.wait(|input| match input {
        Input::Install { message, received, reply } => Some((message, received, reply)),
        _ => None,
    })
    .await
}

async fn ended(a: &mut Node) -> Result<SnapshotMetadata, String> {
    a.wait(|input| if let Input::StreamEnded { to: 2, result } = input { Some(result) } else { None }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_the_state_at_its_end() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (volume_a, mut from) = data_dir(ours.path(), "a");
    let (mut volume_b, _to) = data_dir(theirs.path(), "b");
    let (mut a, mut b) = pair().await;
    fill(&mut from.state_machine, 0..KEYS);
    let (making, scanned) = stream(&mut a, &volume_a, &mut from.state_machine);
    accept(&mut b, &mut volume_b).await;
    // Written while the copy is made.
    fill(&mut from.state_machine, KEYS..KEYS + 100);
    scanned.await.unwrap();
    from.state_machine.flush().unwrap();
    from.state_machine.end_snapshot();
    let end = from.state_machine.applied();
    fill(&mut from.state_machine, KEYS + 100..KEYS + 200);
    let (message, received, reply) = install(&mut b).await;
    let metadata = message.get_snapshot().get_metadata();
    assert_eq!((metadata.index, metadata.term), end);
    assert_eq!((message.from, message.to, message.term), (1, 2, 1));
    let state_machine = received.state_machine();
    assert_eq!((state_machine.applied(), state_machine.keys()), (end, KEYS + 100));
    for number in [0, 7, KEYS - 1, KEYS, KEYS + 99] {
        let value = state_machine.get(&key(number)).unwrap().unwrap().value.clone();
        assert_eq!(value.bytes, vec![b'0' + (number % 10) as u8; 1_000]);
    }
    assert!(!a.was_reported(), "not ended before it is in use there");
    reply(Ok(()));
    assert_eq!(ended(&mut a).await.unwrap().index, end.0);
    making.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_or_oversized_snapshot_leaves_nothing_behind() {
    use crate::transport::handshake::{Hello, Purpose};
    use crate::transport::wire::Frame;
    use crate::transport::wire::frame_limits::ANY;
    use crate::transport::wire::framing::{read_frame_within, write_frame_within};
    let dir = tempfile::tempdir().unwrap();
    let (mut data_dir, _incarnation) = data_dir(dir.path(), "b");
    let folder = dir.path().join(data_dir.identity().raft_id.to_string());
    let folders = || std::fs::read_dir(&folder).unwrap().count();
    let before = folders();
    let mut b = Node::start(2);
    b.publish(&[]);
    let hello = Hello {
        purpose: Purpose::Snapshot,
        cluster_id: CLUSTER,
        from: 1,
        to: 2,
        node_id: "node1".into(),
        raft_address: "h:1".into(),
        moved: false,
        boot_history: BootHistory::default(),
        known: None,
    };
    for (bytes, frame) in [(0, Some(vec![1; 1 << 20])), (0, None), (u64::MAX - 1, None)] {
        let mut stream =
            crate::transport::handshake::dial::dial(&b.address, &hello, &plain(), TEST_TIMEOUT).await.unwrap().stream;
        write_frame_within(&mut stream, &Frame::Announce { index: 1, bytes }, TEST_TIMEOUT).await.unwrap();
        accept(&mut b, &mut data_dir).await;
        match frame {
            // It breaks off.
            None if bytes == 0 => drop(stream),
            frame => {
                if let Some(changes) = frame {
                    write_frame_within(&mut stream, &Frame::Changes(changes), TEST_TIMEOUT).await.unwrap();
                }
                let outcome = loop {
                    match read_frame_within(&mut stream, ANY, TEST_TIMEOUT).await.unwrap() {
                        Frame::Ping => {}
                        frame => break frame,
                    }
                };
                assert!(matches!(outcome, Frame::Taken(Err(_))), "{outcome:?}");
            }
        }
        let cleared = async {
            while folders() != before || b.transport.as_ref().unwrap().registry.reception.available_permits() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, cleared).await.expect("the folder is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_ends_once_and_can_be_repeated() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (volume_a, mut from) = data_dir(ours.path(), "a");
    let (mut volume_b, _to) = data_dir(theirs.path(), "b");
    let (mut a, mut b) = pair().await;
    fill(&mut from.state_machine, 0..KEYS);
    // The sender gives the copy up.
    let (making, scanned) = stream(&mut a, &volume_a, &mut from.state_machine);
    accept(&mut b, &mut volume_b).await;
    from.state_machine.abort_snapshot();
    drop(scanned);
    making.join().unwrap();
    assert!(ended(&mut a).await.is_err());
    // The receiver will not have it in the end.
    let (making, scanned) = stream(&mut a, &volume_a, &mut from.state_machine);
    accept(&mut b, &mut volume_b).await;
    scanned.await.unwrap();
    from.state_machine.flush().unwrap();
    from.state_machine.end_snapshot();
    let (_, received, reply) = install(&mut b).await;
    drop(received);
    reply(Err(InstallError("too old".into())));
    assert_eq!(ended(&mut a).await.unwrap_err(), "too old");
    making.join().unwrap();
    // It works in the end.
    let (making, scanned) = stream(&mut a, &volume_a, &mut from.state_machine);
    accept(&mut b, &mut volume_b).await;
    scanned.await.unwrap();
    from.state_machine.flush().unwrap();
    from.state_machine.end_snapshot();
    let (_, received, reply) = install(&mut b).await;
    assert_eq!(received.state_machine().keys(), KEYS);
    reply(Ok(()));
    assert!(ended(&mut a).await.is_ok());
    making.join().unwrap();
    // The receiver goes away in the middle.
    let (making, scanned) = stream(&mut a, &volume_a, &mut from.state_machine);
    accept(&mut b, &mut volume_b).await;
    drop(b.transport.take());
    drop(scanned);
    assert!(ended(&mut a).await.is_err());
    from.state_machine.abort_snapshot();
    making.join().unwrap();
    while let Ok(input) = a.inbox.peers.try_recv() {
        assert!(!matches!(bare(input), Input::StreamEnded { .. }), "told once");
    }
}
