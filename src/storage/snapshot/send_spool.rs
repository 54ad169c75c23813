//! The spool of a snapshot: a ring of frames in a scratch file, from flushes to the reader, and how far the scan is.
//!
//! Why: no flush may wait for a slow peer, so effects that the peer has not taken are in a file. The file may not grow without bound, so
//! over a bound, or on a nearly full disk, the snapshot is aborted. The tree itself is never spooled: its scan waits for the reader.
//!
//! ```text
//!   flush thread                           reader thread
//!   EffectSender --push--> ring file (<= spool_mb) --next--> peer
//!                          written ->      read ->
//! ```
//!
//! Invariants: one flush at a time, one spooler, one reader. If one of them goes away the others get an error and none waits for
//! ever. `read <= written`, and `written - read` is at most the bound. Effects keep the order in which they were applied. Frames
//! are checked against their checksum.
//!
//! See also: [`super`] (why the snapshot is exact).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use raft::eraftpb::SnapshotMetadata;

use super::frames::free_space_text;
use crate::model::DiskSpace;
use crate::storage::{Engine, Error};

/// The header of a frame in the file: length and checksum.
const FRAME_HEADER: usize = 8;

/// The size limit of a spool.
pub struct SpoolBound {
    bytes: u64,
    space: Box<dyn Fn() -> Option<DiskSpace> + Send + Sync>,
}

impl SpoolBound {
    /// Limits it to `bytes`, and to disks with more free space than their reserve.
    pub fn on(engine: Arc<dyn Engine>, bytes: u64) -> Self {
        Self { bytes, space: Box::new(move || engine.space()) }
    }
}

impl From<u64> for SpoolBound {
    /// Limits it to this many bytes, whatever the free disk space.
    fn from(bytes: u64) -> Self {
        Self { bytes, space: Box::new(|| None) }
    }
}

/// The state shared by state machine, spooler and reader.
pub(crate) struct Spool {
    file: File,
    bound: SpoolBound,
    state: Mutex<SpoolState>,
    changed: Condvar,
}

/// The end of a scan, in key order.
#[derive(Clone, Default)]
pub(super) enum ScanEnd {
    /// It has not begun.
    #[default]
    None,
    /// In front of this key.
    Before(Vec<u8>),
    /// The end of the tree.
    Tree,
}

impl ScanEnd {
    /// Whether it is behind this key.
    pub(super) fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::Before(end) => key < end.as_slice(),
            Self::Tree => true,
        }
    }
}

#[derive(Default)]
struct SpoolState {
    /// Where the part of the tree ends that is or was scanned. What is written from here on in key order is left to the scan.
    scan_end: ScanEnd,
    /// The reader has scanned the whole tree.
    scanned: bool,
    /// The metadata of the snapshot, set by the state machine; no effect comes after it.
    ended: Option<SnapshotMetadata>,
    /// Bytes written and read since the ring was last empty.
    written: u64,
    read: u64,
    /// `written` at the last scan of the tree: frames before this position are sent before the next scan.
    due: u64,
    /// The length of the file.
    extent: u64,
    /// All frames are written.
    sealed: bool,
    /// Why the snapshot was aborted.
    failed: Option<String>,
}

impl SpoolState {
    fn check(&self) -> Result<(), Error> {
        self.failed.as_ref().map_or(Ok(()), |detail| Err(Error::snapshot(detail.clone())))
    }
}

/// The next task of the spooler.
pub(crate) enum Work {
    /// The scan of the tree has ended.
    Scanned,
    /// No more effects will come.
    Ended,
}

