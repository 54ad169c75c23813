//! Snapshot streams: one snapshot on a connection of its own.
//!
//! Why: heartbeats must not wait behind gigabytes, and a failed stream must not end anything else.
//!
//! ```text
//!   sender                              receiver
//!   Announce (index, bytes) ---------->  loop: is it wanted? (only from the present leader)
//!   Changes, Changes, ... (Ping) ------>  writer thread: a new generation
//!   End (metadata) -------------------->  verify, sync, install
//!                         <------------  Taken (ok or reason), Ping meanwhile
//! ```
//!
//! Invariants: a stream has a bounded rate ([`pace`]), and ends with one result from the receiver. Every step has to be done within
//! [`PROGRESS`], the receiver's last one within [`FINISH`]. Disks are read and written on threads of their own. Before the receiver's loop has accepted the
//! announcement nothing is opened or read. One snapshot is received at a time: a newer one ends the older. Nothing is installed
//! before it is complete and durable, and an incomplete snapshot leaves nothing behind.
//!
//! See also: `storage::snapshot` (creation and verification), `consensus::snapshots` (when).

pub mod low_priority;
pub mod pace;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{Message, SnapshotMetadata};
use slog::info;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::admission::check_snapshot;
use super::handshake::dial::{Established, dial};
use super::handshake::{Hello, InboundPeer, Purpose, Welcome};
use super::link::counted_halves;
use super::shared_state::Registry;
use super::socket::{PeerStream, ReadHalf};
use super::wire::frame_limits;
use super::wire::framing::{read_frame_within, write_frame_within};
use super::wire::{Frame, WireError};
use crate::consensus::{Input, InstallError};
use crate::storage::{self, ReceivedSnapshot, SnapshotReader, SnapshotTarget};
use crate::telemetry::metrics::{PeerFigures, TransferProgress};
use crate::telemetry::node_events::Kind;
use pace::Pace;

/// The limit of one step of a stream.
const PROGRESS: Duration = Duration::from_secs(30);
/// The limit for the receiver to verify, sync and install the snapshot.
const FINISH: Duration = Duration::from_secs(600);
/// The limit of the dial.
const DIAL_LIMIT: Duration = Duration::from_secs(6);
/// How long to wait for the receiver's reason after the connection failed.
const OUTCOME_LIMIT: Duration = Duration::from_secs(1);
/// The interval of pings while there is nothing to send.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for the announcement.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(3);
/// How long an earlier stream may take to be cleaned up.
const PREVIOUS_STREAM_LIMIT: Duration = Duration::from_secs(20);
/// The interval of events and log lines about a stream that takes long.
const NOTED_EVERY: Duration = Duration::from_secs(10);
/// The maximum characters of a reason sent back.
const REASON_CHARS: usize = 1_000;
/// The frames, of 1 MiB each, buffered between disk and network.
const FRAMES_AHEAD: usize = 4;

/// A frame as read from storage, or the reason of a failure.
type ReadFrame = Result<storage::Frame, String>;

/// Streams a snapshot to the member `to` and waits for its result.
///
/// # Errors
/// Why it was not installed there, for the log.
pub async fn send(
    registry: &Registry,
    to: u64,
    message: Message,
    mut reader: SnapshotReader,
) -> Result<SnapshotMetadata, String> {
    let began = Instant::now();
    let metrics = registry.handle.metrics();
    // Until the receiver has answered: its install is part of what is waited for.
    let transfer = Arc::new(metrics.transfers.begin(to, reader.live_bytes(), reader.scan_watch()));
    let sending = async {
        let (stream, address) = dial_member(registry, to).await?;
        info!(registry.log, "snapshot stream started"; "to" => to, "address" => address);
        // At most 4 frames wait between the reader thread and the socket, so a slow peer stops the scan and not this
        // task's memory.
        let (bytes, (frames, frames_end)) = (reader.bytes(), mpsc::channel(FRAMES_AHEAD));
        metrics.snapshots.bytes.set(bytes);
        on_thread("snapshot-reader", move || read_frames(|| reader.next(), &frames))?;
        let handle = registry.handle.clone();
        let pace = Pace::new(registry.snapshot_bytes_per_second, move || handle.any_write());
        let pace = pace.counted(Arc::clone(&transfer));
        let figures = metrics.network.peer(to);
        stream_out(stream, figures, message, (bytes, pace), frames_end).await
    };
    let result = tokio::select! {
        result = sending => result,
        () = registry.stopped() => Err("this node is stopping".into()),
        never = note_progress(registry, to) => match never {},
    };
    let snapshots = &metrics.snapshots;
    match &result {
        Ok(_) => snapshots.send.observe(began.elapsed()),
        Err(_) => snapshots.sends_failed.inc(),
    }
    let outcome = result.as_ref().map_or_else(String::as_str, |_| "taken");
    info!(registry.log, "snapshot stream ended"; "to" => to, "outcome" => outcome, "ms" => ms(began));
    result
}

