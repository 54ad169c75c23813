//! Snapshots of the state machine for another node: created here, read here, received there.
//!
//! Why: a follower that the log no longer reaches needs the state itself while writes go on. A sled iterator is no snapshot, so
//! a snapshot is one stream of two things: chunks of a scan, and the effects of everything applied since it began. The reader
//! drives the scan at the speed of the peer, so the tree is never stored a second time; only effects are spooled. A [`Spooler`] on a
//! thread of its own waits for the end of the scan and of the snapshot.
//!
//! ```text
//!   consensus loop:  apply -> memtable --flush--> tree, then EffectSender --> spool file (ring)
//!                                                  ^                              |
//!   reader thread:   SnapshotReader   scans the tree                and takes frames --> peer
//! ```
//!
//! The stream, applied in order with the last writer winning, is exactly the state at the index where it ends. Each part of the
//! scan has an end in key order, which the spool knows before the part is read. An effect is spooled after its change is in the
//! tree, and only if its key is in front of that end. Take any key. What changed before its part was reported is in the tree when
//! the part is read. What changes later is an effect, and is sent behind the part, in order, up to the last. An effect that the
//! scan has shown already is repeated, which is harmless. Of a key that is still to be scanned nothing was sent, so neither is its
//! removal needed.
//!
//! A rewrite may put another tree in place between two flushes. It holds the same, and each part of the scan is read from the tree
//! that is in use once its end is known.
//!
//! Why effects are left out: at a rate of writes near that of the stream, a stream with all of them sends the state many times over,
//! and one without those that the scan will find about two to three times.
//!
//! Example: `a = 1` is scanned, then `a = 2` and `b = 3` are flushed, then `b` is scanned. The stream is
//! `scan a=1, effect a=2, scan b=3`.
//!
//! Invariants: a received snapshot is verified as a whole: its values must add up to the totals in its state record. Until then it
//! is in a generation of its own and nothing names it. A snapshot that would take a disk below its reserve is aborted, at either
//! end.
//!
//! See also: `transport::snapshot_stream` (the wire), `consensus::snapshots` (when).

pub(crate) mod effects;
pub(crate) mod frames;
pub(crate) mod receiver;
pub(crate) mod send_spool;
pub(crate) mod sender;
