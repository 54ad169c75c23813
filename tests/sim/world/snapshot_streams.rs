//! Snapshot streams: copies of the state on their way from one node to another.
//!
//! ```text
//!   sender's loop:   Output::Stream (reader)   Output::Spool (spooler)
//!   Event::Scan:     the spooler reads the tree part by part; what was applied meanwhile is spooled
//!   finish_snapshot: the loop of the sender ends the snapshot; the reader yields the last frames
//!   StreamArrives:   the receiver accepts (Input::Receive), its storage takes the frames, Input::Install
//!   end_stream:      Input::StreamEnded tells the sender, whatever has come of it
//! ```
//!
//! Invariants: the frames are those of the real reader, and are written by the real writer.

use std::collections::BTreeMap;

use huskv::consensus::{Input, InstallError};
use huskv::model::DiskSpace;
use huskv::storage::{Engine, Error, Frame, SnapshotReader, SnapshotTarget, Spooled, Spooler};
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::world::disk::Fault;
use crate::world::outbox::{Process, Reply};
use crate::world::{Event, World};

/// One of so many streams goes to a slow peer.
const SLOW_PEERS: u64 = 3;

/// The pairs of a scan: a tree has some hundred, and streams of several parts and of one are wanted.
const SCAN_PAIRS: [usize; 2] = [20, 1000];

/// The streams under way, by number.
pub type Streams = BTreeMap<u64, Stream>;

/// A stream under way.
pub struct Stream {
    from: Process,
    to: u64,
    message: Box<Message>,
    reader: Option<Box<SnapshotReader>>,
    frames: Vec<Vec<u8>>,
    metadata: SnapshotMetadata,
}

impl World {
    /// Begins a stream, which fails unless it ends within 30 s.
    pub fn begin_stream(&mut self, from: Process, to: u64, message: Box<Message>, mut reader: Box<SnapshotReader>) {
        self.sequence += 1;
        reader.set_scan_pairs(SCAN_PAIRS[usize::from(self.sequence.is_multiple_of(2))]);
        let (id, reader, metadata) = (self.sequence, Some(reader), SnapshotMetadata::default());
        self.streams.insert(id, Stream { from, to, message, reader, frames: Vec::new(), metadata });
        self.after(30_000, Event::StreamTimeout(id));
    }