/// Notes again and again how far the stream to a member is.
async fn note_progress(registry: &Registry, to: u64) -> Infallible {
    loop {
        sleep(NOTED_EVERY).await;
        let listed = registry.table().and_then(|table| table.name_of(to).cloned());
        let streams = registry.handle.metrics().transfers.progress();
        let Some(stream) = streams.into_iter().find(|stream| stream.to == to) else { continue };
        let TransferProgress { bytes, total_bytes, bytes_per_second, .. } = stream;
        info!(registry.log, "snapshot stream goes on"; "to" => to, "bytes" => bytes, "of_about" => total_bytes,
            "bytes_per_second" => bytes_per_second);
        let to = listed.unwrap_or_else(|| to.to_string());
        registry.handle.events().note(Kind::SnapshotProgress { to, bytes, total_bytes, bytes_per_second });
    }
}

async fn dial_member(registry: &Registry, to: u64) -> Result<(PeerStream, String), String> {
    let addresses = {
        let directory = registry.directory();
        let peer_address = directory.dialled.get(&to).ok_or("it is not in the member table")?.borrow();
        let mut addresses = vec![peer_address.address(0).to_owned(), peer_address.address(1).to_owned()];
        addresses.dedup();
        addresses
    };
    let hello = registry.hello(Purpose::Snapshot, to);
    let mut failures = Vec::new();
    for address in addresses {
        match dial(&address, &hello, &registry.target(Some(to)), DIAL_LIMIT).await {
            Ok(Established { stream, welcome, .. }) if welcome.raft_id == to => {
                match registry.record_peer(to, &welcome.boot_history, true).await {
                    Ok(()) => return Ok((stream, address)),
                    Err(denial) => failures.push(format!("{address}: {denial}")),
                }
            }
            Ok(_) => failures.push(format!("{address}: another node answers there")),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    Err(failures.join("; "))
}

/// Reads the snapshot to its end, or until the stream is closed.
fn read_frames(
    mut next: impl FnMut() -> Result<storage::Frame, storage::Error> + Send,
    frames: &mpsc::Sender<ReadFrame>,
) {
    low_priority::run(low_priority::GIVES_WAY_FOR, || {
        let frame = next().map_err(|error| error.to_string());
        let last = !matches!(frame, Ok(storage::Frame::Scan(_) | storage::Frame::Effects(_)));
        (frames.blocking_send(frame).is_err() || last).then_some(())
    });
}

/// The sender's end of a stream; `size` is that of the state on its disk, with the pace of its frames.
pub async fn stream_out(
    stream: PeerStream,
    figures: Arc<PeerFigures>,
    message: Message,
    size: (u64, Pace),
    frames: mpsc::Receiver<ReadFrame>,
) -> Result<SnapshotMetadata, String> {
    let until_distrusted = stream.until_distrusted();
    let (mut reader, mut writer) = counted_halves::split(stream, &figures);
    let outcome = read_outcome(&mut reader);
    tokio::pin!(outcome);
    // The receiver may refuse at any time; its result is read while frames are sent.
    let sent = tokio::select! {
        biased;
        outcome = &mut outcome => return Err(outcome.err().unwrap_or_else(|| "it was accepted before its end".into())),
        sent = send_frames(&mut writer, message, size, frames) => sent,
        reason = until_distrusted => return Err(reason),
    };
    match sent {
        Ok(metadata) => {
            let outcome = timeout(FINISH, outcome).await;
            outcome.unwrap_or_else(|_| Err(format!("not in use there after {} s", FINISH.as_secs())))?;
            Ok(metadata)
        }
        // The receiver may have sent a reason before it closed.
        Err(SendError::Connection(error)) => Err(match timeout(OUTCOME_LIMIT, outcome).await {
            Ok(Err(reason)) => reason,
            _ => error.to_string(),
        }),
        Err(SendError::Snapshot(reason)) => Err(reason),
    }
}

/// Why a snapshot was not sent completely.
enum SendError {
    Connection(WireError),
    Snapshot(String),
}

async fn send_frames<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut message: Message,
    (bytes, mut pace): (u64, Pace),
    mut frames: mpsc::Receiver<ReadFrame>,
) -> Result<SnapshotMetadata, SendError> {
    let announce = Frame::Announce { index: message.get_snapshot().get_metadata().index, bytes };
    write_frame_within(writer, &announce, PROGRESS).await.map_err(SendError::Connection)?;
    let mut last = Instant::now();
    loop {
        let frame = match timeout(PING_EVERY, frames.recv()).await {
            // Behind the scan there may be nothing to send until the loop ends the snapshot. Pings keep the receiver
            // waiting meanwhile.
            Err(_) if last.elapsed() < PROGRESS => Frame::Ping,
            Err(_) => return Err(SendError::Snapshot(format!("nothing to send for {} s", PROGRESS.as_secs()))),
            Ok(None) => return Err(SendError::Snapshot("the snapshot ended early".into())),
            Ok(Some(Err(reason))) => return Err(SendError::Snapshot(reason)),
            Ok(Some(Ok(storage::Frame::Scan(changes)))) => {
                pace.wait(changes.len()).await;
                last = Instant::now();
                Frame::Changes(changes)
            }
            Ok(Some(Ok(storage::Frame::Effects(changes)))) => {
                pace.count_changes(changes.len());
                last = Instant::now();
                Frame::Changes(changes)
            }
            Ok(Some(Ok(storage::Frame::End(metadata)))) => {
                // The offer named the index where the snapshot began. It ends at this one, which is what raft installs.
                message.mut_snapshot().set_metadata(metadata.clone());
                let end = Frame::End(Box::new(message));
                write_frame_within(writer, &end, PROGRESS).await.map_err(SendError::Connection)?;
                return Ok(metadata);
            }
        };
        write_frame_within(writer, &frame, PROGRESS).await.map_err(SendError::Connection)?;
    }
}

/// Waits for the receiver's result.
async fn read_outcome<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(), String> {
    loop {
        match read_frame_within(reader, frame_limits::TAKEN, PROGRESS).await {
            Ok(Frame::Ping) => {}
            Ok(Frame::Taken(outcome)) => return outcome,
            Ok(other) => return Err(WireError::Unexpected(other.kind().1).to_string()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Receives a snapshot from a member. `who` describes the member in the log.
pub async fn receive(registry: &Registry, stream: PeerStream, peer: &InboundPeer, welcome: Welcome, who: &str) {
    let (hello, began) = (&peer.hello, Instant::now());
    info!(registry.log, "snapshot stream started"; "from" => who);
    let until_distrusted = stream.until_distrusted();
    let (reader, mut writer) = counted_halves::split(stream, &registry.handle.metrics().network.peer(hello.from));
    let mut reader = BufReader::new(reader);
    // Four tasks in one: the snapshot, pings to the sender, which must hear something every 30 s, and the ends of its
    // admission and of its certificate.
    let result = {
        let receiving = receive_snapshot(registry, &mut reader, hello, welcome);
        tokio::pin!(receiving);
        let until_denied = registry.until_denied(peer);
        tokio::pin!(until_denied, until_distrusted);
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                result = &mut receiving => break result,
                denial = &mut until_denied => break Err(denial.to_string()),
                reason = &mut until_distrusted => break Err(reason),
                () = registry.stopped() => break Err("the node is stopping".into()),
                _ = ping.tick() => {
                    if let Err(error) = write_frame_within(&mut writer, &Frame::Ping, PROGRESS).await {
                        break Err(error.to_string());
                    }
                }
            }
        }
    };
    let snapshots = &registry.handle.metrics().snapshots;
    match &result {
        Ok(()) => snapshots.install.observe(began.elapsed()),
        Err(_) => snapshots.installs_failed.inc(),
    }
    let outcome = result.as_ref().map_or_else(String::as_str, |()| "in use");
    info!(registry.log, "snapshot stream ended"; "from" => who, "outcome" => outcome, "ms" => ms(began));
    // Reads on after the result: closing over unread bytes would reset the connection and lose it.
    let outcome = result.map_err(|reason| reason.chars().take(REASON_CHARS).collect());
    if write_frame_within(&mut writer, &Frame::Taken(outcome), OUTCOME_LIMIT).await.is_ok()
        && matches!(timeout(OUTCOME_LIMIT, writer.shutdown()).await, Ok(Ok(())))
    {
        drop(timeout(OUTCOME_LIMIT, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await);
    }
}

/// The reason if the loop has stopped.
const STOPPING: &str = "the node is stopping";

/// The receiver's end of a stream, from the announcement to the install.
async fn receive_snapshot(
    registry: &Registry,
    reader: &mut BufReader<ReadHalf>,
    hello: &Hello,
    welcome: Welcome,
) -> Result<(), String> {
    let announced = match read_frame_within(reader, frame_limits::ANNOUNCE, ANNOUNCE_LIMIT).await {
        Ok(Frame::Announce { index, bytes }) => {
            registry.handle.metrics().snapshots.bytes.set(bytes);
            (index, bytes)
        }
        Ok(other) => return Err(WireError::Unexpected(other.kind().1).to_string()),
        Err(error) => return Err(error.to_string()),
    };
    let (reply, answer) = oneshot::channel();
    let reply = Box::new(move |result| drop(reply.send(result)));
    registry.handle.deliver(Input::Receive { from: hello.from, reply }).await;
    // The loop refuses a sender that does not lead before a byte is written here.
    let reception = answer.await.map_err(|_| STOPPING)?.map_err(|InstallError(reason)| reason)?;

    // The loop wants this one, so an earlier one, of a former leader, is obsolete.
    registry.receptions.send_modify(|count| *count += 1);
    let mut receptions = registry.receptions.subscribe();
    // The permit is held by the writer thread of an older stream until its generation is removed: two streams never write at
    // once, and disk space is free again.
    let permit = timeout(PREVIOUS_STREAM_LIMIT, Arc::clone(&registry.reception).acquire_owned()).await;
    let Ok(Ok(permit)) = permit else { return Err("an earlier snapshot is still being cleaned up".into()) };
    tokio::select! {
        result = write_and_install(registry, reader, (hello.from, welcome.raft_id), announced, (reception, permit)) => result,
        _ = receptions.changed() => Err("a newer snapshot is received instead".into()),
    }
}

/// Receives the announced snapshot into `reception`, while it holds the permit.
async fn write_and_install(
    registry: &Registry,
    reader: &mut BufReader<ReadHalf>,
    (from, to): (u64, u64),
    (index, bytes): (u64, u64),
    (reception, permit): (SnapshotTarget, OwnedSemaphorePermit),
) -> Result<(), String> {
    let (frames, frames_end) = mpsc::channel(FRAMES_AHEAD);
    let (written, mut written_end) = oneshot::channel();
    // The task reads the socket, the thread writes the tree, four frames at most between them. A slow disk stops the
    // reads, and so the sender.
    on_thread("snapshot-writer", move || {
        // A failed snapshot is removed before the permit is released.
        drop(written.send(write_frames(reception, bytes, frames_end)));
        drop(permit);
    })?;
    let written = loop {
        // A read cannot be resumed if the writer ends first, but then there is nothing left to read.
        let frame = tokio::select! {
            frame = read_frame_within(reader, frame_limits::SNAPSHOT, PROGRESS) => frame.map_err(|error| error.to_string())?,
            written = &mut written_end => break written,
        };
        let last = match &frame {
            Frame::Ping => continue,
            Frame::Changes(_) => false,
            Frame::End(message) => {
                check_snapshot(message, from, to)?;
                if message.get_snapshot().get_metadata().index < index {
                    return Err("it is older than what was announced".into());
                }
                true
            }
            other => return Err(WireError::Unexpected(other.kind().1).to_string()),
        };
        if frames.send(frame).await.is_err() || last {
            break written_end.await;
        }
    };
    // The generation is complete, verified and synced. The loop now installs it between two turns.
    let (received, message) = written.map_err(|_| "the snapshot could not be written")??;

    let (reply, answer) = oneshot::channel();
    let reply = Box::new(move |result| drop(reply.send(result)));
    registry.handle.deliver(Input::Install { message, received, reply }).await;
    answer.await.map_err(|_| STOPPING)?.map_err(|InstallError(reason)| reason)
}

/// Writes frames until the end; without an end the generation is dropped.
fn write_frames(
    reception: SnapshotTarget,
    announced: u64,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<(ReceivedSnapshot, Box<Message>), String> {
    let mut writer = Some(reception.open(announced).map_err(|error| error.to_string())?);
    low_priority::run(low_priority::GIVES_WAY_FOR, || match (writer.take(), frames.blocking_recv()) {
        (Some(mut open), Some(Frame::Changes(changes))) => {
            let failure = open.write(&changes).err();
            writer = Some(open);
            failure.map(|error| Err(error.to_string()))
        }
        (Some(open), Some(Frame::End(message))) => {
            let received = open.finish(message.get_snapshot().get_metadata());
            Some(received.map(|received| (received, message)).map_err(|error| error.to_string()))
        }
        _ => Some(Err("the stream ended early".to_owned())),
    })
}

/// Runs snapshot work on a thread of its own.
fn on_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|error| format!("no thread for it: {error}"))
}

fn ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
