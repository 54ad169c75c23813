//! The way of a copy from the machine to its reader: a queue of effects, and a ring of frames in a scratch file.
//!
//! Why: neither the loop nor the scan may wait for a slow peer, so what the peer has not taken lies in a file; and
//! neither file nor memory may grow without bound, so over its bound the copy ends.
//!
//! Laws: one maker, one reader, one machine; whichever goes away, the others get an error and nobody waits for ever.
//! Effects keep the order in which they were applied. What is read back is checked against its checksum.
//!
//! Not here: what makes the copy exact (`snapshot`), and what a frame holds.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use raft::eraftpb::SnapshotMetadata;

use super::{Batch, Error};

/// The most bytes of effects that wait for the maker of the copy, 256 MiB.
const EFFECT_BYTES: usize = 256 << 20;

/// The most effects that the maker takes at once, about; it leaves the rest for its next turn.
const FRAME_HEADER: usize = 8;

/// What the three share.
pub(super) struct Spool {
    file: File,
    capacity: u64,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    effects: VecDeque<Batch>,
    effect_bytes: usize,
    /// The machine has said what the copy is a copy of: no effect comes after this.
    ended: Option<SnapshotMetadata>,
    /// Bytes of frames ever written and ever read.
    written: u64,
    read: u64,
    /// All frames are written.
    sealed: bool,
    /// Why nothing comes of it.
    failed: Option<String>,
}

impl Progress {
    fn check(&self) -> Result<(), Error> {
        self.failed.as_ref().map_or(Ok(()), |detail| Err(Error::copy(detail.clone())))
    }
}

impl Spool {
    /// A spool in this file, which is never longer than `capacity` bytes.
    pub(super) fn new(file: File, capacity: u64) -> Self {
        Self { file, capacity: capacity.max(1), progress: Mutex::default(), changed: Condvar::new() }
    }

    /// A spool of which the first `written` bytes of this file are the frames.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn holding(file: File, written: u64) -> Self {
        let spool = Self::new(file, written);
        {
            let mut progress = spool.lock();
            (progress.written, progress.sealed, progress.ended) = (written, true, Some(SnapshotMetadata::default()));
        }
        spool
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, progress: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
        self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the copy for everybody, unless it is complete.
    pub(super) fn fail(&self, detail: impl Into<String>) {
        let mut progress = self.lock();
        if !progress.sealed {
            progress.failed.get_or_insert(detail.into());
            (progress.effects, progress.effect_bytes) = (VecDeque::new(), 0);
        }
        self.changed.notify_all();
    }

    /// The reader is gone, so nobody needs the rest.
    pub(super) fn leave(&self) {
        let mut progress = self.lock();
        progress.failed.get_or_insert("its reader is gone".into());
        self.changed.notify_all();
    }

    /// The effects that came in so far.
    pub(super) fn effects(&self) -> Result<VecDeque<Batch>, Error> {
        let mut progress = self.lock();
        progress.check()?;
        progress.effect_bytes = 0;
        Ok(std::mem::take(&mut progress.effects))
    }

    /// As [`Spool::effects`], but waits for some; None once the machine has ended the copy and all are taken.
    pub(super) fn wait_effects(&self) -> Result<Option<VecDeque<Batch>>, Error> {
        let mut progress = self.lock();
        loop {
            progress.check()?;
            if !progress.effects.is_empty() {
                progress.effect_bytes = 0;
                return Ok(Some(std::mem::take(&mut progress.effects)));
            }
            if progress.ended.is_some() {
                return Ok(None);
            }
            progress = self.wait(progress);
        }
    }

    /// Appends a frame.
    pub(super) fn append(&self, payload: &[u8]) -> Result<(), Error> {
        let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
        frame.extend_from_slice(&super::layout::length(payload).to_le_bytes());
        frame.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        frame.extend_from_slice(payload);
        let at = {
            let progress = self.lock();
            progress.check()?;
            if progress.written - progress.read + frame.len() as u64 > self.capacity {
                return Err(Error::copy(format!(
                    "the peer takes it too slowly: more than {} bytes would wait in the spool",
                    self.capacity
                )));
            }
            progress.written
        };
        for (from, to, offset) in self.spans(at, frame.len()) {
            self.file
                .write_all_at(&frame[from..to], offset)
                .map_err(|error| Error::copy(format!("the spool cannot be written: {error}")))?;
        }
        self.lock().written += frame.len() as u64;
        self.changed.notify_all();
        Ok(())
    }

    /// All frames are written.
    pub(super) fn seal(&self) -> Result<(), Error> {
        let mut progress = self.lock();
        progress.check()?;
        progress.sealed = true;
        self.changed.notify_all();
        Ok(())
    }