    /// Reads one more part of the tree.
    pub fn scan(&mut self, process: Process, token: u64, mut spooler: Box<Spooler>) {
        let result = match self.scan_part(process, &mut spooler) {
            Ok(true) => {
                // To a slow peer the state changes its tree between two parts.
                let slowness = if token.is_multiple_of(SLOW_PEERS) { 20 } else { 1 };
                let delay = slowness * (1 + self.rng.below(60));
                return self.after(delay, Event::Scan(process, token, spooler));
            }
            Ok(false) => {
                self.nodes[process.0].finished_spooler = Some(spooler);
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        let failed = result.is_err();
        self.handle_event(Event::Input(process, Box::new(Input::Scanned { token, result })));
        if failed {
            self.fail_streams_of(process, "the scan failed");
        }
    }

    /// Spools what was applied meanwhile, then reads one part of the tree; whether there is more of it.
    ///
    /// The order matters: a change that is applied to a part that was already read must be in a later frame.
    fn scan_part(&mut self, process: Process, spooler: &mut Spooler) -> Result<bool, Error> {
        // First everything that was applied up to here, then the next part of the tree.
        while spooler.step()?.is_some() {}
        let Some((_, stream)) = self.streams.iter_mut().rfind(|(_, stream)| stream.from == process) else {
            return Ok(true);
        };
        let Some(reader) = &mut stream.reader else { return Ok(true) };
        let before = reader.scans();
        while reader.scans() == before
            && let Some(Frame::Scan(changes) | Frame::Effects(changes)) = reader.try_next()?
        {
            stream.frames.push(changes);
        }
        while let Some(done) = spooler.step()? {
            if done == Spooled::Scanned {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the scan on the loop of the sender, and sends the last frames.
    pub fn finish_snapshot(&mut self, at: usize, mut spooler: Box<Spooler>) {
        let process = (at, self.nodes[at].starts);
        let whole = loop {
            match spooler.step() {
                Ok(Some(Spooled::Complete)) => break true,
                Ok(Some(_)) => {}
                // It waits for a flush.
                Ok(None) => {
                    self.nodes[at].finished_spooler = Some(spooler);
                    return;
                }
                Err(_) => break false,
            }
        };
        // A node sends one stream at a time, so the latest one of this process is the one that was scanned.
        let Some((&stream, _)) = self.streams.iter().rfind(|(_, stream)| stream.from == process) else { return };
        if !whole {
            return self.fail_streams_of(process, "the snapshot was given up");
        }
        if let Some(entry) = self.streams.get_mut(&stream)
            && let Some(mut reader) = entry.reader.take()
        {
            loop {
                match reader.next() {
                    Ok(Frame::Scan(changes) | Frame::Effects(changes)) => entry.frames.push(changes),
                    Ok(Frame::End(metadata)) => {
                        entry.metadata = metadata;
                        break;
                    }
                    Err(failure) => return self.fail(format!("a complete snapshot cannot be read: {failure}")),
                }
            }
        }
        let delay = 5 + self.rng.below(200);
        self.after(delay, Event::StreamArrives(stream));
    }

    /// Ends all streams of a process without success.
    pub fn fail_streams_of(&mut self, process: Process, why: &str) {
        let theirs: Vec<u64> = self.streams.iter().filter(|(_, s)| s.from == process).map(|(id, _)| *id).collect();
        for stream in theirs {
            self.end_stream(stream, Err(why.to_owned()));
        }
    }

    /// Ends a stream, and reports that to its sender.
    pub fn end_stream(&mut self, stream: u64, result: Result<SnapshotMetadata, String>) {
        if let Some(Stream { from, to, .. }) = self.streams.remove(&stream) {
            self.after(1, Event::Input(from, Box::new(Input::StreamEnded { to, result })));
        }
    }

    /// Asks the receiver to accept a stream, unless the connection breaks.
    pub fn stream_arrives(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = (stream.from, stream.to);
        let cluster = self.nodes[from.0].table.cluster_id;
        let target = self.incarnation(to, cluster).filter(|at| self.connected(from.0, *at));
        // A stream has a connection of its own, so it needs a handshake of its own.
        let target = target.filter(|at| self.handshake(from.0, *at));
        let Some(at) = target.filter(|_| !(self.faults && self.rng.chance(20))) else {
            return self.end_stream(id, Err("the connection broke".into()));
        };
        let sender = self.streams[&id].message.from;
        let reply =
            self.nodes[at].outbox.reply(move |reception| Reply::Receive { stream: id, reception: Box::new(reception) });
        let process = (at, self.nodes[at].starts);
        self.handle_event(Event::Input(process, Box::new(Input::Receive { from: sender, reply })));
    }

    /// Writes the frames of an accepted stream, and has them installed.
    pub fn receive(&mut self, id: u64, reception: Result<SnapshotTarget, InstallError>) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (to, from) = (stream.to, stream.from);
        let reception = match reception {
            Ok(reception) => reception,
            Err(error) => return self.end_stream(id, Err(error.0)),
        };
        let metadata = stream.metadata.clone();
        let Some(at) = self.incarnation(to, self.nodes[from.0].table.cluster_id) else {
            return self.end_stream(id, Err("the receiver is gone".into()));
        };
        // On a real node a disk that fails here ends the stream alone, which is not simulated: the writes always pass.
        let engine = self.nodes[at].engine.clone();
        let fault = engine.fault();
        if matches!(fault, Fault::FailAfter(_)) {
            engine.set_fault(Fault::None);
        }
        // The receiver writes into a new generation of its state, which nothing names until the snapshot is installed.
        let received = reception.open(0).and_then(|mut writer| {
            stream.frames.iter().try_for_each(|frame| writer.write(frame))?;
            writer.finish(&metadata)
        });
        if matches!(fault, Fault::FailAfter(_)) {
            engine.set_fault(fault);
        }
        let received = match received {
            Ok(received) => received,
            // A crash or a full disk explains a refusal. Nothing else does: the sender has made the snapshot whole.
            Err(failure) if engine.has_crashed() || engine.space().is_some_and(DiskSpace::is_nearly_full) => {
                return self.end_stream(id, Err(failure.to_string()));
            }
            Err(failure) => return self.fail(format!("n{at} refuses a complete snapshot: {failure}")),
        };
        let mut message = self.streams[&id].message.clone();
        message.mut_snapshot().set_metadata(metadata.clone());
        let reply = self.nodes[at].outbox.reply(move |result| Reply::Installed { stream: id, metadata, result });
        let process = (at, self.nodes[at].starts);
        let delay = 1 + self.rng.below(50);
        self.after(delay, Event::Input(process, Box::new(Input::Install { message, received, reply })));
    }
}
