//! The frames of a snapshot: batches of changes as bytes.
//!
//! Invariants: a frame has at most 1 MiB and one change. A decoded frame holds only keys and chunk sizes that huskv writes.

use crate::model::{DiskSpace, mib};
use crate::storage::Batch;
use crate::storage::layout::{CHANGES_VERSION, CHUNK_BYTES, FieldReader, is_key_of, parse_chunk_key, push_prefixed};

/// The maximum bytes of a frame, 1 MiB and one change.
const FRAME_BYTES: usize = 1 << 20;

/// Encodes `changes` as frames for [`decode`].
pub(crate) fn frames<B: AsRef<[u8]>, E>(
    changes: impl IntoIterator<Item = (B, Option<B>)>,
    mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut frame = vec![CHANGES_VERSION];
    for (key, value) in changes {
        // Checked before a change is added, so a frame is at most the limit and one change.
        if frame.len() >= FRAME_BYTES {
            take(std::mem::replace(&mut frame, vec![CHANGES_VERSION]))?;
        }
        frame.push(u8::from(value.is_some()));
        push_prefixed(&mut frame, key.as_ref());
        push_prefixed(&mut frame, value.as_ref().map_or(&[][..], AsRef::as_ref));
    }
    if frame.len() > 1 { take(frame) } else { Ok(()) }
}

/// Decodes a frame; None if it is malformed.
pub(crate) fn decode(changes: &[u8]) -> Option<Batch> {
    let mut bytes = FieldReader(changes);
    if bytes.u8()? != CHANGES_VERSION {
        return None;
    }
    let mut batch = Batch::default();
    while !bytes.is_empty() {
        let tag = bytes.u8()?;
        let (key, value) = (bytes.prefixed()?, bytes.prefixed()?);
        // A peer's bytes become keys of this node's tree, so a key that huskv does not write, or one too long, ends the
        // snapshot here.
        parse_chunk_key(key).filter(|(kind, key, _)| is_key_of(*kind, key))?;
        let value = match tag {
            // The tag tells a removal from an empty value.
            0 if value.is_empty() => None,
            1 if value.len() <= CHUNK_BYTES => Some(value.to_vec()),
            _ => return None,
        };
        batch.changes.push((key.to_vec(), value));
    }
    Some(batch)
}

/// Describes free space and reserve of a disk.
pub(crate) fn free_space_text(space: DiskSpace) -> String {
    let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
    format!("{free} are free there, and {reserve} stay free (storage.reserve_mb)")
}