    /// The next frame, waiting for it; after the last one the metadata.
    pub(super) fn next(&self) -> Result<Result<Vec<u8>, SnapshotMetadata>, Error> {
        let at = {
            let mut progress = self.lock();
            loop {
                progress.check()?;
                if progress.written > progress.read {
                    break progress.read;
                }
                if let (true, Some(metadata)) = (progress.sealed, &progress.ended) {
                    return Ok(Err(metadata.clone()));
                }
                progress = self.wait(progress);
            }
        };
        let mut header = [0; FRAME_HEADER];
        self.fill(at, &mut header)?;
        let (length, checksum) = header.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let length = number(length) as usize;
        if length as u64 > self.lock().written - at {
            return Err(Error::copy("the spool does not hold what was written to it"));
        }
        let mut payload = vec![0; length];
        self.fill(at + FRAME_HEADER as u64, &mut payload)?;
        if crc32fast::hash(&payload) != number(checksum) {
            return Err(Error::copy("the spool does not hold what was written to it"));
        }
        self.lock().read += (FRAME_HEADER + length) as u64;
        Ok(Ok(payload))
    }

    fn fill(&self, at: u64, bytes: &mut [u8]) -> Result<(), Error> {
        for (from, to, offset) in self.spans(at, bytes.len()) {
            self.file
                .read_exact_at(&mut bytes[from..to], offset)
                .map_err(|error| Error::copy(format!("the spool cannot be read: {error}")))?;
        }
        Ok(())
    }

    /// Where bytes of the stream lie in the file: the file is a ring, so a run may have two parts.
    fn spans(&self, at: u64, length: usize) -> impl Iterator<Item = (usize, usize, u64)> {
        let offset = at % self.capacity;
        let first = usize::try_from(self.capacity - offset).unwrap_or(usize::MAX).min(length);
        [(0, first, offset), (first, length, 0)].into_iter().filter(|(from, to, _)| from < to)
    }
}

/// The machine's end: dropped without [`Line::end`], the copy is aborted.
pub(super) struct Line {
    spool: Arc<Spool>,
}

impl Line {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        Self { spool }
    }

    /// Hands over what was just written to the tree; never waits.
    pub(super) fn push(&self, effects: Batch) {
        let bytes = effects.changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + 64);
        let bytes: usize = bytes.sum();
        let mut progress = self.spool.lock();
        if progress.failed.is_some() {
            return;
        }
        if progress.effect_bytes + bytes > EFFECT_BYTES {
            drop(progress);
            self.spool.fail(format!("more than {EFFECT_BYTES} bytes of changes wait to be copied"));
            return;
        }
        progress.effect_bytes += bytes;
        progress.effects.push_back(effects);
        self.spool.changed.notify_all();
    }

    /// Nothing follows: the copy is one of this.
    pub(super) fn end(self, metadata: SnapshotMetadata) {
        self.spool.lock().ended = Some(metadata);
        self.spool.changed.notify_all();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.spool.lock().ended.is_none() {
            self.spool.fail("it was aborted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(capacity: u64) -> Spool {
        Spool::new(tempfile::tempfile().unwrap(), capacity)
    }

    #[test]
    fn frames_go_round_the_ring_and_the_file_stays_bounded() {
        let spool = spool(100);
        for round in 0..50_u8 {
            spool.append(&[round; 23]).unwrap();
            spool.append(&[round; 31]).unwrap();
            assert_eq!(spool.next().unwrap().unwrap(), [round; 23]);
            assert_eq!(spool.next().unwrap().unwrap(), [round; 31]);
        }
        assert!(spool.file.metadata().unwrap().len() <= 100);
    }

    #[test]
    fn what_is_not_taken_is_bounded() {
        let spool = spool(100);
        spool.append(&[1; 60]).unwrap();
        assert!(matches!(spool.append(&[1; 60]), Err(Error::Copy { .. })));
        spool.next().unwrap().unwrap();
        spool.append(&[1; 60]).unwrap();
    }

    #[test]
    fn a_changed_byte_in_the_file_is_found() {
        let spool = spool(100);
        spool.append(&[1; 60]).unwrap();
        spool.file.write_all_at(&[2], 30).unwrap();
        assert!(matches!(spool.next(), Err(Error::Copy { .. })));
    }

    #[test]
    fn too_many_effects_end_the_copy_and_not_the_machine() {
        let spool = Arc::new(spool(100));
        let line = Line::new(spool.clone());
        let half = Batch { changes: vec![(vec![1], Some(vec![0; EFFECT_BYTES / 2]))] };
        line.push(half.clone());
        line.push(half);
        assert!(matches!(spool.wait_effects(), Err(Error::Copy { .. })));
        assert!(matches!(spool.next(), Err(Error::Copy { .. })));
    }
}