impl Spool {
    /// Creates a spool in this file.
    pub(crate) fn new(file: File, mut bound: SpoolBound) -> Self {
        bound.bytes = bound.bytes.max(1);
        Self { file, bound, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Creates a sealed spool whose file has `written` bytes of frames.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn holding(file: File, written: u64) -> Self {
        let spool = Self::new(file, written.into());
        {
            let mut state = spool.lock();
            (state.written, state.sealed, state.ended) = (written, true, Some(SnapshotMetadata::default()));
        }
        spool
    }

    fn lock(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or until the snapshot is aborted.
    fn wait(&self, ready: impl Fn(&SpoolState) -> bool) {
        let waits = |state: &mut SpoolState| state.failed.is_none() && !ready(state);
        drop(self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner));
    }

    /// Aborts the snapshot for all three, unless it is complete.
    pub(crate) fn fail(&self, detail: impl Into<String>) {
        let mut state = self.lock();
        // Once all is in the file the reader needs neither state machine nor spooler, so their end does not matter to
        // it.
        if !state.sealed {
            state.failed.get_or_insert(detail.into());
        }
        self.changed.notify_all();
    }

    /// Aborts the snapshot because its reader was dropped.
    pub(crate) fn reader_gone(&self) {
        let mut state = self.lock();
        state.failed.get_or_insert("its reader is gone".into());
        self.changed.notify_all();
    }

    /// Returns the next task, if there is one; `scan_reported` says that the end of the scan was already returned.
    pub(crate) fn work(&self, scan_reported: bool) -> Result<Option<Work>, Error> {
        let state = self.lock();
        state.check()?;
        Ok(match (state.scanned && !scan_reported, &state.ended) {
            (true, _) => Some(Work::Scanned),
            (false, Some(_)) => Some(Work::Ended),
            (false, None) => None,
        })
    }

    /// Waits until [`Spool::work`] returns a task or an error.
    pub(crate) fn wait_for_work(&self, scan_reported: bool) {
        self.wait(|state| (state.scanned && !scan_reported) || state.ended.is_some());
    }

    /// The next part of the scan will go up to `end`, which is behind that of the part before.
    pub(super) fn scan_to(&self, end: ScanEnd) {
        self.lock().scan_end = end;
    }

    /// Where the present part of the scan ends.
    pub(super) fn scan_end(&self) -> ScanEnd {
        self.lock().scan_end.clone()
    }

    /// Ends the snapshot at this metadata: no effect comes any more.
    pub(super) fn end_at(&self, metadata: SnapshotMetadata) {
        self.lock().ended = Some(metadata);
        self.changed.notify_all();
    }

    /// Whether no effect comes any more.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Whether the scan of the tree has ended.
    pub(super) fn is_scanned(&self) -> bool {
        self.lock().scanned
    }

    /// The scan of the tree has ended.
    pub(crate) fn scanned(&self) {
        self.lock().scanned = true;
        self.changed.notify_all();
    }

    /// Marks the frames that have to be sent before the next scan.
    pub(crate) fn mark_due(&self) {
        let mut state = self.lock();
        // Scans and effects by turns. Effects 1 to 5 are written, the scan of a to f ends: due are 1 to 5. While they
        // are sent 6 to 9 come; they wait for the next scan, or a client that writes faster than the peer reads would
        // keep the scan from going on.
        state.due = state.written;
    }

    /// Appends a frame.
    pub(crate) fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
        frame.extend_from_slice(&crate::storage::layout::length(payload).to_le_bytes());
        frame.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        frame.extend_from_slice(payload);
        let length = frame.len() as u64;
        // Reserves the range under the lock and writes outside of it: there is one writer, so the range cannot be taken.
        let (at, grows) = {
            let mut state = self.lock();
            state.check()?;
            if state.written == state.read {
                // The ring is empty: starts at offset 0 again, so that a short backlog keeps the file short.
                (state.written, state.read, state.due) = (0, 0, 0);
            }
            if state.written - state.read + length > self.bound.bytes {
                return Err(Error::snapshot(format!(
                    "the peer takes it too slowly: more than {} bytes of changes would wait in the spool \
                     (snapshot.spool_mb)",
                    self.bound.bytes
                )));
            }
            let end = (state.written + length).min(self.bound.bytes);
            (state.written, end.saturating_sub(state.extent))
        };
        self.check_space(grows)?;
        for (from, to, offset) in self.ring_spans(at, frame.len()) {
            self.file
                .write_all_at(&frame[from..to], offset)
                .map_err(|error| Error::snapshot(format!("the spool cannot be written: {error}")))?;
        }
        let mut state = self.lock();
        state.written += length;
        debug_assert!(
            state.due <= state.written && state.read <= state.written,
            "nothing is read before it is written"
        );
        debug_assert!(state.written - state.read <= self.bound.bytes, "the ring is bounded");
        state.extent += grows;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Checks that the disk has room for this growth.
    fn check_space(&self, grows: u64) -> Result<(), Error> {
        let Some(space) = (self.bound.space)().filter(|space| grows > 0 && space.room() < grows) else { return Ok(()) };
        Err(Error::snapshot(format!(
            "the changes made meanwhile do not fit on the sender's disk: {}",
            free_space_text(space)
        )))
    }

    /// All frames are written.
    pub(crate) fn seal(&self) -> Result<(), Error> {
        let mut state = self.lock();
        state.check()?;
        state.sealed = true;
        self.changed.notify_all();
        Ok(())
    }

    /// Returns the next frame; before the end of the scan only those marked by [`Spool::mark_due`].
    pub(crate) fn next(&self) -> Result<Option<Vec<u8>>, Error> {
        let at = {
            let state = self.lock();
            state.check()?;
            // Before the end of the scan only effects up to the last mark are sent: otherwise a busy writer would starve the scan.
            let readable = if state.scanned || state.sealed { state.written } else { state.due };
            if state.read >= readable {
                return Ok(None);
            }
            state.read
        };
        let mut header = [0; FRAME_HEADER];
        self.read_at(at, &mut header)?;
        let (length, checksum) = header.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let length = number(length) as usize;
        // A damaged length is refused before it is allocated.
        if length as u64 > self.lock().written - at {
            return Err(Error::snapshot("the spool does not hold what was written to it"));
        }
        let mut payload = vec![0; length];
        self.read_at(at + FRAME_HEADER as u64, &mut payload)?;
        if crc32fast::hash(&payload) != number(checksum) {
            return Err(Error::snapshot("the spool does not hold what was written to it"));
        }
        // Only now: while the frame is read, `append` must not take its range of the ring.
        self.lock().read += (FRAME_HEADER + length) as u64;
        Ok(Some(payload))
    }

    /// Returns the metadata once all frames were read.
    pub(crate) fn end(&self) -> Result<Option<SnapshotMetadata>, Error> {
        let state = self.lock();
        state.check()?;
        // Three steps in this order: the scan has ended, the state machine has ended the snapshot (`ended`), the
        // spooler has written the last effect (`sealed`). After that the reader needs only what is in the file.
        Ok(state.ended.clone().filter(|_| state.sealed && state.read >= state.written))
    }

    /// Waits after the end of the scan until there is another frame, the end, or an error.
    pub(crate) fn wait_for_frame(&self) {
        self.wait(|state| state.read < state.written || state.sealed);
    }

    fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        for (from, to, offset) in self.ring_spans(at, bytes.len()) {
            self.file
                .read_exact_at(&mut bytes[from..to], offset)
                .map_err(|error| Error::snapshot(format!("the spool cannot be read: {error}")))?;
        }
        Ok(())
    }

    /// Maps a range of the stream to at most two ranges of the ring file.
    fn ring_spans(&self, at: u64, length: usize) -> impl Iterator<Item = (usize, usize, u64)> {
        let capacity = self.bound.bytes;
        // Capacity 100, position 190, length 20: 10 bytes at offset 90, then 10 bytes at offset 0.
        let offset = at % capacity;
        let first = usize::try_from(capacity - offset).unwrap_or(usize::MAX).min(length);
        [(0, first, offset), (first, length, 0)].into_iter().filter(|(from, to, _)| from < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(capacity: u64) -> Spool {
        let spool = Spool::new(tempfile::tempfile().unwrap(), capacity.into());
        spool.scan_to(ScanEnd::Tree);
        spool.scanned();
        spool
    }

    fn next(spool: &Spool) -> Vec<u8> {
        spool.next().unwrap().unwrap()
    }

    #[test]
    fn frames_go_round_the_ring_and_the_file_stays_bounded() {
        let spool = spool(150);
        spool.append(&[9; 20]).unwrap();
        for round in 0..50_u8 {
            // Never empty, so that it goes round.
            spool.append(&[round; 23]).unwrap();
            spool.append(&[round; 31]).unwrap();
            next(&spool);
            assert_eq!(next(&spool), [round; 23]);
        }
        assert_eq!(spool.file.metadata().unwrap().len(), 150);
    }

    #[test]
    fn an_empty_spool_starts_over() {
        let spool = spool(1 << 20);
        for round in 0..50_u8 {
            spool.append(&[round; 23]).unwrap();
            assert_eq!(next(&spool), [round; 23]);
        }
        assert!(spool.file.metadata().unwrap().len() < 50);
    }

    #[test]
    fn the_backlog_is_bounded() {
        let spool = spool(100);
        spool.append(&[1; 60]).unwrap();
        assert!(matches!(spool.append(&[1; 60]), Err(Error::Snapshot { .. })));
        next(&spool);
        spool.append(&[1; 60]).unwrap();
    }

    #[test]
    fn the_reserve_of_the_disk_is_left_alone() {
        let free_space_text = Arc::new(Mutex::new(1_000));
        let space = {
            let free_space_text = free_space_text.clone();
            move || Some(DiskSpace { free_bytes: *free_space_text.lock().unwrap(), reserve_bytes: 900 })
        };
        let spool = Spool::new(tempfile::tempfile().unwrap(), SpoolBound { bytes: 1 << 20, space: Box::new(space) });
        spool.scanned();
        spool.append(&[1; 60]).unwrap();
        *free_space_text.lock().unwrap() = 940;
        let error = spool.append(&[1; 60]).unwrap_err().to_string();
        assert!(error.contains("storage.reserve_mb"), "{error}");
        // What is in the file already takes no more of the disk.
        next(&spool);
        spool.append(&[1; 60]).unwrap();
    }

    #[test]
    fn effects_wait_for_the_running_scan() {
        let spool = Spool::new(tempfile::tempfile().unwrap(), 100.into());
        spool.append(&[1; 20]).unwrap();
        assert!(spool.next().unwrap().is_none());
        spool.mark_due();
        spool.append(&[2; 20]).unwrap();
        assert_eq!((next(&spool), spool.next().unwrap()), (vec![1; 20], None));
        spool.scanned();
        assert_eq!(next(&spool), [2; 20]);
    }

    #[test]
    fn a_changed_byte_in_the_file_is_found() {
        let spool = spool(100);
        spool.append(&[1; 60]).unwrap();
        spool.file.write_all_at(&[2], 30).unwrap();
        assert!(matches!(spool.next(), Err(Error::Snapshot { .. })));
    }
}
